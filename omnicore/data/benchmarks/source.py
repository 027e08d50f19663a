"""A local copy of a benchmark or training source: its annotation files and its media."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from omnicore.data.benchmarks.archives import check_shards
from omnicore.data.benchmarks.fields import duration_range, field_text
from omnicore.data.benchmarks.formats import json_members
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Refused
from omnicore.data.benchmarks.source_media import SourceMedia
from omnicore.errors import ConfigError, DataError


class AnnotationSource:
    """A local copy of a benchmark.

    Attributes:
        entry: The benchmark in the registry.
        root: Folder of the copy.
        layout: The one of `entry.annotations` that the copy has.
        media: The media of the copy.
        size: Published number of items, 0 where it is not known.
        lost_by_value: By field and value of `entry.shares`: items, and lost items.
        columns: All fields that items have had, in order.
    """

    def __init__(
        self,
        entry: BenchmarkEntry,
        root: Path,
        scratch: Path | None = None,
        media_root: Path | None = None,
    ) -> None:
        """Open a local copy.

        Args:
            entry: The benchmark in the registry.
            root: Folder of the copy.
            scratch: Folder for media that lie inside tables.
            media_root: Folder to which paths of media are relative, `root` unless given.

        Raises:
            ConfigError: The copy has none of `entry.annotations`.
            DataError: Shards of an annotation file are missing.
        """
        self.entry, self.root = entry, root
        self.media = SourceMedia(media_root or root, entry.archives, scratch)
        self.size = entry.size
        self.lost_by_value: dict[tuple[str, str], tuple[int, int]] = {}
        self.columns: dict[str, None] = {}
        self._next_numbers: dict[str, int] = {}
        self._warnings: list[Refused] = []
        self.layout = self._find_layout()
        check_shards(chain.from_iterable(map(root.glob, entry.annotations)))

    def _find_layout(self) -> str:
        for pattern in self.entry.annotations:
            if next(self.root.glob(pattern), None) is not None:
                return pattern
        own, *others = self.entry.annotations
        besides = ""
        if others:
            besides = f", and so is each other layout that is read: {', '.join(others)}"
        download = ", or download it with --hub" if self.entry.on_hub else ""
        raise ConfigError(
            f"{self.root} is not a copy of {self.entry.title}: {own} is missing{besides}. Give the"
            f" folder as {self.entry.source} lays it out{download}",
            code="benchmark-copy-not-found",
            path=self.root,
        )

    def json_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Yield the items of a JSON list, or the members of a JSON object, with their lines.

        Raises:
            DataError: The file is broken, which leaves no way to tell its items apart.
        """
        path = self.root / name
        try:
            text = path.read_text(encoding="utf-8-sig")
            line, counted = 1, 0
            for key, value, start, end in json_members(text):
                line += text.count("\n", counted, start)
                counted = start
                yield AnnotationRow.from_json(name, line, key, value, text[start:end])
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{error.lineno}: broken JSON, {error.msg}; copy the file again from"
                f" {self.entry.source}",
                code="annotations-broken-json",
                path=path,
                line=error.lineno,
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8: {error}; copy the file again from {self.entry.source}",
                code="annotations-not-utf8",
                path=path,
            ) from error

    def jsonl_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Yield the items of a JSONL file; a broken line is an item that says so."""
        with (self.root / name).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value: Any = json.loads(line.decode("utf-8-sig"))
                except ValueError as error:
                    yield AnnotationRow(name, number, {}, f"broken JSON, {error}")
                else:
                    yield AnnotationRow.from_json(name, number, "", value, "")

    def parquet_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Yield the rows of a Parquet file, or of all that match a pattern.

        Rows are read a few at a time, since one may hold megabytes of media. Memory does not grow
        with the number of row groups, but holds the largest of them.

        Raises:
            DataError: A file is broken.
        """
        import pyarrow.parquet as pq

        for path in sorted(self.root.glob(name)):
            file, number = str(path.relative_to(self.root)), 0
            try:
                # With pre_buffer, or without a small buffer, pyarrow holds whole row groups: 1.3 GB
                # for 1.2 GB of media.
                table = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
                for batch in table.iter_batches(8, use_threads=False):
                    for fields in batch.to_pylist():
                        number += 1
                        yield AnnotationRow(file, number, fields)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path}: broken Parquet after row {number}, {error}; copy it again",
                    code="annotations-broken-parquet",
                    path=path,
                    line=number,
                ) from error

    def numbered_name(self, group: str) -> str:
        """Return a name for an item that has none: its group with the item's number in it."""
        return f"{group}-{self.next_number(group)}"

    def next_number(self, group: str) -> int:
        """Return 0, 1, 2 ... for the calls with one group: ids for items that have none."""
        self._next_numbers[group] = self._next_numbers.get(group, -1) + 1
        return self._next_numbers[group]

    def warn(self, field: str, message: str) -> None:
        """Record that the current item is kept although one of its fields is doubtful."""
        self._warnings.append(Refused(field, message))

    def take_warnings(self) -> list[Refused]:
        """Return the warnings since the last call."""
        taken, self._warnings = self._warnings, []
        return taken

    def existing_folder(self, *names: str) -> str:
        """Return the first of these that is a folder of the copy, with a slash, for a file's name.

        Empty, the root, if none is.
        """
        for name in names:
            if (self.root / name).is_dir():
                return f"{name}/"
        return ""

    def count_item(self, row: AnnotationRow, *, items: int, lost: int) -> None:
        """Add an item's fields to `columns`, and it or its loss to `lost_by_value`."""
        self.columns |= dict.fromkeys(row.fields)
        for field in self.entry.shares:
            value = duration_range(field_text(row.fields.get(field)))
            if value:
                all_items, all_lost = self.lost_by_value.get((field, value), (0, 0))
                self.lost_by_value[field, value] = all_items + items, all_lost + lost
