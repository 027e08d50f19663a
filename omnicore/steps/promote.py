"""Promote: may the candidate replace the champion? Decided by the paired difference of both on the
clean view's queries.

A candidate that the canary has not seen to perceive all that the queries show is kept out, and so
is one with unsafe files. Whatever is decided, a checkpoint with safe files is released: with the
scores of the candidate's evaluation in its card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omnicore.config import PromoteConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import CheckpointError, DataError
from omnicore.lineage import model_card
from omnicore.lineage.release import release
from omnicore.lineage.step_record import read_step
from omnicore.models import safe
from omnicore.report.evidence import Scores, read_model, read_responses, require_comparable
from omnicore.schema import Estimate, Manifest, Outcome, Query
from omnicore.scoring import stats
from omnicore.storage.files import read_jsonl, write_json


def decide(
    difference: Estimate, by_benchmark: Mapping[str, Estimate], config: PromoteConfig
) -> tuple[str, list[str]]:
    """`promote` or `keep` with the reasons: the interval of the difference (candidate less
    champion) lies above `min_effect`, and no benchmark loses more than `worst_drop` with an
    interval wholly below 0.

    The interval guards the small benchmarks: where a clean view keeps fifteen queries, one of them is seven points.
    """
    said = (
        f"the candidate is {_points(difference)} points better on the clean view, over"
        f" {difference.n} queries"
    )
    gained = difference.low > config.min_effect
    dropped = {
        name: e for name, e in by_benchmark.items() if e.value < -config.worst_drop and e.high < 0
    }
    reasons = [
        f"{said}: the interval lies {'' if gained else 'not '}above {100 * config.min_effect:g}"
    ]
    lost = f"more than {100 * config.worst_drop:g} lost"
    reasons += [
        f"{name} changes by {_points(e)} points over {e.n} queries: {lost}"
        for name, e in dropped.items()
    ]
    if not dropped:
        reasons.append(f"no benchmark loses more than {100 * config.worst_drop:g} points")
    return "promote" if gained and not dropped else "keep", reasons


def unseen(queries: Iterable[Query], canary: Mapping[str, Any]) -> list[str]:
    """Why a candidate's canary is no proof: the kinds of media that the queries show, and that it
    was not seen to perceive."""
    kinds = sorted({medium.kind for query in queries for medium in query.media})
    return [
        f"the canary has not seen that the candidate perceives {kind}"
        for kind in kinds
        if f"canary_{kind}" not in canary
    ]


def unsafe(checkpoint: Path) -> list[str]:
    """Why a checkpoint is not to be served."""
    names = [
        path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()
    ]
    try:
        safe.check_files(names, lambda name: (checkpoint / name).read_bytes(), "the candidate")
    except CheckpointError as error:
        return [str(error)]
    return []


def run(
    recipe: Recipe, config: PromoteConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Writes `decision.json`, and `release/` where there is a `model` whose files are safe.

    Raises DataError when the two evaluations cannot be compared, or `model` is not the one
    evaluated, and what `release` raises, as for a checkpoint that was changed since.
    """
    arms = ("champion", "candidate")
    scores = {arm: read_model(inputs[arm] / "scores.json", Scores) for arm in arms}
    manifest = read_model(inputs["manifest"] / "manifest.json", Manifest)
    require_comparable(scores, manifest)
    kept = manifest.kept()
    queries = [q for q in read_jsonl(inputs["queries"] / "queries.jsonl", Query) if q.key in kept]
    if not queries:
        raise DataError(
            f"{inputs['manifest'] / 'manifest.json'} keeps none of the queries: nothing to"
            " compare on"
        )
    replies = {
        arm: read_responses(inputs[arm] / "responses.jsonl", [q.key for q in queries])
        for arm in arms
    }

    def paired(chosen: list[Query]) -> Estimate:
        right = {
            arm: [float(replies[arm][q.key].outcome is Outcome.correct) for q in chosen]
            for arm in arms
        }
        return stats.paired_difference(
            right["candidate"], right["champion"], [q.cluster for q in chosen]
        )

    difference = paired(queries)
    by_benchmark = {
        name: paired([q for q in queries if q.benchmark == name])
        for name in sorted({q.benchmark for q in queries})
    }
    decision, reasons = decide(difference, by_benchmark, config)
    steps = {arm: read_step(inputs[arm]) for arm in arms}
    models = {arm: step.get("inputs", {}).get("model") for arm, step in steps.items()}
    canary = {
        name: value
        for name, value in steps["candidate"]["summary"].items()
        if name.startswith("canary_")
    }
    refused = unseen(queries, canary)
    if "model" in inputs:
        if (given := read_step(inputs["model"])["digest"]) != models["candidate"]:
            raise DataError(
                f"{inputs['model']} is the model {given[:12]}; the candidate's evaluation is of"
                f" {models['candidate']}"
            )
        dangers = unsafe(inputs["model"] / model_card.CHECKPOINT)
        refused += dangers
        if not dangers:
            release(str(inputs["model"]), str(inputs["candidate"]), str(output / "release"))
    if refused:
        decision, reasons = "keep", [*reasons, *refused]
    found = {
        "decision": decision,
        "reasons": reasons,
        "difference": difference.model_dump(mode="json"),
        "by_benchmark": {name: e.model_dump(mode="json") for name, e in by_benchmark.items()},
        **{arm: step["digest"] for arm, step in steps.items()},
        "models": models,
        "canary": canary,
        "files": "checked" if "model" in inputs else None,
        "clean": {arm: scores[arm].clean.micro.model_dump(mode="json") for arm in arms},
        "min_effect": config.min_effect,
        "worst_drop": config.worst_drop,
        "profile_hash": scores["champion"].profile_hash,
        "manifest_hash": manifest.content_hash,
    }
    write_json(output / "decision.json", found)
    ends = {"low": round(difference.low, 4), "high": round(difference.high, 4)}
    return {
        "decision": decision,
        "difference": round(difference.value, 4),
        **ends,
        "queries": difference.n,
    }


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
