"""Compute the scores of an evaluation: aggregates, chance levels, counts and publisher figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from omnicore.config import digest
from omnicore.data import benchmarks
from omnicore.errors import DataError
from omnicore.evaluation.score_records import (
    Aggregates,
    BenchmarkScores,
    Figures,
    GroupScores,
    OfficialAggregates,
    ReplyCounts,
)
from omnicore.schema import (
    AnswerKind,
    Estimate,
    Outcome,
    Query,
    QueryKey,
    Response,
    View,
)
from omnicore.scoring import stats

HIDDEN = {View.visual_only: "no_audio", View.audio_only: "no_image", View.text_only: "no_media"}
ScoredRows = Sequence[tuple[Query, Response]]


class WithClusters(NamedTuple):
    """Scores in 0..1 with the cluster of each."""

    values: list[float]
    clusters: list[str]


def _strict(rows: ScoredRows) -> WithClusters:
    values = [float(response.outcome is Outcome.correct) for _, response in rows]
    return WithClusters(values, [query.cluster for query, _ in rows])


def _official(rows: ScoredRows) -> WithClusters | None:
    """Return the scores by the publisher's rule; None unless every row has one."""
    values = [response.official for _, response in rows if response.official is not None]
    if not rows or len(values) < len(rows):
        return None
    return WithClusters(values, [query.cluster for query, _ in rows])


def _group_by(rows: ScoredRows, name: str) -> dict[str, list[tuple[Query, Response]]]:
    groups: dict[str, list[tuple[Query, Response]]] = defaultdict(list)
    for query, response in rows:
        groups[getattr(query, name)].append((query, response))
    return dict(sorted(groups.items()))


def _accuracy(rows: ScoredRows) -> Estimate:
    return stats.mean(*_strict(rows))


def aggregates(rows: ScoredRows) -> Aggregates:
    """Return macro, micro and chance-corrected accuracy, each with a clustered interval."""
    groups = {name: _strict(members) for name, members in _group_by(rows, "benchmark").items()}
    return Aggregates(
        macro=stats.macro_mean(groups),
        micro=_accuracy(rows),
        chance_corrected=stats.chance_corrected(groups, _chance_levels(rows)),
    )


def official_aggregates(rows: ScoredRows) -> OfficialAggregates | None:
    """Return macro and micro by the publishers' rules.

    Returns:
        None unless every benchmark has a rule: otherwise they would stand beside strict figures
        over other queries.
    """
    overall = _official(rows)
    if overall is None:
        return None
    groups = {}
    for name, members in _group_by(rows, "benchmark").items():
        scored = _official(members)
        if scored is not None:
            groups[name] = scored
    return OfficialAggregates(macro=stats.macro_mean(groups), micro=stats.mean(*overall))


def _chance_levels(rows: ScoredRows) -> dict[str, float]:
    levels = {}
    for name, members in _group_by(rows, "benchmark").items():
        levels[name] = chance_level([query for query, _ in members])
    return levels


def chance_level(queries: Iterable[Query]) -> float:
    """Return the mean score of a guesser.

    It is 1 / K among K options, 1 / (2**K - 1) among their sets, and 0 without options.
    """
    return fmean(_chance(query) for query in queries)


def _chance(query: Query) -> float:
    if not query.options:
        return 0.0
    if query.answer_kind is AnswerKind.set:
        return float(1 / (2 ** len(query.options) - 1))
    return 1 / len(query.options)


def count_replies(asked: Sequence[Query], rows: ScoredRows) -> ReplyCounts:
    """Count the queries of a figure and their fates."""
    return ReplyCounts(
        queries=len(asked),
        errors=len(asked) - len(rows),
        no_answer=sum(response.outcome is Outcome.no_answer for _, response in rows),
        truncated=sum(response.truncated for _, response in rows),
    )


class ResponseIndex:
    """Responses by query and view."""

    def __init__(self, responses: Sequence[Response], kept: frozenset[QueryKey]) -> None:
        """Index the responses; `kept` are the keys of the clean view."""
        self.kept = kept
        self._responses = {(r.benchmark, r.id, r.view): r for r in responses}

    def rows(self, queries: Iterable[Query], view: View = View.omni) -> ScoredRows:
        """Return the queries that have a response, each with it."""
        rows = []
        for query in queries:
            response = self._responses.get((*query.key, view))
            if response is not None:
                rows.append((query, response))
        return rows

    def by_view(self, queries: Sequence[Query]) -> dict[str, Sequence[Query]]:
        """Return the queries of the raw and the clean view."""
        return {"raw": queries, "clean": [q for q in queries if q.key in self.kept]}

    def group_scores(self, queries: Sequence[Query]) -> GroupScores:
        """Return the figures of one group of queries."""
        views = self.by_view(queries)
        rows = {view: self.rows(asked) for view, asked in views.items()}
        official: dict[str, Estimate | None] = {}
        for view, members in rows.items():
            scored = _official(members)
            official[view] = stats.mean(*scored) if scored else None
        return GroupScores(
            raw=_accuracy(rows["raw"]) if rows["raw"] else None,
            clean=_accuracy(rows["clean"]) if rows["clean"] else None,
            chance=chance_level(queries),
            clean_chance=chance_level(views["clean"]) if views["clean"] else None,
            official=official if any(official.values()) else None,
            counts={view: count_replies(asked, rows[view]) for view, asked in views.items()},
        )

    def benchmark_scores(self, benchmark: str, queries: Sequence[Query]) -> BenchmarkScores:
        """Return the figures of one benchmark, with the publisher's where there are any."""
        scores = dict(self.group_scores(queries))
        return BenchmarkScores(**scores, publisher=self._publisher(benchmark, queries))

    def _publisher(
        self, benchmark: str, queries: Sequence[Query]
    ) -> dict[str, dict[str, float]] | None:
        if not benchmarks.has_adapter(benchmark):
            return None
        aggregate = getattr(benchmarks.get_adapter(benchmark), "official_figures", None)
        if aggregate is None:
            return None
        figures = {}
        for view, asked in self.by_view(queries).items():
            replies = [(query, response.reply) for query, response in self.rows(asked)]
            if replies:
                figures[view] = aggregate(replies)
        return figures


def compute_figures(
    queries: Sequence[Query],
    controls: Sequence[Query],
    kept: frozenset[QueryKey],
    responses: Sequence[Response],
) -> Figures:
    """Compute the figures of an evaluation.

    Args:
        queries: The queries of the benchmarks.
        controls: The controls, which enter only the figures by type and by wording.
        kept: Keys of the clean view.
        responses: Responses under every view.

    Raises:
        DataError: A view has no reply to score.
    """
    index = ResponseIndex(responses, kept)
    views = index.by_view(queries)
    rows = {view: index.rows(asked) for view, asked in views.items()}
    for view, members in rows.items():
        if not members:
            raise DataError(
                f"none of the {len(views[view])} queries of the {view} view has a reply: see"
                " errors.jsonl and the manifest",
                code="evaluate-view-empty",
                field=view,
            )
    by_type = _group_by([*rows["raw"], *index.rows(controls)], "type")
    groups = _by_benchmark_and_type(queries)
    return Figures(
        raw=aggregates(rows["raw"]),
        clean=aggregates(rows["clean"]),
        official={view: official_aggregates(members) for view, members in rows.items()},
        chance={view: fmean(_chance_levels(members).values()) for view, members in rows.items()},
        counts={view: count_replies(views[view], members) for view, members in rows.items()},
        by_benchmark=_scores_by_benchmark(index, groups),
        by_benchmark_type={name: _scores_by_type(index, types) for name, types in groups.items()},
        by_type={name: _accuracy(members) for name, members in by_type.items()},
        by_wording={name: _accuracy_by_wording(members) for name, members in by_type.items()},
        ablation=_ablations(index, views["clean"]),
        no_answer={view: _no_answer_share(members) for view, members in rows.items()},
    )


def _by_benchmark_and_type(queries: Sequence[Query]) -> dict[str, dict[str, list[Query]]]:
    groups: dict[str, dict[str, list[Query]]] = defaultdict(lambda: defaultdict(list))
    for query in sorted(queries, key=lambda q: (q.benchmark, q.type)):
        groups[query.benchmark][query.type].append(query)
    return groups


def _scores_by_benchmark(
    index: ResponseIndex, groups: Mapping[str, Mapping[str, list[Query]]]
) -> dict[str, BenchmarkScores]:
    scores = {}
    for name, types in groups.items():
        members = [query for of_type in types.values() for query in of_type]
        scores[name] = index.benchmark_scores(name, members)
    return scores


def _scores_by_type(
    index: ResponseIndex, types: Mapping[str, list[Query]]
) -> dict[str, GroupScores]:
    return {kind: index.group_scores(members) for kind, members in types.items()}


def _accuracy_by_wording(rows: ScoredRows) -> dict[str, Estimate]:
    return {wording: _accuracy(members) for wording, members in _group_by(rows, "wording").items()}


def _ablations(index: ResponseIndex, clean: Sequence[Query]) -> dict[str, Estimate]:
    estimates = {}
    for view, name in HIDDEN.items():
        rows = index.rows(clean, view)
        if rows:
            estimates[name] = _accuracy(rows)
    return estimates


def _no_answer_share(rows: ScoredRows) -> float:
    return sum(response.outcome is Outcome.no_answer for _, response in rows) / len(rows)


def queries_hash(queries: Iterable[Query]) -> str:
    """Return the identity of queries, independent of their order and the place of their media."""
    ordered = sorted(queries, key=lambda q: q.key)
    without_uri = {"media": {"__all__": {"uri"}}}
    return digest([q.model_dump(mode="json", exclude=without_uri) for q in ordered])
