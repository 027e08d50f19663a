"""Files of tables: JSONL, JSON, CSV, TSV, Parquet, and the Arrow of `datasets.save_to_disk`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnicore.data.benchmarks.records import AnnotationRow
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import tsv_rows
from omnicore.errors import ConfigError, DataError

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
MIN_BASE64 = 256  # characters; a path is shorter, a picture longer


def only_pattern(name: str, root: Path) -> str:
    """Return the pattern of the one format of tables in a folder; `name` is the benchmark's.

    Raises:
        ConfigError: The folder holds tables of several formats, or none.
    """
    if (root / "dataset_info.json").is_file() and any(root.glob("*.arrow")):
        return "*.arrow"
    found = {suffix: sorted(root.glob(f"**/*{suffix}")) for suffix in TABLE_SUFFIXES}
    present = {suffix: files for suffix, files in found.items() if files}
    if len(present) != 1:
        names = [file.name for files in present.values() for file in files[:3]]
        listed = ", ".join(names) or "none"
        raise ConfigError(
            f"prepare.sources.{name}: {root} holds tables of {len(present)} formats ({listed});"
            " name the file, or a pattern as in files: data/test-*.parquet",
            code="benchmark-file-ambiguous",
            field=f"prepare.sources.{name}.files",
            path=root,
        )
    return f"**/*{next(iter(present))}"


def file_rows(source: AnnotationSource, path: Path) -> Iterator[AnnotationRow]:
    """Return the rows of a file by its suffix.

    Raises:
        DataError: The suffix is none of `TABLE_SUFFIXES`, or the file is broken.
    """
    name = str(path.relative_to(source.root))
    if path.suffix == ".jsonl":
        return source.jsonl_rows(name)
    if path.suffix == ".json":
        return source.json_rows(name)
    if path.suffix == ".parquet":
        return source.parquet_rows(name)
    if path.suffix == ".tsv":
        return _referenced_pictures(tsv_rows(source, name))
    if path.suffix == ".csv":
        return _csv_rows(path, name)
    if path.suffix == ".arrow":
        return _arrow_rows(path, name)
    raise DataError(
        f"{path}: tables end in {', '.join(TABLE_SUFFIXES)}",
        code="benchmark-format-unknown",
        path=path,
    )


def _csv_rows(path: Path, name: str) -> Iterator[AnnotationRow]:
    csv.field_size_limit(1 << 30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for place, fields in enumerate(csv.DictReader(file), 1):
                broken = "has more cells than the header has columns" if None in fields else ""
                yield AnnotationRow(name, place, {} if broken else fields, broken)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error}; save it as UTF-8",
            code="benchmark-not-utf8",
            path=path,
        ) from error


def _arrow_rows(path: Path, name: str) -> Iterator[AnnotationRow]:
    """Yield the rows of a file that `datasets` wrote: an Arrow stream."""
    import pyarrow

    place = 0
    try:
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
            for batch in reader:
                for start in range(0, len(batch), 8):  # a row may hold megabytes of media
                    for fields in batch.slice(start, 8).to_pylist():
                        place += 1
                        yield AnnotationRow(name, place, fields)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(
            f"{path}: broken Arrow after row {place}, {error}; save the data set again",
            code="benchmark-file-broken",
            path=path,
        ) from error


def _referenced_pictures(rows: Iterator[AnnotationRow]) -> Iterator[AnnotationRow]:
    """Yield VLMEvalKit's rows; a picture that is the index of another row is that row's picture."""
    pictures: dict[str, Any] = {}
    for row in rows:
        picture, index = row.fields.get("image"), row.fields.get("index")
        if isinstance(picture, str) and picture in pictures:
            yield replace(row, fields={**row.fields, "image": pictures[picture]})
            continue
        if isinstance(picture, str) and len(picture) >= MIN_BASE64 and index:
            pictures[index] = picture
        yield row
