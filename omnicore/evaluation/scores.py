"""Scores of an evaluation: aggregates, chance levels, counts and publisher figures, raw and
clean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from omnicore.config import digest
from omnicore.data import benchmarks
from omnicore.errors import DataError
from omnicore.schema import AnswerKind, Outcome, Query, Response, View
from omnicore.scoring import stats

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
    """Macro over benchmarks, micro over queries, and the macro corrected for chance, each with a
    clustered interval."""
    groups = {name: _strict(part) for name, part in _by(rows, "benchmark").items()}
    return {
        "macro": stats.macro_mean(groups).model_dump(),
        "micro": stats.mean(*_strict(rows)).model_dump(),
        "chance_corrected": stats.chance_corrected(groups, _chances(rows)).model_dump(),
    }


def official_aggregates(rows: Rows) -> dict[str, dict[str, Any]] | None:
    """Macro and micro by the publishers' rules, None unless every benchmark has one: else they
    would stand beside strict figures over other queries."""
    if (whole := _official(rows)) is None:
        return None
    groups = {
        name: scored for name, part in _by(rows, "benchmark").items() if (scored := _official(part))
    }
    return {
        "macro": stats.macro_mean(groups).model_dump(),
        "micro": stats.mean(*whole).model_dump(),
    }


def _chances(rows: Rows) -> dict[str, float]:
    return {name: chance_level(q for q, _ in part) for name, part in _by(rows, "benchmark").items()}


def chance_level(queries: Iterable[Query]) -> float:
    """The mean of what a guesser gets: among K options 1 / K, among their sets 1 / (2^K - 1), without options nothing."""
    shares = []
    for query in queries:
        ways = (
            2 ** len(query.options) - 1
            if query.answer_kind is AnswerKind.set
            else len(query.options)
        )
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


class ResponseIndex:
    """Responses by query and view."""

    def __init__(self, responses: Sequence[Response], kept: frozenset[Key]) -> None:
        self.kept = kept
        self._responses = {(r.benchmark, r.id, r.view): r for r in responses}

    def rows(self, queries: Iterable[Query], view: View = View.omni) -> Rows:
        """The queries that have a response."""
        return [
            (q, self._responses[*q.key, view]) for q in queries if (*q.key, view) in self._responses
        ]

    def figures(self, queries: Sequence[Query]) -> dict[str, Any]:
        """One group of queries, raw and clean: strict, chance, official, and the counts behind
        them."""
        views = {"raw": queries, "clean": [q for q in queries if q.key in self.kept]}
        rows = {view: self.rows(asked) for view, asked in views.items()}
        official = {
            view: stats.mean(*scored).model_dump() if (scored := _official(part)) else None
            for view, part in rows.items()
        }
        return {
            **{view: _estimate(part) for view, part in rows.items()},
            "chance": chance_level(queries),
            "clean_chance": chance_level(views["clean"]) if views["clean"] else None,
            "official": official if any(official.values()) else None,
            "counts": {view: counts(asked, rows[view]) for view, asked in views.items()},
        }

    def publisher(
        self, benchmark: str, queries: Sequence[Query]
    ) -> dict[str, dict[str, float]] | None:
        """The publisher's figures that are no mean of scores (an F1, an error in counts), raw and
        clean, where there are any."""
        aggregate = (
            getattr(benchmarks.get_adapter(benchmark), "official_figures", None)
            if benchmarks.has_adapter(benchmark)
            else None
        )
        views = {
            "raw": self.rows(queries),
            "clean": self.rows(q for q in queries if q.key in self.kept),
        }
        return (
            {
                view: aggregate([(q, r.reply) for q, r in part])
                for view, part in views.items()
                if part
            }
            if aggregate
            else None
        )


def compute_scores(
    queries: Sequence[Query],
    controls: Sequence[Query],
    kept: frozenset[Key],
    responses: Sequence[Response],
) -> dict[str, Any]:
    """The figures of `scores.json` from responses under every view.

    Raises DataError where a view has none to score.
    """
    found = ResponseIndex(responses, kept)
    views = {"raw": queries, "clean": [q for q in queries if q.key in kept]}
    rows = {view: found.rows(asked) for view, asked in views.items()}
    for view, part in rows.items():
        if not part:
            raise DataError(
                f"none of the {len(views[view])} queries of the {view} view has a reply: see"
                " errors.jsonl and the manifest"
            )
    everything = [*rows["raw"], *found.rows(controls)]
    groups: dict[str, dict[str, list[Query]]] = defaultdict(lambda: defaultdict(list))
    for query in sorted(queries, key=lambda q: (q.benchmark, q.type)):
        groups[query.benchmark][query.type].append(query)
    whole = {name: [q for part in types.values() for q in part] for name, types in groups.items()}
    ablation = {
        name: _estimate(part)
        for view, name in HIDDEN.items()
        if (part := found.rows(views["clean"], view))
    }
    return {
        **{view: aggregates(part) for view, part in rows.items()},
        "official": {view: official_aggregates(part) for view, part in rows.items()},
        "chance": {view: fmean(_chances(part).values()) for view, part in rows.items()},
        "counts": {view: counts(views[view], part) for view, part in rows.items()},
        "by_benchmark": {
            name: {**found.figures(own), "publisher": found.publisher(name, own)}
            for name, own in whole.items()
        },
        "by_benchmark_type": {
            name: {type_: found.figures(part) for type_, part in types.items()}
            for name, types in groups.items()
        },
        "by_type": {name: _estimate(part) for name, part in _by(everything, "type").items()},
        "by_wording": {
            name: {
                wording: _estimate(part) for wording, part in _by(part_of_type, "wording").items()
            }
            for name, part_of_type in _by(everything, "type").items()
        },
        "ablation": ablation,
        "no_answer": {
            view: sum(r.outcome is Outcome.no_answer for _, r in part) / len(part)
            for view, part in rows.items()
        },
    }


def queries_hash(queries: Iterable[Query]) -> str:
    """Identity of what was asked, wherever the media lie and in whatever order."""
    return digest(
        [
            q.model_dump(mode="json", exclude={"media": {"__all__": {"uri"}}})
            for q in sorted(queries, key=lambda q: q.key)
        ]
    )
