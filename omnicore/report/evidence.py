"""Read, check and join the outputs of other steps that a report shows; compute no score."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from omnicore.errors import DataError
from omnicore.evaluation.score_records import Scores, read_scores
from omnicore.evaluation.verdicts import read_manifest, require_verdicts
from omnicore.lineage.step_record import read_step
from omnicore.report.audit_record import AuditRecord
from omnicore.schema import (
    BENCHMARK_QUERIES,
    BenchmarkInfo,
    Draw,
    Label,
    Manifest,
    Query,
    QueryKey,
    Response,
    View,
)
from omnicore.storage.files import read_json, read_jsonl

STAGES = ("base", "sft", "rlvr", "distilled")
CURVES = ("sft_curves", "rlvr_curves", "distilled_curves")
# In the order shown; circular only where the draws cover all rotations of the options.
POLICIES = ("single_pass", "circular", "repeated")
# Name under which the report shows the seconds and the digest of an input, by the input's role.
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

Hits = Mapping[QueryKey, Counter[str | None]]


@dataclass(frozen=True)
class Evidence:
    """All data that the page shows.

    Attributes:
        folder: Output of prepare, which holds the media.
        queries: The queries of the benchmarks.
        infos: Their benchmarks.
        planted: Whether a query is solvable, by benchmark and id; None where this is unknown.
        audit: `audit.json`.
        manifests: Manifest of every policy.
        manifest: Manifest in force.
        hits: How often each answer was drawn with the sound withheld, by query; None is no single
            option.
        scores: Scores by stage.
        responses: Responses under view omni, by stage and query.
        curves: Logged steps by training stage.
        rollouts: Rollouts of rlvr.
        steps: Step records, by the name of the step in the report.
    """

    folder: Path
    queries: tuple[Query, ...]
    infos: tuple[BenchmarkInfo, ...]
    planted: Mapping[str, Mapping[str, bool]] | None
    audit: AuditRecord
    manifests: Mapping[str, Manifest]
    manifest: Manifest
    hits: Hits
    scores: Mapping[str, Scores]
    responses: Mapping[str, Mapping[QueryKey, Response]]
    curves: Mapping[str, list[dict[str, Any]]]
    rollouts: Sequence[Mapping[str, Any]]
    steps: Mapping[str, Any]

    @property
    def trained(self) -> bool:
        """Whether there is more than an audit."""
        return "base" in self.scores

    @property
    def filtered(self) -> frozenset[str]:
        """Names of the benchmarks that the audit may filter."""
        return frozenset(info.name for info in self.infos if info.filter_policy == "filtered")


def require_comparable(scores: Mapping[str, Scores], manifest: Manifest) -> None:
    """Raise DataError where scores have different profiles, or another manifest than the audit."""
    if not scores:
        return
    first, reference = next(iter(scores.items()))
    for name, other in scores.items():
        _require_same("profile_hash", first, reference.profile_hash, name, other.profile_hash)
        _require_same("manifest_hash", first, reference.manifest_hash, name, other.manifest_hash)
        audited = manifest.content_hash
        _require_same("manifest_hash", "the audit", audited, name, other.manifest_hash)


def _require_same(field: str, first: str, ours: str, second: str, theirs: str) -> None:
    if ours != theirs:
        raise DataError(
            f"{field} differs: {first} has {ours}, {second} has {theirs}; evaluate again under one"
            " recipe and manifest",
            code="scores-not-comparable",
            field=field,
        )


def read_responses(path: Path, keys: Collection[QueryKey]) -> dict[QueryKey, Response]:
    """Read the responses under view omni to `keys`, without those whose request failed.

    Raises:
        DataError: A response is missing that `errors.jsonl` beside the file does not list: a mean
            over the rest would mislead.
    """
    responses = {}
    for response in read_jsonl(path, Response):
        if response.view is View.omni:
            responses[response.benchmark, response.id] = response
    errors = path.with_name("errors.jsonl")
    listed = read_jsonl(errors, dict) if errors.is_file() else []
    failed = {(error["benchmark"], error["id"]) for error in listed if error["view"] == View.omni}
    missing = sorted(set(keys) - responses.keys() - failed)
    if missing:
        raise DataError(
            f"{path}: no response to {'/'.join(missing[0])} ({len(missing)} missing); evaluate"
            " again",
            code="responses-missing",
            path=path,
            field="id",
        )
    return {key: responses[key] for key in keys if key in responses}


def confusion_counts(
    manifest: Manifest, planted: Mapping[str, Mapping[str, bool]], filtered: Collection[str]
) -> dict[str, int]:
    """Compare one cleaning with the planted truth, over filtered benchmarks.

    Returns:
        Solvable queries removed (`hit`) and kept (`missed`), clean queries removed (`lost`) and
        kept (`left`).
    """
    counts: Counter[tuple[bool, bool]] = Counter()
    for v in manifest.verdicts:
        if v.benchmark in filtered:
            counts[planted[v.benchmark][v.id], v.label is Label.solvable] += 1
    return {
        "hit": counts[True, True],
        "missed": counts[True, False],
        "lost": counts[False, True],
        "left": counts[False, False],
    }


def read_evidence(inputs: Mapping[str, Path]) -> Evidence:
    """Read and join the report's inputs.

    Args:
        inputs: Finished outputs by role; the roles are those of step `report`.

    Raises:
        DataError: An input is missing or broken, or the inputs do not belong together.
    """
    _require_all_or_none(inputs)
    folder = inputs["queries"]
    audit = _read_audit(inputs["audit"] / "audit.json")
    queries = tuple(read_jsonl(folder / audit.data, Query))
    keys = [query.key for query in queries]
    arms = [stage for stage in (*STAGES, "control") if stage in inputs]
    scores = {arm: read_scores(inputs[arm]) for arm in arms}
    manifest = read_manifest(inputs["audit"])
    require_comparable(scores, manifest)
    require_verdicts(manifest, keys, "clean again")
    planted = folder / "planted.json" if audit.data == BENCHMARK_QUERIES else None
    infos = _read_infos(folder, audit.data, queries)
    rollouts: list[dict[str, Any]] = []
    if "rlvr_curves" in inputs:
        rollouts = read_jsonl(inputs["rlvr_curves"] / "rollouts.jsonl", dict)
    curves = {}
    for role in CURVES:
        if role in inputs:
            curves[role.removesuffix("_curves")] = _read_curve(inputs[role] / "curves.jsonl")
    policies = [policy for policy in POLICIES if policy in audit.policies]
    return Evidence(
        folder=folder,
        queries=queries,
        infos=infos,
        planted=read_json(planted) if planted and planted.is_file() else None,
        audit=audit,
        manifests={p: read_manifest(inputs["audit"] / f"manifest.{p}.json") for p in policies},
        manifest=manifest,
        hits=_count_answers(inputs["draws"] / "draws.jsonl"),
        scores=scores,
        responses={arm: read_responses(inputs[arm] / "responses.jsonl", keys) for arm in arms},
        rollouts=rollouts,
        curves=curves,
        steps={STEP_NAMES[role]: read_step(inputs[role]) for role in STEP_NAMES if role in inputs},
    )


def _read_infos(folder: Path, data: str, queries: Sequence[Query]) -> tuple[BenchmarkInfo, ...]:
    """Return the benchmarks' records; training items have none, and one is made for each source."""
    if data == BENCHMARK_QUERIES:
        infos = read_json(folder / "benchmarks.json")
        return TypeAdapter(tuple[BenchmarkInfo, ...]).validate_python(infos)
    counts = Counter(query.benchmark for query in queries)
    return tuple(
        BenchmarkInfo(name=name, filter_policy="filtered", queries=count)
        for name, count in sorted(counts.items())
    )


def _read_audit(path: Path) -> AuditRecord:
    try:
        return AuditRecord.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path}: {field}: {first['msg']}; run clean again",
            code="audit-invalid",
            path=path,
            field=field,
        ) from error


def _count_answers(path: Path) -> Hits:
    hits: defaultdict[QueryKey, Counter[str | None]] = defaultdict(Counter)
    for draw in read_jsonl(path, Draw):
        if draw.view is View.visual_only:
            hits[draw.benchmark, draw.id][draw.answer] += 1
    return hits


def _require_all_or_none(inputs: Mapping[str, Path]) -> None:
    """Raise DataError for a part of a training run.

    A page shows only the audit or all of training: its sentences about half a run would state
    figures that were not measured.
    """
    training = (*STAGES, *CURVES)
    missing = [role for role in training if role not in inputs]
    if missing and len(missing) < len(training):
        raise DataError(
            f"input {missing[0]!r} is missing: a report takes all of {', '.join(training)}, or none"
            " for an audit",
            code="report-input-missing",
            field=missing[0],
        )


def _read_curve(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_jsonl(path, dict)
    if not rows:
        raise DataError(
            f"{path} logs no step; run the training step again", code="curves-empty", path=path
        )
    return rows
