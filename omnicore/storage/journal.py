"""Append-only journal of finished batches; it makes long steps resumable.

A step that asks a model thousands of questions writes each finished batch to a `Journal`. After a
kill at any moment, the same step opens the same journal and skips the finished batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from omnicore.errors import DataError
from omnicore.storage.files import storage_errors


class Journal:
    """Batches of finished work: one JSON list of records a line, each record with a unique `key`.

    A batch is one line, so a kill during a write loses the whole batch and never a part of it.
    Memory holds only the keys and the offset of their line: `journal[key]` reads the record from
    disk, whether it was written now or earlier. A step that builds its output from these records
    therefore writes the same bytes with or without a kill.
    """

    def __init__(self, path: Path) -> None:
        """Open or start a journal; truncate a last line without a newline.

        Raises:
            DataError: Any other line is not a list of records with new keys.
        """
        self.path = path
        self._offsets: dict[str, int] = {}
        with storage_errors(path):
            if path.exists():
                self._index_lines()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __getitem__(self, key: str) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._offsets[key])
            for record in json.loads(file.readline()):
                if record["key"] == key:
                    return dict(record)
        raise KeyError(key)

    def append(self, *batches: Sequence[Mapping[str, Any]]) -> None:
        """Write batches and flush them to disk; no later kill can lose them.

        Raises:
            ValueError: A key is repeated or is not a string.
        """
        lines = [to_json(list(batch), inf_nan_mode="null") + b"\n" for batch in batches]
        self._check_keys([record["key"] for batch in batches for record in batch])
        with storage_errors(self.path), self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                rest = memoryview(b"".join(lines))
                while rest:
                    written = file.write(rest)
                    rest = rest[written:]
                os.fsync(file.fileno())
            except BaseException:
                # If this process continues, half a batch would become a broken line in the middle.
                with suppress(OSError):
                    file.truncate(size)
                raise
        for batch, line in zip(batches, lines, strict=True):
            self._offsets.update((record["key"], size) for record in batch)
            size += len(line)

    def _index_lines(self) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, offset)
                    break
                try:
                    keys = [record["key"] for record in from_json(line)]
                    self._check_keys(keys)
                except (ValueError, TypeError, KeyError) as error:
                    raise DataError(
                        f"{self.path}:{number}: broken line in a journal; remove the file to redo"
                        " its work",
                        code="journal-broken-line",
                        path=self.path,
                        line=number,
                    ) from error
                self._offsets.update(dict.fromkeys(keys, offset))
                offset += len(line)

    def _check_keys(self, keys: Sequence[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise ValueError(f"keys of a journal are strings, not {keys}")
        if len(set(keys)) < len(keys) or not self._offsets.keys().isdisjoint(keys):
            raise ValueError(f"{self.path} repeats a key: {keys}")
