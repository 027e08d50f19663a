"""Every metric of the system by name, with its unit, labels and meaning, and the values of a step.

Labels are bounded: step; stage (the recipe's section, for an evaluation that of the evaluated
model); benchmark and modality (`all`: over all of them); view; kind of media; bound (value, low or
high of an interval). No label names a run, because every run would add series that are never
removed. Prometheus adds the run to what it scrapes from a pod, and forgets it with the pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from omnicore.storage.files import atomic_writer

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

    T = TypeVar("T", Counter, Gauge)

ALL = "all"
STEP = ("step", "stage")
BENCHMARK = (*STEP, "benchmark", "view")
VIEW = (*STEP, "view")
KIND = (*STEP, "kind")
MODALITY = (*STEP, "modality")
BOUND = (*STEP, "bound")


class Metric(NamedTuple):
    """Definition of a metric."""

    help: str
    labels: tuple[str, ...] = STEP
    kind: Literal["gauge", "counter", "histogram"] = "gauge"


METRICS = {
    # Every step.
    "omni_step_succeeded": Metric("1 if the last execution of the step succeeded, 0 if it failed."),
    "omni_step_duration_seconds": Metric(
        "Wall time of the last execution; of a resumed step, since it was resumed."
    ),
    "omni_step_progress_ratio": Metric("Completed share of the current part of the step, 0 to 1."),
    "omni_step_queries": Metric("Queries that the step processed."),
    "omni_step_samples": Metric(
        "Replies that the step requested, or rows and rollouts that it trained on."
    ),
    "omni_step_tokens": Metric("Tokens that the step trained on."),
    "omni_step_queries_per_second": Metric("Queries per second of wall time."),
    "omni_step_samples_per_second": Metric("Replies, rows or rollouts per second of wall time."),
    "omni_step_tokens_per_second": Metric("Tokens per second of wall time."),
    "omni_samples_total": Metric(
        "Replies received, or rows and rollouts trained on, since the process started.",
        kind="counter",
    ),
    "omni_tokens_total": Metric("Tokens trained on since the process started.", kind="counter"),
    # Replies of a model.
    "omni_accuracy_ratio": Metric("Accuracy, 0 to 1; benchmark `all`: macro mean.", BENCHMARK),
    "omni_leakage_ratio": Metric("Accuracy with a modality withheld, 0 to 1.", BENCHMARK),
    "omni_no_answer_ratio": Metric(
        "Share of replies without exactly one option, 0 to 1; truncated replies included.", VIEW
    ),
    "omni_truncated_ratio": Metric("Share of replies truncated by the length limit, 0 to 1.", VIEW),
    "omni_engine_error_ratio": Metric("Share of requests that failed permanently, 0 to 1."),
    "omni_engine_retries_total": Metric("Retried requests.", kind="counter"),
    "omni_canary_passed": Metric(
        "1 if the model passed the canary for this media kind, 0 if it failed.", KIND
    ),
    "omni_canary_agreement_ratio": Metric(
        "Share of canary replies that equal those stored with the checkpoint, 0 to 1."
    ),
    "omni_promotion_difference_ratio": Metric(
        "Accuracy of the candidate minus that of the champion, clean view, -1 to 1.", BOUND
    ),
    # A training, at its last logged step.
    "omni_training_steps": Metric("Completed optimizer steps."),
    "omni_training_active": Metric(
        "1 while the training loop runs, 0 after it ended and the result is saved."
    ),
    "omni_training_step_timestamp_seconds": Metric(
        "Unix time at which the last optimizer step ended, or the training started."
    ),
    "omni_training_step_duration_seconds": Metric(
        "Wall time of the last optimizer step, with its rollouts and checkpoint."
    ),
    "omni_training_loss": Metric("Loss; no unit. NaN: the training failed."),
    "omni_training_gradient_norm": Metric("Norm of the gradient before clipping; no unit."),
    "omni_training_data_seconds": Metric(
        "Time spent waiting for rows; of a resumed training, since it was resumed."
    ),
    "omni_checkpoint_saved_timestamp_seconds": Metric(
        "Unix time at which the newest checkpoint was complete, or the training started."
    ),
    # All rollouts of the last logged step, before groups are filtered.
    "omni_reward": Metric(
        "Mean reward: score of the answer, 0 to 1, plus rlvr.format_reward_weight times the format"
        " reward; no unit.",
        MODALITY,
    ),
    "omni_reward_spread": Metric("Standard deviation of the reward; no unit.", MODALITY),
    "omni_rollouts_correct_ratio": Metric("Share of rollouts that are correct, 0 to 1.", MODALITY),
    "omni_rollouts_no_answer_ratio": Metric(
        "Share of rollouts without exactly one option, 0 to 1.", MODALITY
    ),
    "omni_rollouts_truncated_ratio": Metric(
        "Share of rollouts truncated by the length limit, 0 to 1.", MODALITY
    ),
    "omni_rollouts_length_tokens": Metric("Mean length of a rollout.", MODALITY),
    "omni_groups_all_right_ratio": Metric(
        "Share of groups whose rollouts are all correct, 0 to 1; their advantage is zero.", MODALITY
    ),
    "omni_groups_all_wrong_ratio": Metric(
        "Share of groups whose rollouts are all wrong, 0 to 1; their advantage is zero.", MODALITY
    ),
    "omni_entropy_nats": Metric("Mean entropy of the policy per token of a rollout.", MODALITY),
    "omni_kl_nats": Metric(
        "Mean KL divergence from the start model per token of a rollout; only with rlvr.beta > 0.",
        MODALITY,
    ),
    "omni_logprob_gap_nats": Metric(
        "Mean absolute difference of log-probabilities between rollout engine and policy per"
        " token.",
        MODALITY,
    ),
}

# `omnicore serve`, which is not a step; serving/server.py holds the values.
SERVE_METRICS = {
    "omni_serve_requests_total": Metric("Chat completions by HTTP status.", ("code",), "counter"),
    "omni_serve_request_seconds": Metric(
        "Time from the arrival of a request to the last byte of its reply.", (), "histogram"
    ),
    "omni_serve_tokens_total": Metric(
        "Tokens read (prompt) and generated (completion).", ("kind",), "counter"
    ),
    "omni_serve_batch_size": Metric("Requests generated together.", (), "histogram"),
    "omni_serve_requests_in_flight": Metric("In-flight requests, waiting ones included.", ()),
    "omni_serve_requests_waiting": Metric("Requests that wait for the model.", ()),
    "omni_serve_canary_passed": Metric(
        "1 if the model passed the canary for this media kind.", ("kind",)
    ),
}


class Metrics:
    """Gauges and counters of a step, each created from its definition in METRICS at first use.

    Threads may share it. A name outside the table raises KeyError, other labels ValueError.
    """

    def __init__(self) -> None:
        # Imported here: a cached step has no metrics and should not pay for the import.
        from prometheus_client import CollectorRegistry, disable_created_metrics

        # No series `omni_samples_created` beside `omni_samples_total`.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        self._lock = Lock()

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        from prometheus_client import Gauge

        self._series(Gauge, name, labels).set(value)

    def increment(self, name: str, amount: float, **labels: str) -> None:
        """Increment a counter."""
        from prometheus_client import Counter

        self._series(Counter, name, labels).inc(amount)

    def _series(self, kind: type[T], name: str, labels: Mapping[str, str]) -> T:
        metric = METRICS[name]
        with self._lock:
            if name not in self._metrics:
                self._metrics[name] = kind(name, metric.help, metric.labels, registry=self.registry)
        series: T = self._metrics[name].labels(**labels)
        return series

    def read(self, path: Path) -> None:
        """Set the gauges of a file that `write` has written."""
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(path.read_text()):
            for sample in family.samples:
                self.set(sample.name, sample.value, **sample.labels)

    def write(self, path: Path) -> None:
        """Write all values in Prometheus' text format, atomically."""
        from prometheus_client import generate_latest

        with atomic_writer(path) as file:
            file.write(generate_latest(self.registry))
