"""Training rows: queries of a step's input as prompts, through the same reader that the engine uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnicore.config import Profile
from omnicore.engines.base import Request
from omnicore.engines.transformers import Reader
from omnicore.errors import DataError
from omnicore.journal import read_jsonl
from omnicore.models.processor import Prompt
from omnicore.prompts import parts
from omnicore.schema import Query, View


@dataclass(frozen=True)
class Row:
    """A query with its prompt; `reply` holds the target's token ids where there is a target."""

    query: Query
    prompt: Prompt
    reply: list[int]


def read_rows(path: Path, reader: Reader, profile: Profile, *, targets: bool) -> list[Row]:
    """Reads `path` (Query a line). Raises DataError when it is missing, empty, or lacks a target that is needed."""
    queries: Sequence[Query] = read_jsonl(path, Query)
    if not queries:
        raise DataError(f"{path} holds no rows: nothing to train on")
    rows = []
    for number, query in enumerate(queries, 1):
        if targets and query.target is None:
            raise DataError(f"{path}:{number}: field `target` is empty, and supervised training needs a written reply")
        prompt = reader.prompt(Request(parts(query, View.omni, profile), path.parent))
        rows.append(Row(query, prompt, reader.encoder.reply_ids(query.target) if query.target else []))
    return rows
