"""Tables that evaluation kits repackage benchmarks as: VLMEvalKit's TSV files, and how blank cells of any table are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from omnicore.benchmarks.base import Row, Source
from omnicore.errors import DataError

# VLMEvalKit's files may hold whole pictures as text; the csv module's own limit is 128 KB a cell.
_LONGEST_CELL = 1 << 30


def tsv_rows(source: Source, name: str) -> Iterator[Row]:
    """Rows of a TSV file as pandas writes it: a header, quotes only where a cell holds a tab, a quote or a line break.

    `line` counts rows, since a cell may span lines. Raises DataError where the file is not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)
    path = source.root / name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(csv.DictReader(file, delimiter="\t"), 1):
                broken = "has more cells than the header has columns" if None in fields else ""
                yield Row(name, number, {} if broken else fields, broken)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}; copy the file again") from error


def filled(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows without their blank cells: what an adapter needs is then missing, as a key is in JSON, and never the text "None"."""
    for row in rows:
        yield replace(row, fields={name: value for name, value in row.fields.items() if not blank(value)})


def blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (what pandas makes of null), or text of spaces alone."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())
