"""Report: write everything that the other steps found, as one page and as one JSON file.

`report.json` holds `audit` by policy, `seconds` by step, the seed and the hashes. After a training
it also holds `stages.{base,sft,rlvr,distilled}` (`raw`, `clean`, `by_type`, `by_wording`,
`ablation`) and `gain.{sft,rlvr}` (`raw`, `clean`, and `surplus`, raw less clean), and `control`
where the random-reward arm was evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from omnicore.config import ReportConfig
from omnicore.config.recipe import Recipe
from omnicore.evaluation.score_records import Scores
from omnicore.report import evidence as ev
from omnicore.report import words
from omnicore.report.page import render_page
from omnicore.schema import Label
from omnicore.storage.files import atomic_writer, write_json


def stage_record(scores: Scores) -> dict[str, Any]:
    """Return the figures of one evaluation for scripts."""
    fields = {"raw", "clean", "by_type", "by_wording", "ablation"}
    return scores.model_dump(mode="json", include=fields)


def audit_record(evidence: ev.Evidence, policy: str) -> dict[str, Any]:
    """Return the figures of one policy over the filtered benchmarks.

    Returns:
        `precision`, the share of the removed queries that are truly solvable; `recall`, the share
        of the truly solvable queries that were removed; `clean_lost`, the share of the truly clean
        queries that were removed; all None without a planted truth. `kept` and `removed` queries.
        `residual` and `control`, None without a second probe.
    """
    manifest = evidence.manifests[policy]
    labels = [v.label for v in manifest.verdicts if v.benchmark in evidence.filtered]
    removed = labels.count(Label.solvable)
    record: dict[str, Any] = dict.fromkeys(("precision", "recall", "clean_lost"))
    if evidence.planted is not None:
        counts = ev.confusion_counts(manifest, evidence.planted, evidence.filtered)
        hit, missed, lost, left = (counts[name] for name in ("hit", "missed", "lost", "left"))
        record["precision"] = _share(hit, hit + lost)
        record["recall"] = _share(hit, hit + missed)
        record["clean_lost"] = _share(lost, lost + left)
    record["kept"] = len(labels) - removed
    record["removed"] = removed
    figures = evidence.audit.policies[policy].model_dump(mode="json")
    record["residual"] = figures["residual"]
    record["control"] = figures["control"]
    return record


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def report_record(evidence: ev.Evidence, recipe: Recipe) -> dict[str, Any]:
    """Return the content of `report.json`."""
    scores = evidence.scores
    gains = {"sft": ("base", "sft"), "rlvr": ("sft", "rlvr")} if evidence.trained else {}
    record: dict[str, Any] = {
        "stages": {name: stage_record(scores[name]) for name in ev.STAGES if name in scores},
        "gain": {},
        "audit": {policy: audit_record(evidence, policy) for policy in evidence.manifests},
    }
    for name, (before, after) in gains.items():
        record["gain"][name] = to_jsonable_python(words.stage_gain(evidence, before, after))
    if "control" in scores:
        record["control"] = stage_record(scores["control"])
    record["seconds"] = {name: step["seconds"] for name, step in evidence.steps.items()}
    record["seed"] = recipe.seed
    record["profile_hash"] = evidence.manifest.profile_hash
    record["recipe_hash"] = recipe.identity
    return record


def run(
    recipe: Recipe, config: ReportConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `report.html` and `report.json`.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Finished outputs by role; `omnicore/steps/__init__.py` lists the roles.
        output: The directory to fill.

    Returns:
        Counts and micro scores for the step record.

    Raises:
        DataError: An input is broken, or the inputs do not belong together.
    """
    evidence = ev.read_evidence(inputs)
    record = report_record(evidence, recipe)
    page = render_page(evidence, record, recipe, config).encode()
    write_json(output / "report.json", record)
    with atomic_writer(output / "report.html") as file:
        file.write(page)
    summary: dict[str, Any] = {"queries": len(evidence.queries), "page_bytes": len(page)}
    arms = {"base": "base", "final": "distilled"} if evidence.trained else {}
    for name, arm in arms.items():
        scores = evidence.scores[arm]
        summary[f"{name}_raw"] = round(scores.raw.micro.value, 4)
        summary[f"{name}_clean"] = round(scores.clean.micro.value, 4)
    return summary
