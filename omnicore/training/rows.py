"""Training rows: queries of a step's input as prompts, through the same reader that the engine
uses.

A row's prompt is built when its batch is due: a hundred thousand videos fit into no memory. What
must be known of all rows before the first step, their lengths, comes from the headers of their
media.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnicore.config import Profile, TrainingConfig
from omnicore.data.prompts import prompt_parts
from omnicore.engines.base import Request
from omnicore.engines.transformers import PromptReader
from omnicore.errors import DataError
from omnicore.models.processor import Prompt
from omnicore.schema import Query, View
from omnicore.storage.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class TrainingRow:
    """A query that is asked as `request`; `reply` holds the target's token ids where there is a
    target.

    `tokens` counts those of prompt and reply, the media's by their headers.
    """

    query: Query
    request: Request
    reply: list[int]
    tokens: int
    reader: PromptReader = field(repr=False, compare=False)

    @property
    def prompt(self) -> Prompt:
        """Built anew each time; its media are processed once, as long as the reader has room.

        Raises DataError naming the row where a medium cannot be read, or was changed.
        """
        with error_context(self.request.name):
            return self.reader.prompt(self.request)


def read_rows(
    path: Path, reader: PromptReader, profile: Profile, *, targets: bool, view: View = View.omni
) -> list[TrainingRow]:
    """Reads `path` (Query a line), as `view` shows them.

    Raises DataError when it is missing, empty, or lacks a target that is needed, or a medium's
    header cannot be read, naming line and row.
    """
    queries: Sequence[Query] = read_jsonl(path, Query)
    if not queries:
        raise DataError(f"{path} holds no rows: nothing to train on")
    rows = []
    for number, query in enumerate(queries, 1):
        if targets and query.target is None:
            raise DataError(
                f"{path}:{number}: field `target` is empty, and supervised training needs a written"
                " reply"
            )
        request = Request(prompt_parts(query, view, profile), path.parent, "/".join(query.key))
        reply = reader.encoder.reply_ids(query.target) if query.target else []
        with error_context(f"{path}:{number}: {request.name}"):
            rows.append(
                TrainingRow(query, request, reply, reader.length(request) + len(reply), reader)
            )
    return rows


@contextmanager
def error_context(row: str) -> Iterator[None]:
    """Put the name of a row before what is wrong with its media."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{row}: {error}") from error


def filter_by_length(
    rows: Sequence[TrainingRow],
    config: TrainingConfig,
    output: Path,
    *,
    context: int,
    room: int = 0,
) -> list[TrainingRow]:
    """The rows that fit, whole, into `config.max_length`, or into the model's `context` of tokens
    where that is 0, with `room` left for what a rollout may say. The others are listed in
    `output/too_long.jsonl`: a truncated row would teach answers to what was not shown.

    Raises DataError when they are a larger share than `config.max_too_long`.
    """
    limit = min(config.max_length or context, context)
    kept: list[TrainingRow] = []
    listed: list[dict[str, Any]] = []
    for row in rows:
        seconds = max(
            (
                row.reader.seconds(part, row.request.root)
                for part in row.request.parts
                if not isinstance(part, str)
            ),
            default=0,
        )
        if row.tokens + room > limit or seconds > row.reader.encoder.longest_sound:
            size = {"tokens": row.tokens + room, "sound_seconds": round(seconds, 3)}
            listed.append({"benchmark": row.query.benchmark, "id": row.query.id, **size})
        else:
            kept.append(row)
    write_jsonl(output / "too_long.jsonl", listed)
    if len(listed) > config.max_too_long * len(rows):
        longest = max(listed, key=lambda one: int(one["tokens"]))
        raise DataError(
            f"{len(listed)} of {len(rows)} rows are too long for a context of {limit} tokens (or"
            f" hold a sound above {rows[0].reader.encoder.longest_sound:g} s), more than the"
            f" {config.max_too_long:.1%} that max_too_long allows; {output / 'too_long.jsonl'}"
            f" lists them, the longest is {longest['id']} of {longest['benchmark']} with"
            f" {longest['tokens']} tokens. Show less of videos (profile.fps, profile.max_frames),"
            f" raise max_length up to the model's {context}, or leave more of them out:"
            " max_too_long=0.05"
        )
    return kept
