"""What a step tells while it works and when it is done: progress for people, Prometheus figures for machines.

Every metric name is in `METRICS`. Labels are bounded: step, stage (the recipe's section), benchmark, view. No run ids, since
each would be a new series for ever.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from omnicore.journal import read_json, read_jsonl, replacing

PROGRESS_FILE = "OMNI_PROGRESS"
INTERVAL = 0.2  # seconds between two writes of the progress file
LINE, LINE_INTERVAL = "omni-progress ", 5.0  # start of a progress line in a log, and seconds between two


class Metric(NamedTuple):
    help: str
    labels: tuple[str, ...] = ("step", "stage")


METRICS = {
    "omni_step_duration_seconds": Metric("Wall time of the step's work; after a kill, of the part after it."),
    "omni_step_queries": Metric("Queries that the step worked on."),
    "omni_step_samples": Metric("Replies that the step asked a model for."),
    "omni_step_samples_per_second": Metric("Replies a second of the step's wall time."),
    "omni_accuracy_ratio": Metric("Right answers, 0 to 1; benchmark `all`: macro mean.", ("step", "stage", "benchmark", "view")),
    "omni_no_answer_ratio": Metric("Replies without a single option, 0 to 1.", ("step", "stage", "view")),
    "omni_leakage_ratio": Metric("Right answers with a modality withheld, 0 to 1.", ("step", "stage", "benchmark", "view")),
    "omni_canary_passed": Metric("1: who answered was seen to perceive this kind of media.", ("step", "stage", "kind")),
    "omni_canary_agreement_ratio": Metric("Answers that are those stored with the checkpoint, 0 to 1."),
    "omni_training_steps": Metric("Optimiser steps done."),
    "omni_training_loss": Metric("Loss at the last logged step; no unit."),
    "omni_training_data_seconds": Metric("Seconds in which a training waited for its rows; after a kill, of the part after it."),
    "omni_reward_ratio": Metric("Mean reward at the last logged step, 0 to 1."),
    "omni_groups_all_right_ratio": Metric("RLVR groups all right at the last logged step, 0 to 1: they teach nothing."),
    "omni_groups_all_wrong_ratio": Metric("RLVR groups all wrong at the last logged step, 0 to 1: they teach nothing."),
}
# Counts in a step's summary that are queries, and those that are replies of a model.
QUERIES, SAMPLES = {"queries", "prompts"}, {"asked", "draws", "samples", "rollouts"}
# Fields of `curves.jsonl` and the metric that shows their last value.
CURVES = {
    "step": "omni_training_steps",
    "loss": "omni_training_loss",
    "reward": "omni_reward_ratio",
    "all_right": "omni_groups_all_right_ratio",
    "all_wrong": "omni_groups_all_wrong_ratio",
}


class Metrics:
    """Gauges of one step. A name or label outside the table is a bug and raises ValueError."""

    def __init__(self) -> None:
        # Imported here: a cached step writes no metrics and should not pay for the import.
        from prometheus_client import CollectorRegistry, Gauge

        self._registry = CollectorRegistry()
        self._gauges = {name: Gauge(name, metric.help, metric.labels, registry=self._registry) for name, metric in METRICS.items()}

    def set(self, name: str, value: float, **labels: str) -> None:
        if name not in METRICS:
            raise ValueError(f"no metric {name!r} in telemetry.METRICS")
        if set(labels) != set(METRICS[name].labels):
            raise ValueError(f"{name} has labels {METRICS[name].labels}, not {tuple(labels)}")
        self._gauges[name].labels(**labels).set(value)

    def write(self, path: Path) -> None:
        """Writes the values in Prometheus' text format, whole or not at all."""
        from prometheus_client import generate_latest

        with replacing(path) as file:
            file.write(generate_latest(self._registry))


def snapshot(step: str, stage: str, seconds: float, summary: Mapping[str, Any], output: Path) -> Metrics:
    """The figures of a finished step: from its summary and from those of its files whose format is fixed (docs/architecture.md)."""
    metrics, labels = Metrics(), {"step": step, "stage": stage}
    metrics.set("omni_step_duration_seconds", seconds, **labels)
    for name in QUERIES & summary.keys():
        metrics.set("omni_step_queries", summary[name], **labels)
    if "data_seconds" in summary:
        metrics.set("omni_training_data_seconds", summary["data_seconds"], **labels)
    for name in SAMPLES & summary.keys():
        metrics.set("omni_step_samples", summary[name], **labels)
        metrics.set("omni_step_samples_per_second", summary[name] / max(seconds, 1e-9), **labels)
    for kind in {f"canary_{kind}" for kind in ("image", "audio", "video")} & summary.keys():
        metrics.set("omni_canary_passed", 1, kind=kind.removeprefix("canary_"), **labels)
    if isinstance(summary.get("canary_agreement"), float):
        metrics.set("omni_canary_agreement_ratio", summary["canary_agreement"], **labels)
    if (output / "scores.json").is_file():
        scores = read_json(output / "scores.json")
        for view in ("raw", "clean"):
            metrics.set("omni_accuracy_ratio", scores[view]["macro"]["value"], benchmark="all", view=view, **labels)
            metrics.set("omni_no_answer_ratio", scores["no_answer"][view], view=view, **labels)
            for benchmark, by_view in scores["by_benchmark"].items():
                if by_view[view]:
                    metrics.set("omni_accuracy_ratio", by_view[view]["value"], benchmark=benchmark, view=view, **labels)
    if (output / "audit.json").is_file():
        for benchmark, views in read_json(output / "audit.json")["leakage"].items():
            for view, leak in views.items():
                metrics.set("omni_leakage_ratio", leak["solved"]["value"], benchmark=benchmark, view=view, **labels)
    if (output / "curves.jsonl").is_file() and (rows := read_jsonl(output / "curves.jsonl", dict)):
        for field, name in CURVES.items():
            if rows[-1].get(field) is not None:
                metrics.set(name, rows[-1][field], **labels)
    return metrics


class Progress:
    """How far a piece of work is; cheap enough to advance for every batch."""

    def __init__(self, total: int, label: str, show: Callable[[Progress], None]) -> None:
        self.total, self.label, self.done, self._show = total, label, 0, show
        self.facts: dict[str, float | str] = {}

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """`n` more of `total` are done; `facts` are the latest figures to show, as in loss=0.31."""
        self.done += n
        self.facts.update(facts)
        self._show(self)


def told(facts: Mapping[str, Any]) -> str:
    """Figures in one line: `queries 1600  raw 0.62`."""
    return "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items())


@contextmanager
def track(total: int, label: str) -> Iterator[Progress]:
    """Progress of `total` pieces of work, shown as a bar on a terminal, or in the file that OMNI_PROGRESS names
    ({"label", "done", "total", "facts"}, for a pipeline's live table; `-`: as lines of the log, for who launched this as a job),
    or else by one line at the end."""
    file = os.environ.get(PROGRESS_FILE)
    bar = not file and sys.stderr.isatty()
    display = nullcontext(_writer(file) if file else lambda _: None) if not bar else _bar(total, label)
    with display as show:
        progress = Progress(total, label, show)
        show(progress)
        yield progress
    if not bar:
        print(f"{label}: {progress.done} of {total}  {told(progress.facts)}".rstrip(), file=sys.stderr, flush=True)


def _writer(file: str) -> Callable[[Progress], None]:
    """Writes at most five times a second, to a log every five seconds, and always the end."""
    interval = LINE_INTERVAL if file == "-" else INTERVAL
    written = -interval
    path = Path(file)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")

    def show(progress: Progress) -> None:
        nonlocal written
        if progress.done < progress.total and time.monotonic() - written < interval:
            return
        written = time.monotonic()
        text = to_json({name: getattr(progress, name) for name in ("label", "done", "total", "facts")}, inf_nan_mode="null")
        if file == "-":
            if os.environ.get("RANK", "0") == "0":  # one voice for all processes of a training
                print(LINE + text.decode(), file=sys.stderr, flush=True)
            return
        with suppress(OSError):  # a courtesy: no work fails for it
            temporary.write_bytes(text)
            temporary.replace(path)

    return show


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    label_and_bar = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    columns = *label_and_bar, TimeRemainingColumn(), TextColumn("{task.fields[told]}")
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, told="")
        yield lambda progress: bars.update(task, completed=progress.done, told=told(progress.facts))
