"""Whole-or-absent JSON and JSONL files, and disk errors with their remedy."""

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

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
PERMISSION_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise StorageError with a remedy where the block fails on a full or read-only disk."""
    try:
        yield
    except OmniError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and other native writers report a full disk only in the text of their error.
        if number in DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
            raise StorageError(
                f"no space left on the disk of {path}: free some (see `df -h {path.parent}`),"
                " then re-run to resume",
                code="disk-full",
                path=path,
            ) from error
        if isinstance(error, OSError) and number in PERMISSION_DENIED:
            denied = error.filename or path
            raise StorageError(
                f"{denied}: {error.strerror}; check its owner and permissions, or choose another"
                " path",
                code="disk-permission-denied",
                path=denied,
            ) from error
        raise


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open `<path>.tmp` for writing and rename it to `path` when the block succeeds.

    A failed block leaves the old file, or none.
    """
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
    """Write one indented JSON value, whole or not at all; NaN becomes null."""
    with atomic_writer(path) as file:
        file.write(to_json(value, indent=1, inf_nan_mode="null") + b"\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        DataError: The file is missing (`file-missing`) or not JSON (`json-invalid`).
    """
    _require_file(path)
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON: {error}; re-run the step that wrote it",
            code="json-invalid",
            path=path,
        ) from error


def write_jsonl(path: Path, records: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Write one record a line in the order given, whole or not at all; NaN becomes null."""
    with atomic_writer(path) as file:
        for record in records:
            file.write(to_json(record, inf_nan_mode="null") + b"\n")


def append_jsonl(path: Path, record: BaseModel | Mapping[str, Any]) -> None:
    """Append one record to a JSONL file that is watched while a step runs; NaN becomes null."""
    with path.open("ab") as file:
        file.write(to_json(record, inf_nan_mode="null") + b"\n")


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Read one record a line.

    Args:
        path: The file.
        kind: Type of a record: a pydantic model, or `dict` for free-form records.

    Raises:
        DataError: The file is missing (`file-missing`), or a line is not a valid record
            (`jsonl-invalid-record`, with path, line and field).
    """
    _require_file(path)
    adapter = TypeAdapter(kind)
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                records.append(adapter.validate_json(line.rstrip(b"\n")))
            except ValidationError as error:
                raise _invalid_record(path, number, error) from error
    return records


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; run the step that writes it", code="file-missing", path=path
        )


def _invalid_record(path: Path, number: int, error: ValidationError) -> DataError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    where = ":".join([str(path), str(number), *location])
    return DataError(
        f"{where}: {first['msg']}; fix the line, or re-run the step that wrote it",
        code="jsonl-invalid-record",
        path=path,
        line=number,
        field=".".join(location) or None,
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file to `target`, or copy it where linking fails; keep an existing target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
