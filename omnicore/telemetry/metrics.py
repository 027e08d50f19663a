"""Every metric of the system by name, with its unit, labels and meaning, and the values of a step.

Labels are bounded: step; stage (the recipe's section, of an evaluation the one whose model is
asked); benchmark and modality (`all`: over all of them); view; kind of media; bound (value, low,
high of an interval). None names a run: each would be a new series for ever. What Prometheus scrapes
from a pod it marks with the pod's own run, and forgets with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple

from omnicore.storage.files import atomic_writer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

ALL = "all"
STEP = ("step", "stage")
BENCHMARK, VIEW, KIND, MODALITY = (
    (*STEP, "benchmark", "view"),
    (*STEP, "view"),
    (*STEP, "kind"),
    (*STEP, "modality"),
)
BOUND = (*STEP, "bound")


class Metric(NamedTuple):
    help: str
    labels: tuple[str, ...] = STEP
    kind: Literal["gauge", "counter", "histogram"] = "gauge"


METRICS = {
    # Of every step.
    "omni_step_succeeded": Metric("1: the step's last work ended well; 0: in an error."),
    "omni_step_duration_seconds": Metric(
        "Wall time of the step's work; after a kill, of the part after it."
    ),
    "omni_step_progress_ratio": Metric(
        "How much of its present piece of work the step has done, 0 to 1."
    ),
    "omni_step_queries": Metric("Queries that the step worked on."),
    "omni_step_samples": Metric(
        "Replies that the step asked a model for, or rows and rollouts that it trained on."
    ),
    "omni_step_tokens": Metric("Tokens that the step trained on."),
    "omni_step_queries_per_second": Metric("Queries a second of the step's wall time."),
    "omni_step_samples_per_second": Metric(
        "Replies, rows or rollouts a second of the step's wall time."
    ),
    "omni_step_tokens_per_second": Metric("Tokens a second of the step's wall time."),
    "omni_samples_total": Metric(
        "Replies that came, or rows and rollouts trained on, since the process began.",
        kind="counter",
    ),
    "omni_tokens_total": Metric("Tokens trained on since the process began.", kind="counter"),
    # Of what a model answers.
    "omni_accuracy_ratio": Metric("Right answers, 0 to 1; benchmark `all`: macro mean.", BENCHMARK),
    "omni_leakage_ratio": Metric("Right answers with a modality withheld, 0 to 1.", BENCHMARK),
    "omni_no_answer_ratio": Metric(
        "Replies without a single option, 0 to 1; a cut reply is one.", VIEW
    ),
    "omni_truncated_ratio": Metric("Replies that were cut by their length limit, 0 to 1.", VIEW),
    "omni_engine_error_ratio": Metric(
        "Requests that failed for good, of those that were asked, 0 to 1."
    ),
    "omni_engine_retries_total": Metric(
        "Requests that were sent again after a failure.", kind="counter"
    ),
    "omni_canary_passed": Metric(
        "1: who answers was seen to perceive this kind of media; 0: it was not.", KIND
    ),
    "omni_canary_agreement_ratio": Metric(
        "Answers that are those stored with the checkpoint, 0 to 1."
    ),
    "omni_promotion_difference_ratio": Metric(
        "Right answers of the candidate less the champion's, clean view, -1 to 1.", BOUND
    ),
    # Of a training, at its last logged step.
    "omni_training_steps": Metric("Optimiser steps done."),
    "omni_training_active": Metric(
        "1: optimizer steps are being taken; 0: the training loop has ended, and its result is"
        " saved."
    ),
    "omni_training_step_timestamp_seconds": Metric(
        "When the last optimizer step ended, or the training began; Unix time."
    ),
    "omni_training_step_duration_seconds": Metric(
        "Wall time of the last optimiser step, its rollouts and checkpoint included."
    ),
    "omni_training_loss": Metric(
        "Loss; no unit. Not a number: the training has ended in an error."
    ),
    "omni_training_gradient_norm": Metric("Norm of the gradient before it is clipped; no unit."),
    "omni_training_data_seconds": Metric(
        "Time in which the training waited for its rows; after a kill, of the part after it."
    ),
    "omni_checkpoint_saved_timestamp_seconds": Metric(
        "When the newest checkpoint was whole, or the training began; Unix time."
    ),
    # Of all rollouts of the last logged step, before any group was dropped.
    "omni_reward": Metric(
        "Mean reward: worth of the answer, 0 to 1, and rlvr.format_reward_weight for its form; no unit.",
        MODALITY,
    ),
    "omni_reward_spread": Metric(
        "Standard deviation of the reward over rollouts; no unit.", MODALITY
    ),
    "omni_rollouts_correct_ratio": Metric("Rollouts with the right answer, 0 to 1.", MODALITY),
    "omni_rollouts_no_answer_ratio": Metric("Rollouts without a single option, 0 to 1.", MODALITY),
    "omni_rollouts_truncated_ratio": Metric(
        "Rollouts that were cut by their length limit, 0 to 1.", MODALITY
    ),
    "omni_rollouts_length_tokens": Metric("Mean length of a rollout.", MODALITY),
    "omni_groups_all_right_ratio": Metric(
        "Groups of rollouts that are all right, 0 to 1: they teach nothing.", MODALITY
    ),
    "omni_groups_all_wrong_ratio": Metric(
        "Groups of rollouts that are all wrong, 0 to 1: they teach nothing.", MODALITY
    ),
    "omni_entropy_nats": Metric("Mean entropy of the policy at a token of a rollout.", MODALITY),
    "omni_kl_nats": Metric(
        "Mean KL divergence from the start model at a token of a rollout; with rlvr.beta alone.",
        MODALITY,
    ),
    "omni_logprob_gap_nats": Metric(
        "Mean distance of log-probs between rollout engine and policy at a token.", MODALITY
    ),
}

# Of `omnicore serve`, which is no step: Prometheus' own client holds their values, in serving/server.py.
SERVE_METRICS = {
    "omni_serve_requests_total": Metric("Chat completions by HTTP status.", ("code",), "counter"),
    "omni_serve_request_seconds": Metric(
        "From a request's arrival to its last byte.", (), "histogram"
    ),
    "omni_serve_tokens_total": Metric(
        "Tokens read (prompt) and written (completion).", ("kind",), "counter"
    ),
    "omni_serve_batch_size": Metric("Requests that were generated together.", (), "histogram"),
    "omni_serve_requests_in_flight": Metric(
        "Requests on their way: being read, waiting, or being answered.", ()
    ),
    "omni_serve_requests_waiting": Metric("Requests that wait for the model.", ()),
    "omni_serve_canary_passed": Metric(
        "1: the model was seen to perceive this kind of media.", ("kind",)
    ),
}


class Metrics:
    """Values of the metrics.

    A name or label outside the table is a bug and raises ValueError. Threads may share it.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._lock = Lock()

    def set(self, name: str, value: float, **labels: str) -> None:
        series = _series(name, labels)
        with self._lock:
            self._values.setdefault(name, {})[series] = value

    def add(self, name: str, value: float, **labels: str) -> None:
        series = _series(name, labels)
        with self._lock:
            held = self._values.setdefault(name, {})
            held[series] = held.get(series, 0.0) + value

    def collect(self) -> Iterator[Family]:
        """The values as prometheus_client takes them from a collector."""
        # Imported here: a cached step writes no metrics and should not pay for the import.
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            held = {name: dict(values) for name, values in self._values.items()}
        for name in sorted(held):
            metric = METRICS[name]
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for series, value in held[name].items():
                family.add_metric(series, value)
            yield family

    def registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def read(self, path: Path) -> None:
        """Takes over the gauges of a file that `write` has written."""
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(path.read_text()):
            for sample in family.samples:
                self.set(sample.name, sample.value, **sample.labels)

    def write(self, path: Path) -> None:
        """Writes the values in Prometheus' text format, whole or not at all."""
        from prometheus_client import generate_latest

        with atomic_writer(path) as file:
            file.write(generate_latest(self.registry()))


def _series(name: str, labels: dict[str, str]) -> tuple[str, ...]:
    if name not in METRICS:
        raise ValueError(f"no metric {name!r} in telemetry.METRICS")
    if set(labels) != set(METRICS[name].labels):
        raise ValueError(f"{name} has labels {METRICS[name].labels}, not {tuple(labels)}")
    return tuple(labels[label] for label in METRICS[name].labels)
