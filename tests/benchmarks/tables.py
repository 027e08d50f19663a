"""Parquet fixtures: rows are written by hand in `<name>/rows.json`, their media are made here.

A cell of a media column reads "picture:red", "tone:440" (Hz), "video:330" (the tone of its track),
"text:..." for bytes that are no medium, or "path:..." for a file of the copy; absent is null.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.native import HERE
from tests.media_files import make_picture, make_tone, make_video

Form = Literal["bytes", "feature"]  # raw bytes, or the hub's Image and Audio: {"bytes", "path"}


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / name / "rows.json").read_text())
    return found


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    media: Sequence[str],
    form: Form,
    group: int = 100,
) -> Path:
    """Rows as a table in which the columns `media` hold files in a form; `group` rows a row
    group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    filled = [{**row, **{column: cell(row.get(column), form) for column in media}} for row in rows]
    pq.write_table(pa.Table.from_pylist(filled), path, row_group_size=group)
    return path


def cell(text: str | None, form: Form) -> Any:
    if text is None:
        return None
    kind, _, value = text.partition(":")
    if kind == "path":
        return {"bytes": None, "path": value} if form == "feature" else value
    data = value.encode() if kind == "text" else made(kind, value)
    return (
        {"bytes": data, "path": f"{kind}.bin" if kind != "text" else None}
        if form == "feature"
        else data
    )


@cache
def made(kind: str, value: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if kind == "picture":
            return make_picture(root / "made.png", value, (32, 24)).read_bytes()
        if kind == "tone":
            return make_tone(root / "made.wav", float(value), 0.3).read_bytes()
        return make_video(root / "made.mp4", 1.0, 8, (64, 48), float(value)).read_bytes()
