"""Tables of benchmarks and training sets: VLMEvalKit's TSV files, and what the cells of any table
hold."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omnicore.data.benchmarks.base import AnnotationRow, AnnotationSource, Refused, split_labels
from omnicore.errors import DataError

# VLMEvalKit's files may hold whole pictures as text; the csv module's own limit is 128 KB a cell.
_LONGEST_CELL = 1 << 30


def tsv_rows(source: AnnotationSource, name: str) -> Iterator[AnnotationRow]:
    """Rows of a TSV file as pandas writes it: a header, quotes only where a cell holds a tab, a
    quote or a line break.

    `line` counts rows, since a cell may span lines. Raises DataError where the file is not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)
    path = source.root / name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(csv.DictReader(file, delimiter="\t"), 1):
                broken = "has more cells than the header has columns" if None in fields else ""
                yield AnnotationRow(name, number, {} if broken else fields, broken)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}; copy the file again") from error


def without_blank_cells(rows: Iterable[AnnotationRow]) -> Iterator[AnnotationRow]:
    """Rows without their blank cells: what an adapter needs is then missing, as a key is in JSON,
    and never the text "None"."""
    for row in rows:
        yield replace(
            row, fields={name: value for name, value in row.fields.items() if not is_blank(value)}
        )


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (what pandas makes of null), or text of spaces
    alone."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def parse_options(field: str, value: Any) -> tuple[list[str], list[str]]:
    """Names and bare texts of options: a list of texts, labelled or not, or of {label, text}
    objects; {label: [..], text: [..]}, as ARC has them; {A: .., B: ..}, as Video-Holmes has them;
    or one of these as Python or JSON writes it.

    An answer may call an
    option by its name: its label where it is an object, else its text as it stands. Raises Refused.
    """
    given = _parsed(value) if isinstance(value, str) else value
    if isinstance(given, Mapping):
        if given.keys() == {"label", "text"} and all(
            isinstance(column, list) for column in given.values()
        ):
            given = [
                {"label": label, "text": text}
                for label, text in zip(given["label"], given["text"], strict=True)
            ]
        else:
            given = [
                {"label": label, "text": text} for label, text in given.items() if text is not None
            ]
    if not isinstance(given, list):
        raise Refused(field, f"is no list: {value!r:.60}")
    texts = [option.get("text") if isinstance(option, Mapping) else option for option in given]
    for place, text in enumerate(texts, 1):
        if is_blank(text) or not isinstance(text, str | int | float):
            raise Refused(field, f"option {place} is {'blank' if is_blank(text) else 'no text'}")
    labels = [
        str(option.get("label", "")).strip(" .)(").upper()
        for option in given
        if isinstance(option, Mapping)
    ]
    turns = [
        [chr(65 + i) for i in range(len(given))],
        *([str(i + first) for i in range(len(given))] for first in (0, 1)),
    ]
    if any(labels) and labels not in turns:
        raise Refused(field, f"are not labelled A, B or 1, 2 in turn, but {', '.join(labels)}")
    written = [cell_text(text).strip() for text in texts]
    return (labels if any(labels) else written), split_labels(field, written)[1]


def _parsed(text: str) -> Any:
    """The Python or JSON value that a text is, None where it is none; nothing is evaluated."""
    for read_as in (ast.literal_eval, json.loads):
        try:
            return read_as(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def cell_text(value: Any) -> str:
    """A cell as text.

    pandas keeps a column of whole numbers with a gap as floats: 3.0 is 3.
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
