"""Training rows: queries of a step's input as prompts, built by the reader that the engine uses.

A row's prompt is built when its batch is due: a hundred thousand videos do not fit into memory. The
lengths of all rows, which are needed before the first step, come from the headers of their media.
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
    """A query to train on.

    Attributes:
        query: The query.
        request: How the query is asked.
        reply: Token ids of the target; empty without one.
        tokens: Length of prompt and reply; media count by their headers.
        reader: Builds the prompt.
    """

    query: Query
    request: Request
    reply: list[int]
    tokens: int
    reader: PromptReader = field(repr=False, compare=False)

    @property
    def prompt(self) -> Prompt:
        """The prompt, built anew each time; the reader caches processed media while it has room.

        Raises:
            DataError: A medium cannot be read, or was changed; the error names the row.
        """
        with error_context(self.request.name):
            return self.reader.prompt(self.request)


def read_rows(
    path: Path, reader: PromptReader, profile: Profile, *, targets: bool, view: View = View.omni
) -> list[TrainingRow]:
    """Read queries as training rows.

    Args:
        path: A file with a Query a line.
        reader: Builds the prompts.
        profile: How prompts are shown.
        targets: Whether each row needs a target.
        view: Which modalities are shown.

    Raises:
        DataError: The file is missing or empty, a target is missing, or the header of a medium
            cannot be read.
    """
    queries: Sequence[Query] = read_jsonl(path, Query)
    if not queries:
        raise DataError(
            f"{path} holds no rows to train on: check prepare.training and prepare.*_rows",
            code="training-no-rows",
            path=path,
        )
    rows = []
    for number, query in enumerate(queries, 1):
        if targets and query.target is None:
            raise DataError(
                f"{path}:{number}: field `target` is empty; supervised training needs a written"
                " reply",
                code="training-row-without-target",
                path=path,
                line=number,
                field="target",
            )
        request = Request(prompt_parts(query, view, profile), path.parent, "/".join(query.key))
        reply = reader.encoder.reply_ids(query.target) if query.target else []
        with error_context(f"{path}:{number}: {request.name}"):
            length = reader.length(request) + len(reply)
        rows.append(TrainingRow(query, request, reply, length, reader))
    return rows


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Put the name of a row before the message of a DataError within the block."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}", **error.details()) from error


def filter_by_length(
    rows: Sequence[TrainingRow],
    config: TrainingConfig,
    output: Path,
    *,
    context: int,
    room: int = 0,
) -> list[TrainingRow]:
    """Return the rows that fit whole; list the others in `output/too_long.jsonl`.

    A truncated row would teach answers to what was not shown.

    Args:
        rows: Rows to filter.
        config: Its `max_length` is the limit; the model's context if that is 0.
        output: Where the list is written.
        context: Tokens that the model's context holds.
        room: Tokens to leave for the reply of a rollout.

    Raises:
        DataError: More than the share `config.max_too_long` of the rows are too long.
    """
    limit = min(config.max_length or context, context)
    kept: list[TrainingRow] = []
    too_long: list[dict[str, Any]] = []
    for row in rows:
        seconds = _longest_sound(row)
        tokens = row.tokens + room
        if tokens > limit or seconds > row.reader.encoder.longest_sound:
            query = row.query
            size = {"tokens": tokens, "sound_seconds": round(seconds, 3)}
            too_long.append({"benchmark": query.benchmark, "id": query.id, **size})
        else:
            kept.append(row)
    path = output / "too_long.jsonl"
    write_jsonl(path, too_long)
    if len(too_long) > config.max_too_long * len(rows):
        longest = max(too_long, key=lambda one: int(one["tokens"]))
        raise DataError(
            f"{len(too_long)} of {len(rows)} rows are too long for a context of {limit} tokens (or"
            f" hold a sound above {rows[0].reader.encoder.longest_sound:g} s), more than the"
            f" {config.max_too_long:.1%} that max_too_long allows; {path} lists them, the longest"
            f" is {longest['id']} of {longest['benchmark']} with {longest['tokens']} tokens. Show"
            f" less of videos (profile.fps, profile.max_frames), raise max_length up to the model's"
            f" {context}, or leave more of them out: max_too_long=0.05",
            code="training-rows-too-long",
            path=path,
            field="max_too_long",
        )
    return kept


def _longest_sound(row: TrainingRow) -> float:
    """Return the seconds of the longest sound of a row, 0 without one."""
    seconds: list[float] = []
    for part in row.request.parts:
        if not isinstance(part, str):
            seconds.append(row.reader.seconds(part, row.request.root))
    return max(seconds, default=0)
