"""Files of records: the journal that makes long steps resumable, and JSON and JSONL files that are whole or absent.

A step that asks a model thousands of things writes each finished batch to a `Journal`. After a kill at any moment the
same step opens the same journal and leaves out what is done.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from omnicore.errors import DataError, OmniError, StorageError

T = TypeVar("T")

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what a full or refusing disk raises inside the block into a StorageError with the remedy."""
    try:
        yield
    except OmniError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and other native writers report a full disk in the text of an error of their own.
        if number in FULL or os.strerror(errno.ENOSPC) in str(error):
            raise StorageError(
                f"no space left on the disk of {path}: free some (see `df -h {path.parent}`) and give the same command again, "
                "it goes on where it was"
            ) from error
        if isinstance(error, OSError) and number in REFUSED:
            refused = error.filename or path
            raise StorageError(f"{refused}: {error.strerror}; check its owner and permissions, or give another path") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only when the block ends well; before that it is `<path>.tmp`."""
    temporary = path.with_name(path.name + ".tmp")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: BaseModel | Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes one JSON value, indented; NaN becomes null. The file is whole or absent."""
    with replacing(path) as file:
        file.write(to_json(value, indent=1, inf_nan_mode="null") + b"\n")


def read_json(path: Path) -> Any:
    """Reads one JSON value. Raises DataError when the file is missing or broken."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the step that writes it again")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; run the step that wrote it again") from error


def write_jsonl(path: Path, records: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Writes one record a line, in the order given; NaN becomes null. The file is whole or absent."""
    with replacing(path) as file:
        for record in records:
            file.write(to_json(record, inf_nan_mode="null") + b"\n")


def append_jsonl(path: Path, record: BaseModel | Mapping[str, Any]) -> None:
    """Adds one record to a file of `write_jsonl` that grows while a step works, for those who watch it; NaN becomes null."""
    with path.open("ab") as file:
        file.write(to_json(record, inf_nan_mode="null") + b"\n")


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Reads one `kind` a line: a pydantic model, or `dict` for free-form rows.

    Raises DataError naming file, line and field at the first line that is no `kind`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the step that writes it again")
    adapter = TypeAdapter(kind)
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                records.append(adapter.validate_json(line.rstrip(b"\n")))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ":".join(map(str, (path, number, *first["loc"])))
                raise DataError(f"{where}: {first['msg']}; mend the line, or run the step that wrote it again") from error
    return records


class Journal:
    """Batches of finished work, one JSON list of records a line; every record has its own string `key`.

    A batch is one line so that a kill in the middle of a write loses the whole batch, never a part of it. Only the keys are
    held in memory, with the place of their line: `journal[key]` reads the record back from the disk, whether it was written
    now or before, so a step that builds its output from it gives the same bytes after a kill as without one.
    """

    def __init__(self, path: Path) -> None:
        """Opens or starts a journal; a last line without its end is cut off. Any other broken line raises DataError."""
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
            return next(dict(record) for record in json.loads(file.readline()) if record["key"] == key)

    def append(self, *batches: Sequence[Mapping[str, Any]]) -> None:
        """Writes batches to the disk; when this returns, no kill can lose them. Raises ValueError for a key given twice."""
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
                        f"{self.path}:{number}: broken line in a journal; remove the file and its work is done again"
                    ) from error
                self._places.update(dict.fromkeys(keys, place))
                place += len(line)

    def _check(self, keys: Sequence[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise ValueError(f"keys of a journal are strings, not {keys}")
        if len(set(keys)) < len(keys) or not self._places.keys().isdisjoint(keys):
            raise ValueError(f"a key is in {self.path} twice: {keys}")
