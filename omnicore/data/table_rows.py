"""Rows of the `hub` format: a data set in Parquet or JSONL whose columns the recipe names.

Media are cells of the hub's features Image and Audio, or paths inside the data set.
"""

from __future__ import annotations

from typing import Any

from omnicore.config import TrainingSource
from omnicore.data.benchmarks.fields import plain_number
from omnicore.data.benchmarks.options import option_by_letter
from omnicore.data.benchmarks.records import AnnotationRow, MediaKind, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import cell_text, is_blank, parse_options
from omnicore.schema import AnswerKind, Media, Query
from omnicore.scoring.extract import parse_number

_MEDIA_KINDS: tuple[MediaKind, ...] = ("image", "audio", "video")


def query_from_table(source: AnnotationSource, row: AnnotationRow, config: TrainingSource) -> Query:
    """Return a row as a query.

    Raises:
        Refused: A question or an answer is missing, or the answer names none of the options.
        KeyError: A column that the recipe names is missing.
    """
    columns = config.columns

    def cell(name: str) -> Any:
        """Return the cell of a named column, None for a blank one or without such a column."""
        column = columns.get(name)
        value = None if column is None or column in row.null else row.fields[column]
        return None if is_blank(value) else value

    for name in ("question", "answer"):
        if cell(name) is None:
            raise Refused(columns[name], "is missing")
    media: list[Media] = []
    for medium in _MEDIA_KINDS:
        if cell(medium) is not None:
            media.append(source.media.embedded(columns[medium], medium, cell(medium)))
    names: list[str] = []
    options: list[str] = []
    if cell("options"):
        names, options = parse_options(columns["options"], cell("options"))
    written = answer = cell_text(cell("answer")).strip()
    target, native = cell("target"), {}
    kind = AnswerKind.text
    if options:
        kind = AnswerKind.choice
        answer = _right_option(columns["answer"], written, names, options)
    elif any(map(str.isdigit, written)) and parse_number(written, written) is not None:
        kind, answer = AnswerKind.number, plain_number(written)
        if answer != written:
            target, native = target or written, {"answer": written}
    given_id = cell("id")
    return Query(
        benchmark=source.entry.name,
        id=str(source.next_number("rows")) if given_id is None else cell_text(given_id),
        type=str(cell("type") or kind),
        question=str(cell("question")),
        options=tuple(options),
        answer=answer,
        answer_kind=kind,
        media=tuple(media),
        cluster=media[0].sha256 if media else "",
        native=native,
        target=str(target) if target else None,
    )


def _right_option(column: str, answer: str, names: list[str], options: list[str]) -> str:
    """Return the option that an answer is by its text, its name or its letter, in this order.

    An option may well be "A".
    """
    if answer in options:
        return answer
    if answer in names:
        return options[names.index(answer)]
    return option_by_letter(column, answer.strip("().:"), options)
