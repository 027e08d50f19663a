"""From a publisher's files to queries, with an account of every item that could not become one.

An adapter is a module with four names:

  ENTRY                         the benchmark's record in the registry
  read_rows(source)             the native items with the place where each stands
  build_query(source, row)      one item as a Query; raises Refused, KeyError or ValidationError
  official_score(query, reply)  the publisher's score of one reply, 0..1, with the publisher's bugs,
                                which its docstring names; None where only a judge could tell that
                                is not here

and may have `official_figures(pairs)`: the publisher's figures over all (query, reply) that are not
a mean of `official_score`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from omnicore.data.benchmarks.fields import without_nulls
from omnicore.data.benchmarks.records import (
    AnnotationRow,
    BenchmarkEntry,
    Excluded,
    Problem,
    Refused,
)
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query

# Gives what is wrong with the media of queries, by their id.
MediaCheck = Callable[[Sequence[Query]], Mapping[str, str]]

# What an adapter raises for an item of another form than published.
_ITEM_ERRORS = (
    Refused,
    KeyError,
    ValidationError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
)
_CONTRADICTION = "the annotation cannot tell which is right"


class RowReader(Protocol):
    """The part of an adapter that makes queries of rows."""

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        """Yield the native items with the place where each stands."""

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        """Return an item as a query; raise Refused, KeyError or ValidationError if it cannot be."""


class Adapter(RowReader, Protocol):
    """A public benchmark."""

    @property
    def ENTRY(self) -> BenchmarkEntry:  # noqa: N802 - a constant of a module
        """The benchmark's record in the registry."""

    def official_score(self, query: Query, reply: str) -> float | None:
        """Return the publisher's score of a reply, 0..1, or None if only a judge could tell."""


def read_queries(
    adapter: RowReader, source: AnnotationSource, check_media: MediaCheck = lambda _: {}
) -> tuple[list[Query], list[Problem], int]:
    """Read a local copy.

    Of items with one id, the first is kept, unless two of them ask the same question and differ in
    the answer: neither is a query then, since the annotation alone cannot tell which is right.

    Args:
        adapter: Reads the rows and makes queries of them.
        source: The local copy.
        check_media: Gives what is wrong with the media of queries, by their id; these are refused.

    Returns:
        All queries, all problems, and the number of native items. The queries and the problems that
        are not `kept` add up to that number.
    """
    reader = _QueryReader(adapter, source)
    items = 0
    for row in adapter.read_rows(source):
        items += 1
        reader.add(row)
    reader.drop_contradicted()
    reader.drop_unreadable(check_media)
    return [query for query, _ in reader.queries.values()], reader.problems, items


class _QueryReader:
    """Queries and problems of the rows that were read so far."""

    def __init__(self, adapter: RowReader, source: AnnotationSource) -> None:
        self.queries: dict[str, tuple[Query, AnnotationRow]] = {}
        self.problems: list[Problem] = []
        self._adapter, self._source = adapter, source
        self._other_answers: dict[str, str] = {}  # by id of a query that another item contradicts
        self._dropped: dict[str, Refused] = {}

    def add(self, row: AnnotationRow) -> None:
        name = row.key
        self._source.take_warnings()
        self._source.count_item(row, items=1, lost=0)
        try:
            if row.broken:
                raise Refused("line", row.broken)
            query = self._adapter.build_query(self._source, without_nulls(row))
            name = query.id
            self._require_new(query)
            self.queries[name] = query, row
        except _ITEM_ERRORS as error:
            self._add_problem(row, name, error)
            return
        for warning in self._source.take_warnings():
            self._add_problem(row, name, warning, kept=True)

    def _require_new(self, query: Query) -> None:
        if query.id not in self.queries:
            return
        first, place = self.queries[query.id]
        is_same_question = (query.question, query.options) == (first.question, first.options)
        if is_same_question and query.answer != first.answer:
            self._other_answers[query.id] = query.answer
            raise Excluded(
                "answer",
                f"is {query.answer!r}, and {first.answer!r} at {place.file}:{place.line}:"
                f" {_CONTRADICTION}",
            )
        raise Refused("id", f"{query.id} occurs twice")

    def drop_contradicted(self) -> None:
        """Mark queries for removal that another item contradicts."""
        for name, other in self._other_answers.items():
            own = self.queries[name][0].answer
            self._dropped[name] = Excluded(
                "answer",
                f"is {own!r}, and {other!r} in another item with this id: {_CONTRADICTION}",
            )

    def drop_unreadable(self, check_media: MediaCheck) -> None:
        """Remove queries whose media cannot be read, and those marked before."""
        shown = [query for query, _ in self.queries.values() if query.id not in self._dropped]
        for name, message in check_media(shown).items():
            self._dropped[name] = Refused("media", message)
        for name, reason in self._dropped.items():
            _, row = self.queries.pop(name)
            self.problems = [p for p in self.problems if not (p.kept and p.id == name)]
            self._add_problem(row, name, reason)

    def _add_problem(
        self, row: AnnotationRow, name: str, error: Exception, *, kept: bool = False
    ) -> None:
        field, message = _field_and_message(self._source, error)
        problem = Problem(
            benchmark=self._source.entry.name,
            file=row.file,
            line=row.line,
            id=name,
            field=field,
            message=message,
            excluded=isinstance(error, Excluded),
            kept=kept,
        )
        self.problems.append(problem)
        self._source.count_item(row, items=0, lost=int(problem.refused))


def _field_and_message(source: AnnotationSource, error: Exception) -> tuple[str, str]:
    """Return the field of an item that an exception is about, and what is wrong with it."""
    match error:
        case Refused():
            return error.field, error.message
        case KeyError():
            return str(error.args[0]), "is missing"
        case ValidationError():
            first = error.errors(include_url=False)[0]
            return ".".join(map(str, first["loc"])) or "answer", first["msg"]
    return "item", f"has another form than {source.entry.title} publishes: {error}"
