"""Report: everything that the other steps found, on one page for people and in one file for
scripts.

`report.json` holds `audit` by policy, `seconds` by step, the seed and the hashes; where there was
training, `stages.{base,sft,rlvr,distilled}` (`raw`, `clean`, `by_type`, `by_wording`, `ablation`)
and `gain.{sft,rlvr}` (`raw`, `clean`, and `surplus`, raw less clean), and `control` where the
random-reward arm was evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from omnicore.config import ReportConfig
from omnicore.config.recipe import Recipe
from omnicore.report import evidence as ev
from omnicore.report import words
from omnicore.report.page import render_page
from omnicore.schema import Label
from omnicore.storage.files import atomic_writer, write_json


def stage(scores: ev.Scores) -> dict[str, Any]:
    """What a script reads of one evaluation."""
    return scores.model_dump(
        mode="json", include={"raw", "clean", "by_type", "by_wording", "ablation"}
    )


def audit(evidence: ev.Evidence, policy: str) -> dict[str, Any]:
    """One cleaning rule over the filtered benchmarks; what needs a planted truth or a second probe
    is None without it.

    precision: of the removed, truly solvable; recall: of the truly solvable, removed; clean_lost: of the truly clean, removed.
    """
    labels = [
        v.label for v in evidence.manifests[policy].verdicts if v.benchmark in evidence.filtered
    ]
    removed = labels.count(Label.solvable)
    truth: dict[str, float | None] = dict.fromkeys(("precision", "recall", "clean_lost"))
    if evidence.planted is not None:
        n = ev.confusion_counts(evidence.manifests[policy], evidence.planted, evidence.filtered)
        truth = {
            "precision": _share(n["hit"], n["hit"] + n["lost"]),
            "recall": _share(n["hit"], n["hit"] + n["missed"]),
            "clean_lost": _share(n["lost"], n["lost"] + n["left"]),
        }
    second = evidence.audit.policies[policy]
    return {
        **truth,
        "kept": len(labels) - removed,
        "removed": removed,
        "residual": None if second.residual is None else second.residual.model_dump(mode="json"),
        "control": None if second.control is None else second.control.model_dump(mode="json"),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def figures(evidence: ev.Evidence, recipe: Recipe) -> dict[str, Any]:
    """The content of `report.json`."""
    gains = {"sft": ("base", "sft"), "rlvr": ("sft", "rlvr")} if evidence.trained else {}
    return {
        "stages": {
            name: stage(evidence.scores[name]) for name in ev.STAGES if name in evidence.scores
        },
        "gain": {
            name: to_jsonable_python(words.stage_gain(evidence, *ends))
            for name, ends in gains.items()
        },
        "audit": {policy: audit(evidence, policy) for policy in evidence.manifests},
        **({"control": stage(evidence.scores["control"])} if "control" in evidence.scores else {}),
        "seconds": {name: step["seconds"] for name, step in evidence.steps.items()},
        "seed": recipe.seed,
        "profile_hash": evidence.manifest.profile_hash,
        "recipe_hash": recipe.identity,
    }


def run(
    recipe: Recipe, config: ReportConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Writes `report.html` and `report.json`.

    Raises DataError when inputs do not belong together.
    """
    evidence = ev.read_evidence(inputs)
    found = figures(evidence, recipe)
    page = render_page(evidence, found, recipe, config).encode()
    write_json(output / "report.json", found)
    with atomic_writer(output / "report.html") as file:
        file.write(page)
    ends = {"base": "base", "final": "distilled"} if evidence.trained else {}
    return {
        "queries": len(evidence.queries),
        "page_bytes": len(page),
        **{
            f"{name}_{view}": round(getattr(evidence.scores[arm], view).micro.value, 4)
            for name, arm in ends.items()
            for view in ("raw", "clean")
        },
    }
