"""What a report stands on: the outputs of the other steps, read, checked and joined.

Nothing here computes a score.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from omnicore.errors import DataError
from omnicore.lineage.step_record import read_step
from omnicore.schema import BenchmarkInfo, Draw, Estimate, Label, Manifest, Query, Response, View
from omnicore.storage.files import read_json, read_jsonl

M = TypeVar("M", bound=BaseModel)

STAGES = ("base", "sft", "rlvr", "distilled")
CURVES = ("sft_curves", "rlvr_curves", "distilled_curves")
POLICIES = (
    "single_pass",
    "circular",
    "repeated",
)  # as shown; circular where the draws hold full circles
# Role of an input to the name under which the report shows that step's seconds and digest.
STEP_NAMES = {
    "queries": "prepare",
    "draws": "probe",
    "second_draws": "second_probe",
    "audit": "clean",
    "base": "evaluate_base",
    "sft_curves": "sft",
    "sft": "evaluate_sft",
    "rlvr_curves": "rlvr",
    "rlvr": "evaluate_rlvr",
    "distill_draws": "distill_probe",
    "distill": "distill",
    "distilled_curves": "sft_distilled",
    "distilled": "evaluate_distilled",
    "control": "evaluate_control",
}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Aggregates(_File):
    macro: Estimate
    micro: Estimate
    chance_corrected: Estimate


class Counts(_File):
    queries: int
    errors: int


class BenchmarkScore(_File):
    raw: Estimate
    clean: Estimate | None
    chance: float
    counts: dict[str, Counts] = {}


class Scores(_File):
    """`scores.json` of one evaluation."""

    model: str
    profile_hash: str
    manifest_hash: str
    raw: Aggregates
    clean: Aggregates
    by_benchmark: dict[str, BenchmarkScore]
    by_type: dict[str, Estimate]
    by_wording: dict[str, dict[str, Estimate]]
    ablation: dict[str, Estimate]
    no_answer: dict[str, float]


class LeakageRecord(_File):
    solved: Estimate
    chance: float
    corrected: Estimate


class ThresholdRecord(_File):
    """The rule `hits of draws`; `hits` is None where no rule keeps the false removals within
    bounds."""

    hits: int | None
    draws: int
    null: float | None = None
    binomial: float | None = None
    source: str = "measured"


class NullRecord(_File):
    hits: list[float]
    binomial: list[float]


class ResidualRecord(_File):
    hit: Estimate
    baseline: Estimate
    excess: Estimate


class Range(_File):
    """Over repeated random removals."""

    mean: float
    low: float
    high: float


class RandomRemoval(_File):
    """What the second probe hits when as many queries are removed at random."""

    hit: Range
    excess: Range
    removed: int
    repeats: int


class ReplyCounts(_File):
    draws: int
    failed: int
    truncated: int
    no_answer: int
    outside: int = 0


class PolicyRecord(_File):
    undecided: int
    residual: ResidualRecord | None = None
    control: RandomRemoval | None = None


class AuditRecord(_File):
    """`audit.json` of one cleaning."""

    probe: str
    second_probe: str | None = None
    leakage: dict[str, dict[View, LeakageRecord]]
    leakage_by_type: dict[str, dict[str, dict[View, LeakageRecord]]]
    replies: dict[str, dict[View, ReplyCounts]]
    failed_queries: int
    thresholds: dict[str, ThresholdRecord]
    null: NullRecord
    policies: dict[str, PolicyRecord]


@dataclass(frozen=True)
class Evidence:
    """Everything the page shows.

    `planted` is None for a benchmark that keeps no truth; `hits` counts, per query key, how often
    each answer was drawn with the sound withheld (None: no single option).
    """

    folder: Path
    queries: tuple[Query, ...]
    infos: tuple[BenchmarkInfo, ...]
    planted: Mapping[str, Mapping[str, bool]] | None
    audit: AuditRecord
    manifests: Mapping[str, Manifest]
    manifest: Manifest
    hits: Mapping[tuple[str, str], Counter[str | None]]
    scores: Mapping[str, Scores]
    responses: Mapping[str, Mapping[tuple[str, str], Response]]
    curves: Mapping[str, list[dict[str, Any]]]
    rollouts: Sequence[Mapping[str, Any]]
    steps: Mapping[str, Any]

    @property
    def trained(self) -> bool:
        """Whether there is more than an audit."""
        return "base" in self.scores

    @property
    def filtered(self) -> frozenset[str]:
        """Benchmarks that the audit may filter."""
        return frozenset(info.name for info in self.infos if info.filter_policy == "filtered")


def read_model(path: Path, model: type[M]) -> M:
    """One JSON file as a model.

    Raises DataError naming the file and the first wrong field.
    """
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path}: {where}: {first['msg']}: run the step that wrote it again"
        ) from error


def require_comparable(scores: Mapping[str, Scores], manifest: Manifest) -> None:
    """Raises DataError naming both when two scores come from different profiles, or one from
    another manifest than the audit's: such scores cannot be compared."""
    if not scores:
        return
    first, reference = next(iter(scores.items()))
    for name, other in scores.items():
        _same("profile_hash", first, reference.profile_hash, name, other.profile_hash)
        _same("manifest_hash", first, reference.manifest_hash, name, other.manifest_hash)
        _same("manifest_hash", "the audit", manifest.content_hash, name, other.manifest_hash)


def _same(field: str, first: str, ours: str, second: str, theirs: str) -> None:
    if ours != theirs:
        raise DataError(
            f"{field} differs: {first} has {ours}, {second} has {theirs}: evaluate again under one"
            " recipe and manifest"
        )


def read_responses(
    path: Path, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Response]:
    """Responses under view omni to `keys`, without those whose request failed.

    Raises DataError when one is missing that
    `errors.jsonl` beside it does not list: a mean over the rest would mislead.
    """
    found = {(r.benchmark, r.id): r for r in read_jsonl(path, Response) if r.view is View.omni}
    errors = path.with_name("errors.jsonl")
    listed = read_jsonl(errors, dict) if errors.is_file() else []
    failed = {(error["benchmark"], error["id"]) for error in listed if error["view"] == View.omni}
    missing = sorted(set(keys) - found.keys() - failed)
    if missing:
        raise DataError(
            f"{path}: no answer to {'/'.join(missing[0])} ({len(missing)} missing): evaluate again"
        )
    return {key: found[key] for key in keys if key in found}


def confusion_counts(
    manifest: Manifest, planted: Mapping[str, Mapping[str, bool]], filtered: Collection[str]
) -> dict[str, int]:
    """One cleaning against the planted truth, over filtered benchmarks: solvable queries removed
    (`hit`) and kept (`missed`), clean queries removed (`lost`) and kept (`left`)."""
    seen = Counter(
        (planted[v.benchmark][v.id], v.label is Label.solvable)
        for v in manifest.verdicts
        if v.benchmark in filtered
    )
    return {
        "hit": seen[True, True],
        "missed": seen[True, False],
        "lost": seen[False, True],
        "left": seen[False, False],
    }


def read_evidence(inputs: Mapping[str, Path]) -> Evidence:
    """Reads and joins the report's inputs (roles as in docs/architecture.md).

    Raises DataError on what does not fit.
    """
    _whole(inputs)
    folder = inputs["queries"]
    queries = tuple(read_jsonl(folder / "queries.jsonl", Query))
    keys = [q.key for q in queries]
    arms = [stage for stage in (*STAGES, "control") if stage in inputs]
    scores = {arm: read_model(inputs[arm] / "scores.json", Scores) for arm in arms}
    manifest = read_model(inputs["audit"] / "manifest.json", Manifest)
    audit = read_model(inputs["audit"] / "audit.json", AuditRecord)
    require_comparable(scores, manifest)
    judged = {(v.benchmark, v.id) for v in manifest.verdicts}
    if unjudged := sorted(set(keys) - judged):
        raise DataError(
            f"{inputs['audit'] / 'manifest.json'}: no verdict on {'/'.join(unjudged[0])}: clean"
            " again"
        )
    hits: defaultdict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)
    for draw in read_jsonl(inputs["draws"] / "draws.jsonl", Draw):
        if draw.view is View.visual_only:
            hits[draw.benchmark, draw.id][draw.answer] += 1
    planted = folder / "planted.json"
    infos = TypeAdapter(tuple[BenchmarkInfo, ...]).validate_python(
        read_json(folder / "benchmarks.json")
    )
    return Evidence(
        folder=folder,
        queries=queries,
        infos=infos,
        planted=read_json(planted) if planted.is_file() else None,
        audit=audit,
        manifests={
            policy: read_model(inputs["audit"] / f"manifest.{policy}.json", Manifest)
            for policy in POLICIES
            if policy in audit.policies
        },
        manifest=manifest,
        hits=hits,
        scores=scores,
        responses={arm: read_responses(inputs[arm] / "responses.jsonl", keys) for arm in arms},
        rollouts=(
            read_jsonl(inputs["rlvr_curves"] / "rollouts.jsonl", dict)
            if "rlvr_curves" in inputs
            else ()
        ),
        curves={
            role.removesuffix("_curves"): _rows(inputs[role] / "curves.jsonl")
            for role in CURVES
            if role in inputs
        },
        steps={STEP_NAMES[role]: read_step(inputs[role]) for role in STEP_NAMES if role in inputs},
    )


def _whole(inputs: Mapping[str, Path]) -> None:
    """A page shows the audit alone or all of training: of half a training run it would say things
    that nobody measured."""
    training = (*STAGES, *CURVES)
    missing = [role for role in training if role not in inputs]
    if missing and len(missing) < len(training):
        raise DataError(
            f"input {missing[0]!r} is missing: a report takes all of {', '.join(training)}, or none"
            " for an audit"
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_jsonl(path, dict)
    if not rows:
        raise DataError(f"{path} logs no step: run the training step again")
    return rows
