"""Promote: decide whether a candidate replaces the champion, by their paired difference.

The difference is over the queries of the clean view. A candidate is kept out where the canary did
not verify that it perceives every kind of media that the queries show, and where its files are
unsafe. Whatever the decision, a checkpoint with safe files is released, with the scores of the
candidate's evaluation in its card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore.config import PromoteConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import CheckpointError, DataError
from omnicore.evaluation.score_records import read_scores
from omnicore.evaluation.verdicts import read_manifest
from omnicore.lineage import model_card
from omnicore.lineage.release import release
from omnicore.lineage.step_record import read_step
from omnicore.models import safe
from omnicore.report.evidence import read_responses, require_comparable
from omnicore.schema import Estimate, Outcome, Query, QueryKey, Response
from omnicore.scoring import stats
from omnicore.storage.files import read_jsonl, write_json

ARMS = ("champion", "candidate")
Responses = Mapping[QueryKey, Response]


def decide(
    difference: Estimate, by_benchmark: Mapping[str, Estimate], config: PromoteConfig
) -> tuple[str, list[str]]:
    """Decide by the difference, candidate less champion.

    The candidate is promoted where the interval of the difference lies above `min_effect`, and no
    benchmark loses more than `worst_drop` with an interval wholly below 0. The interval guards the
    small benchmarks: where a clean view keeps fifteen queries, one of them is seven points.

    Returns:
        `promote` or `keep`, and the reasons.
    """
    better = difference.low > config.min_effect
    side = "above" if better else "not above"
    reasons = [
        f"the candidate is {_points(difference)} points better on the clean view, over"
        f" {difference.n} queries: the interval lies {side} {100 * config.min_effect:g}"
    ]
    limit = f"{100 * config.worst_drop:g}"
    dropped = False
    for name, estimate in by_benchmark.items():
        if estimate.value < -config.worst_drop and estimate.high < 0:
            dropped = True
            reasons.append(
                f"{name} changes by {_points(estimate)} points over {estimate.n} queries: more than"
                f" {limit} lost"
            )
    if not dropped:
        reasons.append(f"no benchmark loses more than {limit} points")
    return "promote" if better and not dropped else "keep", reasons


def unverified_media(queries: Iterable[Query], canary: Mapping[str, Any]) -> list[str]:
    """Return a reason per kind of media that the queries show and the canary did not verify."""
    kinds = sorted({medium.kind for query in queries for medium in query.media})
    return [
        f"the canary has not verified that the candidate perceives {kind}"
        for kind in kinds
        if f"canary_{kind}" not in canary
    ]


def unsafe_files(checkpoint: Path) -> list[str]:
    """Return the reason why a checkpoint must not be served; empty where it is safe."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    names = [path.relative_to(checkpoint).as_posix() for path in files]
    try:
        safe.check_files(names, lambda name: (checkpoint / name).read_bytes(), "the candidate")
    except CheckpointError as error:
        return [str(error)]
    return []


def run(
    recipe: Recipe, config: PromoteConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `decision.json`, and `release/` where there is a `model` whose files are safe.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of evaluate (`champion`, `candidate`), prepare (`queries`), clean
            (`manifest`) and optionally the candidate's training (`model`).
        output: The directory to fill.

    Returns:
        The decision and the difference for the step record.

    Raises:
        DataError: The two evaluations cannot be compared, or `model` is not the one evaluated.
        OmniError: `release` refuses the checkpoint, as where it was changed since.
    """
    scores = {arm: read_scores(inputs[arm]) for arm in ARMS}
    manifest = read_manifest(inputs["manifest"])
    require_comparable(scores, manifest)
    kept = manifest.kept()
    queries = [q for q in read_jsonl(inputs["queries"] / "queries.jsonl", Query) if q.key in kept]
    if not queries:
        path = inputs["manifest"] / "manifest.json"
        raise DataError(
            f"{path} keeps none of the queries: nothing to compare on",
            code="promote-clean-view-empty",
            path=path,
        )
    keys = [query.key for query in queries]
    replies = {arm: read_responses(inputs[arm] / "responses.jsonl", keys) for arm in ARMS}
    difference = _difference(queries, replies)
    by_benchmark = {}
    for name in sorted({query.benchmark for query in queries}):
        members = [query for query in queries if query.benchmark == name]
        by_benchmark[name] = _difference(members, replies)
    decision, reasons = decide(difference, by_benchmark, config)
    steps = {arm: read_step(inputs[arm]) for arm in ARMS}
    models = {arm: step.get("inputs", {}).get("model") for arm, step in steps.items()}
    summary = steps["candidate"]["summary"]
    canary = {name: value for name, value in summary.items() if name.startswith("canary_")}
    objections = unverified_media(queries, canary)
    if "model" in inputs:
        objections += _release_model(inputs, models["candidate"], output / "release")
    if objections:
        decision, reasons = "keep", [*reasons, *objections]
    record = {
        "decision": decision,
        "reasons": reasons,
        "difference": difference,
        "by_benchmark": by_benchmark,
        "champion": steps["champion"]["digest"],
        "candidate": steps["candidate"]["digest"],
        "models": models,
        "canary": canary,
        "files": "checked" if "model" in inputs else None,
        "clean": {arm: scores[arm].clean.micro for arm in ARMS},
        "min_effect": config.min_effect,
        "worst_drop": config.worst_drop,
        "profile_hash": scores["champion"].profile_hash,
        "manifest_hash": manifest.content_hash,
    }
    write_json(output / "decision.json", record)
    return {
        "decision": decision,
        "difference": round(difference.value, 4),
        "low": round(difference.low, 4),
        "high": round(difference.high, 4),
        "queries": difference.n,
    }


def _difference(queries: Sequence[Query], replies: Mapping[str, Responses]) -> Estimate:
    """Return the paired difference in accuracy, candidate less champion."""
    correct: dict[str, list[float]] = {}
    for arm in ARMS:
        outcomes = [replies[arm][query.key].outcome for query in queries]
        correct[arm] = [float(outcome is Outcome.correct) for outcome in outcomes]
    clusters = [query.cluster for query in queries]
    return stats.paired_difference(correct["candidate"], correct["champion"], clusters)


def _release_model(inputs: Mapping[str, Path], evaluated: str | None, output: Path) -> list[str]:
    """Release the candidate's checkpoint where its files are safe.

    Returns:
        The reason why it is unsafe; empty where it was released.
    """
    digest = read_step(inputs["model"])["digest"]
    if digest != evaluated:
        raise DataError(
            f"{inputs['model']} is the model {digest[:12]}; the candidate's evaluation is of"
            f" {evaluated}",
            code="promote-model-not-evaluated",
            path=inputs["model"],
            field="model",
        )
    reasons = unsafe_files(inputs["model"] / model_card.CHECKPOINT)
    if not reasons:
        release(str(inputs["model"]), str(inputs["candidate"]), str(output))
    return reasons


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
