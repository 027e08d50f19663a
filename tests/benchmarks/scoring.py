"""What the tests of adapters share: all queries of a copy, and the two scores of a reply."""

from __future__ import annotations

from pathlib import Path

from omnicore.data.benchmarks import get_adapter, official_scorer
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from omnicore.scoring.verify import judge


def queries(name: str, folder: Path, scratch: Path | None = None) -> dict[str, Query]:
    """By id; the copy holds no problem."""
    found = get_adapter(name)
    rows, problems, native = read_queries(found, AnnotationSource(found.ENTRY, folder, scratch))
    assert problems == []
    assert len(rows) == native > 0
    return {row.id: row for row in rows}


def both(query: Query, reply: str) -> tuple[float, str]:
    """The publisher's score and our outcome, for options lettered in the query's own order."""
    rule = official_scorer(query.benchmark)
    assert rule is not None
    return rule(query, reply), str(judge(reply, query, "letter")[1])
