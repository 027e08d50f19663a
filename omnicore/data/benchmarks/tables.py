"""Tables of benchmarks and training sets: VLMEvalKit's TSV files, and the cells of any table."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omnicore.data.benchmarks.options import split_labels
from omnicore.data.benchmarks.records import AnnotationRow, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.errors import DataError

# VLMEvalKit's files may hold whole pictures as text; the csv module's own limit is 128 KB a cell.
_MAX_CELL = 1 << 30


def text_table_rows(source: AnnotationSource, name: str, delimiter: str) -> Iterator[AnnotationRow]:
    """Yield the rows of a CSV or TSV file as pandas writes it.

    It has a header, and quotes only where a cell holds the delimiter, a quote or a line break.
    `line` counts rows, since a cell may span lines.

    Raises:
        DataError: The file is not UTF-8.
    """
    csv.field_size_limit(_MAX_CELL)
    path = source.root / name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(csv.DictReader(file, delimiter=delimiter), 1):
                if None in fields:
                    message = "has more cells than the header has columns"
                    yield AnnotationRow(name, number, {}, message)
                else:
                    yield AnnotationRow(name, number, fields)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error}; copy the file again",
            code="annotations-not-utf8",
            path=path,
        ) from error


def without_blank_cells(rows: Iterable[AnnotationRow]) -> Iterator[AnnotationRow]:
    """Yield rows without their blank cells.

    A cell that an adapter needs is then missing, as a key is in JSON, and never the text "None".
    """
    for row in rows:
        fields = {name: value for name, value in row.fields.items() if not is_blank(value)}
        yield replace(row, fields=fields)


def is_blank(value: Any) -> bool:
    """Return whether a cell is null, NaN (what pandas makes of null), or text of only spaces."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def parse_options(field: str, value: Any) -> tuple[list[str], list[str]]:
    """Return names and bare texts of options.

    An answer may call an option by its name: its label where it is an object, else its text as it
    stands.

    Args:
        field: Field of the item that holds the options, for refusals.
        value: A list of texts, labelled or not, or of {label, text} objects; {label: [..], text:
            [..]}, as ARC has them; {A: .., B: ..}, as Video-Holmes has them; or one of these as
            Python or JSON writes it.

    Raises:
        Refused: The value is none of these, or an option is blank.
    """
    options = _option_list(field, value)
    texts = []
    labels = []
    for place, option in enumerate(options, 1):
        text = option
        if isinstance(option, Mapping):
            text = option.get("text")
            labels.append(str(option.get("label", "")).strip(" .)(").upper())
        if is_blank(text):
            raise Refused(field, f"option {place} is blank")
        if not isinstance(text, str | int | float):
            raise Refused(field, f"option {place} is not a text")
        texts.append(cell_text(text).strip())
    has_labels = any(labels)
    if has_labels and not _is_in_turn(labels, len(options)):
        shown = ", ".join(labels)
        raise Refused(field, f"are not labelled A, B or 1, 2 in turn, but {shown}")
    return (labels if has_labels else texts), split_labels(field, texts)[1]


def _option_list(field: str, value: Any) -> list[Any]:
    """Return options as a list of texts or {label, text} objects."""
    options = parse_value(value) if isinstance(value, str) else value
    if isinstance(options, Mapping):
        columns = list(options.values())
        if options.keys() == {"label", "text"} and all(isinstance(c, list) for c in columns):
            pairs = list(zip(options["label"], options["text"], strict=True))
        else:
            pairs = [(label, text) for label, text in options.items() if text is not None]
        options = [{"label": label, "text": text} for label, text in pairs]
    if not isinstance(options, list):
        raise Refused(field, f"is not a list: {value!r:.60}")
    return options


def _is_in_turn(labels: list[str], count: int) -> bool:
    """Return whether labels are A, B ..., 0, 1 ... or 1, 2 ... for all options."""
    letters = [chr(65 + place) for place in range(count)]
    from_zero = [str(place) for place in range(count)]
    from_one = [str(place + 1) for place in range(count)]
    return labels in (letters, from_zero, from_one)


def parse_value(text: str) -> Any:
    """Return the Python or JSON value that a text is, None for none; nothing is evaluated."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def cell_text(value: Any) -> str:
    """Return a cell as text.

    pandas keeps a column of whole numbers with a gap as floats: 3.0 is 3.
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
