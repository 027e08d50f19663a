"""JSON and JSONL files that are whole or absent, and storage errors with their remedy."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from omnicore.errors import DataError, OmniError, StorageError

T = TypeVar("T")

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what a full or refusing disk raises inside the block into a StorageError with the
    remedy."""
    try:
        yield
    except OmniError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and other native writers report a full disk in the text of an error of their own.
        if number in FULL or os.strerror(errno.ENOSPC) in str(error):
            raise StorageError(
                f"no space left on the disk of {path}: free some (see `df -h {path.parent}`) and"
                " give the same command again, it goes on where it was"
            ) from error
        if isinstance(error, OSError) and number in REFUSED:
            refused = error.filename or path
            raise StorageError(
                f"{refused}: {error.strerror}; check its owner and permissions, or give another"
                " path"
            ) from error
        raise


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only when the block ends well; before that it is
    `<path>.tmp`."""
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
    """Writes one JSON value, indented; NaN becomes null.

    The file is whole or absent.
    """
    with atomic_writer(path) as file:
        file.write(to_json(value, indent=1, inf_nan_mode="null") + b"\n")


def read_json(path: Path) -> Any:
    """Reads one JSON value.

    Raises DataError when the file is missing or broken.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the step that writes it again")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; run the step that wrote it again") from error


def write_jsonl(path: Path, records: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Writes one record a line, in the order given; NaN becomes null.

    The file is whole or absent.
    """
    with atomic_writer(path) as file:
        for record in records:
            file.write(to_json(record, inf_nan_mode="null") + b"\n")


def append_jsonl(path: Path, record: BaseModel | Mapping[str, Any]) -> None:
    """Adds one record to a file of `write_jsonl` that grows while a step works, for those who watch
    it; NaN becomes null."""
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
                raise DataError(
                    f"{where}: {first['msg']}; mend the line, or run the step that wrote it again"
                ) from error
    return records


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file to `target`, or copy it where the disk cannot link; an existing target
    stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
