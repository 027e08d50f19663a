"""Files of tables: JSONL, JSON, CSV, TSV, Parquet, and the Arrow of `datasets.save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from omnicore.data.benchmarks.records import AnnotationRow
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import text_table_rows
from omnicore.errors import ConfigError, DataError

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
MIN_BASE64 = 65  # characters, as in VLMEvalKit: a shorter cell is a path or an index


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
        return _with_referenced_pictures(source, name)
    if path.suffix == ".csv":
        return text_table_rows(source, name, ",")
    if path.suffix == ".arrow":
        return _arrow_rows(path, name)
    raise DataError(
        f"{path}: tables end in {', '.join(TABLE_SUFFIXES)}",
        code="benchmark-format-unknown",
        path=path,
    )


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


def _with_referenced_pictures(source: AnnotationSource, name: str) -> Iterator[AnnotationRow]:
    """Yield the rows of a TSV file, each with its own picture.

    In VLMEvalKit's files a cell `image` of at most 64 characters is the index of another row,
    before or after, whose picture it shares. Only shared pictures are held in memory.
    """
    shared = set()
    for row in text_table_rows(source, name, "\t"):
        picture = row.fields.get("image")
        if isinstance(picture, str) and len(picture) < MIN_BASE64:
            shared.add(picture)
    pictures: dict[str, str] = {}
    if shared:
        for row in text_table_rows(source, name, "\t"):
            index, picture = row.fields.get("index"), row.fields.get("image")
            if index in shared and isinstance(picture, str) and len(picture) >= MIN_BASE64:
                pictures[index] = picture
    for row in text_table_rows(source, name, "\t"):
        picture = row.fields.get("image")
        if picture in pictures:
            row = replace(row, fields={**row.fields, "image": pictures[picture]})
        yield row
