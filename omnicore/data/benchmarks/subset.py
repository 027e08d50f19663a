"""A part of a benchmark: its first items, or a random sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from omnicore.data.benchmarks.adapter import Adapter
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query


@dataclass(frozen=True)
class Subset:
    """An adapter that gives some of another's items, in their order.

    Items are chosen before their media are read, so that a trial reads few files. `limit` takes
    the first items, then `sample` chooses among them; 0 takes all.
    """

    whole: Adapter
    limit: int
    sample: int
    seed: int

    @property
    def ENTRY(self) -> BenchmarkEntry:  # noqa: N802 - a constant of a module
        """The benchmark's record in the registry."""
        return self.whole.ENTRY

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        """Yield the chosen rows of the other adapter."""
        rows = islice(self.whole.read_rows(source), self.limit or None)
        if not self.sample:
            yield from rows
            return
        # Counted first and read again: rows of a table may hold gigabytes of media.
        count = sum(1 for _ in rows)
        chooser = random.Random(f"{self.seed}-{self.ENTRY.name}")
        chosen = set(chooser.sample(range(count), min(self.sample, count)))
        for place, row in enumerate(islice(self.whole.read_rows(source), self.limit or None)):
            if place in chosen:
                yield row

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        """Return an item as the other adapter does."""
        return self.whole.build_query(source, row)

    def official_score(self, query: Query, reply: str) -> float | None:
        """Score a reply as the other adapter does."""
        return self.whole.official_score(query, reply)
