"""Figures out of what a step writes: the summary and files of a finished one, the records that a
training logs."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The label `stage`.

    An evaluation has that of the model which it asks, `base` for the recipe's own: the four of a
    run, which share their section, would be one series. A control arm of RLVR has its control's
    name behind it for the same reason.
    """
    if step == "evaluate":
        if "model" not in inputs:
            return "base"
        made = read_step(inputs["model"])
        section, control = made["section"], made["config"].get("control", "none")
    else:
        control = getattr(config, "control", "none")
    return section if control == "none" else f"{section}_{control}"


def step_metrics(
    step: str, stage: str, seconds: float, summary: Mapping[str, Any], output: Path
) -> Metrics:
    """The figures of a finished step: from its summary and from those of its files whose format is
    fixed (docs/architecture.md)."""
    metrics, labels = Metrics(), {"step": step, "stage": stage}
    metrics.set("omni_step_succeeded", 1, **labels)
    metrics.set("omni_step_duration_seconds", seconds, **labels)
    curve = read_jsonl(output / "curves.jsonl", dict) if (output / "curves.jsonl").is_file() else []
    counted = {
        "queries": next((summary[name] for name in QUERIES & summary.keys()), 0),
        "samples": (
            next((summary[name] for name in SAMPLES & summary.keys()), 0)
            or sum(row.get("samples", 0) for row in curve)
        ),
        "tokens": sum(row.get("tokens", 0) for row in curve),
    }
    for name, count in counted.items():
        if count:
            metrics.set(f"omni_step_{name}", count, **labels)
            metrics.set(f"omni_step_{name}_per_second", count / max(seconds, 1e-9), **labels)
    if "data_seconds" in summary:
        metrics.set("omni_training_data_seconds", summary["data_seconds"], **labels)
    if "errors" in summary and counted["samples"]:
        metrics.set(
            "omni_engine_error_ratio",
            summary["errors"] / (counted["samples"] + _left_out(summary)),
            **labels,
        )
    for kind in {f"canary_{kind}" for kind in ("image", "audio", "video")} & summary.keys():
        metrics.set("omni_canary_passed", 1, kind=kind.removeprefix("canary_"), **labels)
    if isinstance(summary.get("canary_agreement"), float):
        metrics.set("omni_canary_agreement_ratio", summary["canary_agreement"], **labels)
    if (output / "scores.json").is_file():
        _scores(metrics, read_json(output / "scores.json"), labels)
    if (output / "audit.json").is_file():
        _audit(metrics, read_json(output / "audit.json"), labels)
    if (output / "decision.json").is_file():
        difference = read_json(output / "decision.json")["difference"]
        for bound in ("value", "low", "high"):
            metrics.set("omni_promotion_difference_ratio", difference[bound], bound=bound, **labels)
    if curve:
        set_training_metrics(metrics, curve[-1], labels)
    return metrics


def _left_out(summary: Mapping[str, Any]) -> int:
    """A probe's `draws` are those that came back, an evaluation's `asked` are all."""
    return int(summary["errors"]) if "draws" in summary else 0


def set_training_metrics(
    metrics: Metrics, record: Mapping[str, Any], labels: Mapping[str, str]
) -> None:
    """What a training says of one step (a line of `curves.jsonl`), as its latest figures."""
    groups = {ALL: record, **record.get("by_modality", {})}
    for modality, figures in groups.items():
        for field, name in CURVES.items():
            if figures.get(field) is None:
                continue
            more = {"modality": modality} if "modality" in METRICS[name].labels else {}
            metrics.set(name, figures[field], **labels, **more)


def _scores(metrics: Metrics, scores: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    for view in ("raw", "clean"):
        metrics.set(
            "omni_accuracy_ratio",
            scores[view]["macro"]["value"],
            benchmark=ALL,
            view=view,
            **labels,
        )
        metrics.set("omni_no_answer_ratio", scores["no_answer"][view], view=view, **labels)
        counts = scores["counts"][view]
        metrics.set(
            "omni_truncated_ratio",
            counts["truncated"] / max(1, counts["queries"] - counts["errors"]),
            view=view,
            **labels,
        )
        for benchmark, by_view in scores["by_benchmark"].items():
            if by_view[view]:
                metrics.set(
                    "omni_accuracy_ratio",
                    by_view[view]["value"],
                    benchmark=benchmark,
                    view=view,
                    **labels,
                )


def _audit(metrics: Metrics, audit: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    for benchmark, views in audit["leakage"].items():
        for view, leak in views.items():
            metrics.set(
                "omni_leakage_ratio",
                leak["solved"]["value"],
                benchmark=benchmark,
                view=view,
                **labels,
            )
    for view in {view for views in audit["replies"].values() for view in views}:
        counted = [views[view] for views in audit["replies"].values() if view in views]
        came = max(1, sum(each["draws"] - each["failed"] for each in counted))
        cut = sum(each["truncated"] for each in counted)
        metrics.set("omni_truncated_ratio", cut / came, view=view, **labels)
        metrics.set(
            "omni_no_answer_ratio",
            (cut + sum(each["no_answer"] for each in counted)) / came,
            view=view,
            **labels,
        )
