"""The journal of finished batches that makes long steps resumable.

A step that asks a model thousands of things writes each finished batch to a `Journal`. After a kill
at any moment the same step opens the same journal and leaves out what is done.
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
    """Batches of finished work, one JSON list of records a line; every record has its own string
    `key`.

    A batch is one line so that a kill in the middle of a write loses the whole batch, never a part
    of it. Only the keys are held in memory, with the place of their line: `journal[key]` reads the
    record back from the disk, whether it was written now or before, so a step that builds its
    output from it gives the same bytes after a kill as without one.
    """

    def __init__(self, path: Path) -> None:
        """Opens or starts a journal; a last line without its end is cut off.

        Any other broken line raises DataError.
        """
        self.path = path
        self._places: dict[str, int] = {}
        with storage_errors(path):
            if path.exists():
                self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._places[key])
            return next(
                dict(record) for record in json.loads(file.readline()) if record["key"] == key
            )

    def append(self, *batches: Sequence[Mapping[str, Any]]) -> None:
        """Writes batches to the disk; when this returns, no kill can lose them.

        Raises ValueError for a key given twice.
        """
        lines = [to_json(list(batch), inf_nan_mode="null") + b"\n" for batch in batches]
        self._check([record["key"] for batch in batches for record in batch])
        with storage_errors(self.path), self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                rest = memoryview(b"".join(lines))
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                # Half a batch left here would become a broken line in the middle if this process goes on.
                with suppress(OSError):
                    file.truncate(size)
                raise
        for batch, line in zip(batches, lines, strict=True):
            self._places.update((record["key"], size) for record in batch)
            size += len(line)

    def _read(self) -> None:
        place = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, place)
                    break
                try:
                    keys = [record["key"] for record in from_json(line)]
                    self._check(keys)
                except (ValueError, TypeError, KeyError) as error:
                    raise DataError(
                        f"{self.path}:{number}: broken line in a journal; remove the file and its"
                        " work is done again"
                    ) from error
                self._places.update(dict.fromkeys(keys, place))
                place += len(line)

    def _check(self, keys: Sequence[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise ValueError(f"keys of a journal are strings, not {keys}")
        if len(set(keys)) < len(keys) or not self._places.keys().isdisjoint(keys):
            raise ValueError(f"a key is in {self.path} twice: {keys}")
