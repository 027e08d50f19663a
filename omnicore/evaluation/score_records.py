"""Define the records of `scores.json` and `items.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omnicore.errors import DataError
from omnicore.schema import Estimate, Query, QueryKey, Record
from omnicore.storage.files import read_json


class OfficialAggregates(Record):
    """Macro over benchmarks and micro over queries, by the publishers' rules."""

    macro: Estimate
    micro: Estimate


class Aggregates(Record):
    """Macro over benchmarks, micro over queries, and the macro corrected for chance."""

    macro: Estimate
    micro: Estimate
    chance_corrected: Estimate


class ReplyCounts(Record):
    """Counts behind a figure; only `errors` are not in it."""

    queries: int
    errors: int
    no_answer: int
    truncated: int


class GroupScores(Record):
    """Figures of one group of queries; `official` and `counts` are by view, `raw` and `clean`.

    Attributes:
        raw: Strict accuracy on all its queries; None without a reply.
        clean: The same on the clean view.
        chance: What a guesser gets.
        clean_chance: The same on the clean view; None where it is empty.
        official: Score by the publisher's rule, None unless every reply has one.
        counts: Counts behind the figures.
    """

    raw: Estimate | None
    clean: Estimate | None
    chance: float
    clean_chance: float | None
    official: dict[str, Estimate | None] | None
    counts: dict[str, ReplyCounts]


class BenchmarkScores(GroupScores):
    """Figures of one benchmark.

    Attributes:
        publisher: The publisher's figures that are no mean of scores (an F1, an error in counts),
            by view; None where there are none.
    """

    publisher: dict[str, dict[str, int | float]] | None


class Figures(Record):
    """Figures of an evaluation; mappings named `raw` and `clean` are by view.

    Attributes:
        raw: Aggregates over all queries.
        clean: Aggregates over the clean view.
        official: Aggregates by the publishers' rules.
        chance: Mean chance level over benchmarks.
        counts: Counts behind the figures.
        by_benchmark: Figures by benchmark.
        by_benchmark_type: Figures by benchmark and type.
        by_type: Accuracy by type, controls included.
        by_wording: Accuracy by type and wording, controls included.
        ablation: Micro accuracy on the clean view with `no_audio`, `no_image` or `no_media`.
        no_answer: Share of replies without a readable answer.
    """

    raw: Aggregates
    clean: Aggregates
    official: dict[str, OfficialAggregates | None]
    chance: dict[str, float]
    counts: dict[str, ReplyCounts]
    by_benchmark: dict[str, BenchmarkScores]
    by_benchmark_type: dict[str, dict[str, GroupScores]]
    by_type: dict[str, Estimate]
    by_wording: dict[str, dict[str, Estimate]]
    ablation: dict[str, Estimate]
    no_answer: dict[str, float]


class EvaluationIdentity(Record):
    """What was evaluated.

    Attributes:
        model: Name of the model; `checkpoint` for a trained one.
        profile_hash: Hash of the profile.
        profile: The profile.
        manifest_hash: Hash of the manifest of the clean view.
        queries_hash: Hash of the queries.
    """

    model: str
    profile_hash: str
    profile: dict[str, Any]
    manifest_hash: str
    queries_hash: str


class Scores(Figures, EvaluationIdentity):
    """`scores.json` of one evaluation; `errors` counts failed requests."""

    errors: int


class EvaluatedQuery(Record):
    """One line of `items.jsonl`: the fields of a query that its figures need.

    Attributes:
        benchmark: Benchmark of the query.
        id: Id of the query.
        type: Its type.
        cluster: Its cluster.
        kept: Whether the clean view has it.
        wording: Name of the template of its question, where the benchmark has some.
    """

    benchmark: str
    id: str
    type: str
    cluster: str
    kept: bool
    wording: str = ""

    @classmethod
    def of(cls, query: Query, kept: bool) -> EvaluatedQuery:
        """Return the record of a query."""
        return cls(
            benchmark=query.benchmark,
            id=query.id,
            type=query.type,
            cluster=query.cluster,
            kept=kept,
            wording=query.wording,
        )

    @property
    def key(self) -> QueryKey:
        """Return benchmark and id."""
        return self.benchmark, self.id


def read_scores(folder: Path) -> Scores:
    """Read `scores.json` of an output of evaluate.

    Raises:
        DataError: The file is missing, or another version of omnicore wrote it.
    """
    path = folder / "scores.json"
    try:
        return Scores.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path}: {field}: {first['msg']}; another version of omnicore wrote it: evaluate"
            " again",
            code="scores-invalid",
            path=path,
            field=field,
        ) from error
