"""Metrics of a finished step from its summary and files, and of a training from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from omnicore.lineage.step_record import read_step
from omnicore.storage.files import read_json, read_jsonl
from omnicore.telemetry.metrics import ALL, METRICS, Metrics

# Counts in a step's summary that are queries, and those that are replies of a model.
QUERIES, SAMPLES = {"queries", "prompts"}, {"asked", "draws", "samples", "rollouts"}
# Fields of `curves.jsonl` and the metric that shows their last value.
CURVES = {
    "step": "omni_training_steps",
    "loss": "omni_training_loss",
    "grad_norm": "omni_training_gradient_norm",
    "reward": "omni_reward",
    "reward_std": "omni_reward_spread",
    "correct": "omni_rollouts_correct_ratio",
    "no_answer": "omni_rollouts_no_answer_ratio",
    "truncated": "omni_rollouts_truncated_ratio",
    "length": "omni_rollouts_length_tokens",
    "all_right": "omni_groups_all_right_ratio",
    "all_wrong": "omni_groups_all_wrong_ratio",
    "entropy": "omni_entropy_nats",
    "kl": "omni_kl_nats",
    "logprob_gap": "omni_logprob_gap_nats",
}


def stage_label(step: str, section: str, config: BaseModel, inputs: Mapping[str, Path]) -> str:
    """Return the label `stage` of a step.

    It is the section of the recipe; for an evaluation that of the evaluated model, or `base` for
    the recipe's own model, because the evaluations of a run share one section and would be one
    series. For the same reason a control arm of RLVR has the name of its control appended.
    """
    if step == "evaluate":
        if "model" not in inputs:
            return "base"
        record = read_step(inputs["model"])
        section, control = record["section"], record["config"].get("control", "none")
    else:
        control = getattr(config, "control", "none")
    return section if control == "none" else f"{section}_{control}"


def step_metrics(
    step: str, stage: str, seconds: float, summary: Mapping[str, Any], output: Path
) -> Metrics:
    """Collect the metrics of a finished step.

    Args:
        step: Name of the step.
        stage: Label, see `stage_label`.
        seconds: Wall time of the step.
        summary: Summary of the step.
        output: Its output directory; files with a fixed format are read if they exist.
    """
    metrics, labels = Metrics(), {"step": step, "stage": stage}
    metrics.set("omni_step_succeeded", 1, **labels)
    metrics.set("omni_step_duration_seconds", seconds, **labels)
    curve: list[dict[str, Any]] = []
    if (output / "curves.jsonl").is_file():
        curve = read_jsonl(output / "curves.jsonl", dict)
    _set_summary(metrics, summary, curve, seconds, labels)
    if (output / "scores.json").is_file():
        _set_scores(metrics, read_json(output / "scores.json"), labels)
    if (output / "audit.json").is_file():
        _set_audit(metrics, read_json(output / "audit.json"), labels)
    if (output / "decision.json").is_file():
        difference = read_json(output / "decision.json")["difference"]
        for bound in ("value", "low", "high"):
            metrics.set("omni_promotion_difference_ratio", difference[bound], bound=bound, **labels)
    if curve:
        set_training_metrics(metrics, curve[-1], labels)
    return metrics


def set_training_metrics(
    metrics: Metrics, record: Mapping[str, Any], labels: Mapping[str, str]
) -> None:
    """Set the metrics of a training from a record of `curves.jsonl`, over all and by modality."""
    records = {ALL: record} | record.get("by_modality", {})
    for modality, values in records.items():
        for field, name in CURVES.items():
            if values.get(field) is None:
                continue
            if "modality" in METRICS[name].labels:
                metrics.set(name, values[field], **labels, modality=modality)
            else:
                metrics.set(name, values[field], **labels)


def _set_summary(
    metrics: Metrics,
    summary: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    seconds: float,
    labels: Mapping[str, str],
) -> None:
    samples = _first(summary, SAMPLES) or sum(row.get("samples", 0) for row in curve)
    counts = {
        "queries": _first(summary, QUERIES),
        "samples": samples,
        "tokens": sum(row.get("tokens", 0) for row in curve),
    }
    for name, count in counts.items():
        if count:
            metrics.set(f"omni_step_{name}", count, **labels)
            metrics.set(f"omni_step_{name}_per_second", count / max(seconds, 1e-9), **labels)
    if "data_seconds" in summary:
        metrics.set("omni_training_data_seconds", summary["data_seconds"], **labels)
    if "errors" in summary and samples:
        # `draws` of a probe are those that were received, `asked` of an evaluation are all.
        missing = summary["errors"] if "draws" in summary else 0
        metrics.set("omni_engine_error_ratio", summary["errors"] / (samples + missing), **labels)
    for kind in ("image", "audio", "video"):
        if f"canary_{kind}" in summary:
            metrics.set("omni_canary_passed", 1, kind=kind, **labels)
    if isinstance(summary.get("canary_agreement"), float):
        metrics.set("omni_canary_agreement_ratio", summary["canary_agreement"], **labels)


def _first(summary: Mapping[str, Any], names: set[str]) -> int:
    return next((summary[name] for name in names & summary.keys()), 0)


def _set_scores(metrics: Metrics, scores: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    for view in ("raw", "clean"):
        accuracy = {ALL: scores[view]["macro"]}
        for benchmark, by_view in scores["by_benchmark"].items():
            if by_view[view]:
                accuracy[benchmark] = by_view[view]
        for benchmark, estimate in accuracy.items():
            metrics.set(
                "omni_accuracy_ratio", estimate["value"], benchmark=benchmark, view=view, **labels
            )
        metrics.set("omni_no_answer_ratio", scores["no_answer"][view], view=view, **labels)
        counts = scores["counts"][view]
        replies = max(1, counts["queries"] - counts["errors"])
        metrics.set("omni_truncated_ratio", counts["truncated"] / replies, view=view, **labels)


def _set_audit(metrics: Metrics, audit: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    for benchmark, views in audit["leakage"].items():
        for view, leakage in views.items():
            solved = leakage["solved"]["value"]
            metrics.set("omni_leakage_ratio", solved, benchmark=benchmark, view=view, **labels)
    counts_by_view: dict[str, list[Mapping[str, int]]] = {}
    for views in audit["replies"].values():
        for view, counts in views.items():
            counts_by_view.setdefault(view, []).append(counts)
    for view, all_counts in counts_by_view.items():
        replies = max(1, sum(counts["draws"] - counts["failed"] for counts in all_counts))
        truncated = sum(counts["truncated"] for counts in all_counts)
        no_answer = truncated + sum(counts["no_answer"] for counts in all_counts)
        metrics.set("omni_truncated_ratio", truncated / replies, view=view, **labels)
        metrics.set("omni_no_answer_ratio", no_answer / replies, view=view, **labels)
