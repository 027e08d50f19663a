"""evaluate: one greedy reply per query, scored on the raw view and on the clean view side by side.

The clean view is a filter by the manifest. The ablations ask the clean queries again with the sound or the picture
hidden: a model that uses both falls to chance there. Every reply has two scores: `strict`, ours, and `official`, the
publisher's own rule. A request that failed for good has none: it stands in `errors.jsonl`, is in no figure, and is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from omnicore import benchmarks, export, stats
from omnicore.config import EvaluateConfig, digest
from omnicore.engines.asking import Asking
from omnicore.engines.base import Reply, Request, Sampling, tell_failures
from omnicore.errors import DataError
from omnicore.journal import read_json, read_jsonl, write_json, write_jsonl
from omnicore.prompts import choices, parts, profile_hash
from omnicore.recipe import Recipe
from omnicore.schema import AnswerKind, Manifest, Outcome, Query, Response, View
from omnicore.scoring.verify import judge

HIDDEN = {View.visual_only: "no_audio", View.audio_only: "no_image", View.text_only: "no_media"}
Key = tuple[str, str]
Rows = Sequence[tuple[Query, Response]]
Asked = tuple[Query, View]


def _strict(rows: Rows) -> tuple[list[float], list[str]]:
    return [float(r.outcome is Outcome.correct) for _, r in rows], [q.cluster for q, _ in rows]


def _official(rows: Rows) -> tuple[list[float], list[str]] | None:
    """Scores by the publisher's rule; None unless every row has one."""
    scores = [r.official for _, r in rows if r.official is not None]
    return (scores, [q.cluster for q, _ in rows]) if rows and len(scores) == len(rows) else None


def _by(rows: Rows, name: str) -> dict[str, list[tuple[Query, Response]]]:
    groups: dict[str, list[tuple[Query, Response]]] = defaultdict(list)
    for query, response in rows:
        groups[getattr(query, name)].append((query, response))
    return dict(sorted(groups.items()))


def _estimate(rows: Rows) -> dict[str, Any] | None:
    return stats.mean(*_strict(rows)).model_dump() if rows else None


def aggregates(rows: Rows) -> dict[str, dict[str, Any]]:
    """Macro over benchmarks, micro over queries, and the macro corrected for chance, each with a clustered interval."""
    groups = {name: _strict(part) for name, part in _by(rows, "benchmark").items()}
    return {
        "macro": stats.macro(groups).model_dump(),
        "micro": stats.mean(*_strict(rows)).model_dump(),
        "chance_corrected": stats.chance_corrected(groups, _chances(rows)).model_dump(),
    }


def official_aggregates(rows: Rows) -> dict[str, dict[str, Any]] | None:
    """Macro and micro by the publishers' rules, None unless every benchmark has one: else they would stand beside strict
    figures over other queries."""
    if (whole := _official(rows)) is None:
        return None
    groups = {name: scored for name, part in _by(rows, "benchmark").items() if (scored := _official(part))}
    return {"macro": stats.macro(groups).model_dump(), "micro": stats.mean(*whole).model_dump()}


def _chances(rows: Rows) -> dict[str, float]:
    return {name: chance(q for q, _ in part) for name, part in _by(rows, "benchmark").items()}


def chance(queries: Iterable[Query]) -> float:
    """The mean of what a guesser gets: among K options 1 / K, among their sets 1 / (2^K - 1), without options nothing."""
    shares = []
    for query in queries:
        ways = 2 ** len(query.options) - 1 if query.answer_kind is AnswerKind.set else len(query.options)
        shares.append(1 / ways if ways else 0.0)
    return fmean(shares)


def counts(asked: Sequence[Query], rows: Rows) -> dict[str, int]:
    """Where the queries of a figure went; `errors` alone are not in it."""
    return {
        "queries": len(asked),
        "errors": len(asked) - len(rows),
        "no_answer": sum(r.outcome is Outcome.no_answer for _, r in rows),
        "truncated": sum(r.truncated for _, r in rows),
    }


class Found:
    """Responses by query and view."""

    def __init__(self, responses: Sequence[Response], kept: frozenset[Key]) -> None:
        self.kept = kept
        self._responses = {(r.benchmark, r.id, r.view): r for r in responses}

    def rows(self, queries: Iterable[Query], view: View = View.omni) -> Rows:
        """The queries that have a response."""
        return [(q, self._responses[*q.key, view]) for q in queries if (*q.key, view) in self._responses]

    def figures(self, queries: Sequence[Query]) -> dict[str, Any]:
        """One group of queries, raw and clean: strict, chance, official, and the counts behind them."""
        views = {"raw": queries, "clean": [q for q in queries if q.key in self.kept]}
        rows = {view: self.rows(asked) for view, asked in views.items()}
        official = {view: stats.mean(*scored).model_dump() if (scored := _official(part)) else None for view, part in rows.items()}
        return {
            **{view: _estimate(part) for view, part in rows.items()},
            "chance": chance(queries),
            "clean_chance": chance(views["clean"]) if views["clean"] else None,
            "official": official if any(official.values()) else None,
            "counts": {view: counts(asked, rows[view]) for view, asked in views.items()},
        }

    def publisher(self, benchmark: str, queries: Sequence[Query]) -> dict[str, dict[str, float]] | None:
        """The publisher's figures that are no mean of scores (an F1, an error in counts), raw and clean, where there are any."""
        aggregate = getattr(benchmarks.adapter(benchmark), "aggregate", None) if benchmark in benchmarks.NAMES else None
        views = {"raw": self.rows(queries), "clean": self.rows(q for q in queries if q.key in self.kept)}
        return {view: aggregate([(q, r.reply) for q, r in part]) for view, part in views.items() if part} if aggregate else None


def score(
    queries: Sequence[Query], controls: Sequence[Query], kept: frozenset[Key], responses: Sequence[Response]
) -> dict[str, Any]:
    """The figures of `scores.json` from responses under every view. Raises DataError where a view has none to score."""
    found = Found(responses, kept)
    views = {"raw": queries, "clean": [q for q in queries if q.key in kept]}
    rows = {view: found.rows(asked) for view, asked in views.items()}
    for view, part in rows.items():
        if not part:
            raise DataError(
                f"none of the {len(views[view])} queries of the {view} view has a reply: see errors.jsonl and the manifest"
            )
    everything = [*rows["raw"], *found.rows(controls)]
    groups: dict[str, dict[str, list[Query]]] = defaultdict(lambda: defaultdict(list))
    for query in sorted(queries, key=lambda q: (q.benchmark, q.type)):
        groups[query.benchmark][query.type].append(query)
    whole = {name: [q for part in types.values() for q in part] for name, types in groups.items()}
    ablation = {name: _estimate(part) for view, name in HIDDEN.items() if (part := found.rows(views["clean"], view))}
    return {
        **{view: aggregates(part) for view, part in rows.items()},
        "official": {view: official_aggregates(part) for view, part in rows.items()},
        "chance": {view: fmean(_chances(part).values()) for view, part in rows.items()},
        "counts": {view: counts(views[view], part) for view, part in rows.items()},
        "by_benchmark": {name: {**found.figures(own), "publisher": found.publisher(name, own)} for name, own in whole.items()},
        "by_benchmark_type": {
            name: {type_: found.figures(part) for type_, part in types.items()} for name, types in groups.items()
        },
        "by_type": {name: _estimate(part) for name, part in _by(everything, "type").items()},
        "by_wording": {
            name: {wording: _estimate(part) for wording, part in _by(part_of_type, "wording").items()}
            for name, part_of_type in _by(everything, "type").items()
        },
        "ablation": ablation,
        "no_answer": {view: sum(r.outcome is Outcome.no_answer for _, r in part) / len(part) for view, part in rows.items()},
    }


def queries_hash(queries: Iterable[Query]) -> str:
    """Identity of what was asked, wherever the media lie and in whatever order."""
    return digest(
        [q.model_dump(mode="json", exclude={"media": {"__all__": {"uri"}}}) for q in sorted(queries, key=lambda q: q.key)]
    )


@dataclass(frozen=True)
class Shown:
    """What an evaluation reads, and the queries that it asks with the view that each is shown under."""

    queries: list[Query]
    controls: list[Query]
    manifest: Manifest
    asked: list[Asked]


def asking(recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path]) -> tuple[Shown, Asking]:
    """Every query and control, then the clean queries again under each ablation. Raises DataError as `run` does."""
    root = inputs["queries"]
    queries = read_jsonl(root / "queries.jsonl", Query)
    controls = read_jsonl(root / "controls.jsonl", Query) if (root / "controls.jsonl").is_file() else []
    manifest = Manifest.model_validate(read_json(inputs["manifest"] / "manifest.json"))
    _check(manifest, recipe, queries)
    kept = manifest.kept()
    asked = [(q, View.omni) for q in (*queries, *controls)]
    asked += [(q, view) for view in config.ablations for q in queries if q.key in kept]
    requests = [Request(parts(q, view, recipe.profile), root, "/".join(q.key), choices(q, recipe.profile)) for q, view in asked]
    model = str(inputs["model"] / "checkpoint") if "model" in inputs else recipe.model
    sampling = Sampling(0, recipe.profile.max_new_tokens)
    return Shown(queries, controls, manifest, asked), Asking(recipe.engine, model, requests, sampling, config.batch)


def run(recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, Any]:
    """Writes `responses.jsonl`, `errors.jsonl`, `items.jsonl`, `scores.json` and `lmms_eval/`. Raises DataError for a manifest
    of another profile or other queries, EngineError when more requests fail than the engine's `max_error_rate`."""
    shown, asked = asking(recipe, config, inputs)
    replies, perceived = asked.answers(recipe, output, "evaluate")
    queries, manifest = shown.queries, shown.manifest
    kept = manifest.kept()
    errors: list[dict[str, Any]] = []
    responses = sorted(_responses(shown.asked, replies, recipe, errors), key=lambda r: (r.benchmark, r.id, r.view))
    write_jsonl(output / "responses.jsonl", responses)
    write_jsonl(output / "errors.jsonl", errors)
    fields = ("benchmark", "id", "type", "cluster")
    write_jsonl(output / "items.jsonl", ({**{f: getattr(q, f) for f in fields}, "kept": q.key in kept} for q in queries))
    scores = {
        "model": recipe.model if "model" not in inputs else "checkpoint",
        "profile_hash": profile_hash(recipe.profile),
        "profile": recipe.profile.model_dump(mode="json"),
        "manifest_hash": manifest.content_hash,
        "queries_hash": queries_hash(queries),
        **score(queries, shown.controls, kept, responses),
        "errors": len(errors),
    }
    write_json(output / "scores.json", scores)
    export.write(output / "lmms_eval", scores, queries, kept, responses, recipe.profile)
    macro = {view: round(scores[view]["macro"]["value"], 4) for view in ("raw", "clean")}
    truncated = sum(r.truncated for r in responses)
    failures = tell_failures("evaluate", len(shown.asked), errors)
    figures = {"queries": len(queries), "asked": len(shown.asked), **macro, "truncated": truncated, "errors": len(errors)}
    return {**figures, **perceived, **failures}


def _check(manifest: Manifest, recipe: Recipe, queries: Sequence[Query]) -> None:
    hashed = profile_hash(recipe.profile)
    # An imported list comes from outside: it was made under no profile of ours.
    if manifest.policy != "imported" and manifest.profile_hash != hashed:
        raise DataError(
            f"the manifest was made with profile {manifest.profile_hash[:12]}, this recipe has {hashed[:12]}: audit again with it"
        )
    judged = {(v.benchmark, v.id) for v in manifest.verdicts}
    if missing := [q.key for q in queries if q.key not in judged]:
        raise DataError(
            f"the manifest has no verdict on {len(missing)} of {len(queries)} queries ({missing[0]} first): run clean on them"
        )


def _responses(
    asked: Iterable[Asked], replies: Iterable[Reply], recipe: Recipe, errors: list[dict[str, Any]]
) -> Iterator[Response]:
    """Judged replies; those that failed for good go to `errors`."""
    rules = {name: benchmarks.official(name) for name in {query.benchmark for query, _ in asked}}
    for (query, view), reply in zip(asked, replies, strict=True):
        if reply.error:
            errors.append({"benchmark": query.benchmark, "id": query.id, "view": view, "error": reply.error})
            continue
        # A reply that was cut may still hold something that looks like an answer: what it would have ended with is not known.
        # The publisher's rule sees what there is, as the publisher would.
        answer, outcome = (None, Outcome.no_answer) if reply.truncated else judge(reply.text, query, recipe.profile.style)
        rule = rules[query.benchmark]
        yield Response(
            benchmark=query.benchmark,
            id=query.id,
            view=view,
            reply=reply.text,
            reasoning=reply.reasoning,
            truncated=reply.truncated,
            answer=answer,
            outcome=outcome,
            official=rule(query, reply.text) if rule else None,
        )
