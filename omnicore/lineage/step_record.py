"""`step.json` beside every output: what produced it, and digests of its files.

`step.json` is written last, so a directory without it is unfinished and no step reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore.errors import DataError
from omnicore.lineage.code_version import code_digest, git_revision, versions
from omnicore.storage.digests import (
    FILES_FILE,
    NOT_CONTENT,
    STEP_FILE,
    content_files,
    digest_contents,
    digest_directory,
    sha256_file,
)
from omnicore.storage.files import read_json, write_json

REQUIRED = {"step", "section", "key", "digest", "seconds", "summary"}
REMEDY = "re-run the step, or copy its output again"


def write_step(directory: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Finish an output: write `files.json`, then `step.json`.

    `files.json` holds size, modification time in ns and sha256 of each file; `verify_step` detects
    changes by it.

    Args:
        directory: The output.
        fields: Content of `step.json` without digest, versions and code.

    Returns:
        The content of `step.json`.
    """
    contents = {name: sha256_file(directory / name) for name in content_files(directory)}
    listing = {}
    for name, sha256 in contents.items():
        status = (directory / name).stat()
        listing[name] = [status.st_size, status.st_mtime_ns, sha256]
    write_json(directory / FILES_FILE, listing)
    code = {"digest": code_digest(), "revision": git_revision()}
    record = {**fields, "digest": digest_contents(contents), "versions": versions(), "code": code}
    write_json(directory / STEP_FILE, record)
    return record


def verify_step(directory: Path, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of `step.json` if the output's files are those that the step wrote.

    A file of the same size and modification time is trusted; for any other, as in a copy, the
    sha256 decides. An output without `files.json`, of an earlier version, is read whole.

    Args:
        directory: The output.
        skip: Names of files and folders that are not checked.

    Raises:
        DataError: As `read_step` raises it, or a file was changed, lost or added since.
    """
    record = read_step(directory)
    if not (directory / FILES_FILE).is_file():
        if digest_directory(directory) != record["digest"]:
            raise DataError(
                f"{directory} was changed after it was finished (digest mismatch); {REMEDY}",
                code="step-files-changed",
                path=directory,
            )
        return record
    listing = _read_listing(directory, record["digest"])
    skipped = set(skip)
    expected = {name for name in listing if not skipped & set(name.split("/"))}
    names = content_files(directory, (*NOT_CONTENT, *skip))
    missing = sorted(expected - set(names))
    if missing:
        raise DataError(
            f"{directory / missing[0]} is missing since the step was finished; {REMEDY}",
            code="step-file-missing",
            path=directory / missing[0],
        )
    for name in names:
        path = directory / name
        if name not in expected:
            raise DataError(
                f"{path} was added after the step was finished; remove it",
                code="step-file-added",
                path=path,
            )
        if _is_changed(path, *listing[name]):
            raise DataError(
                f"{path} was changed after the step was finished; {REMEDY}",
                code="step-files-changed",
                path=path,
            )
    return record


def _read_listing(directory: Path, digest: str) -> dict[str, tuple[int, int, str]]:
    """Return `files.json` if it belongs to the `step.json` with this digest."""
    path = directory / FILES_FILE
    listing: dict[str, tuple[int, int, str]] = read_json(path)
    if digest_contents({name: listing[name][2] for name in sorted(listing)}) != digest:
        raise DataError(
            f"{path} is not that of the {STEP_FILE} beside it; re-run the step",
            code="step-listing-mismatch",
            path=path,
        )
    return listing


def _is_changed(path: Path, size: int, modified: int, sha256: str) -> bool:
    status = path.stat()
    if status.st_size != size:
        return True
    return status.st_mtime_ns != modified and sha256_file(path) != sha256


def read_step(directory: Path) -> dict[str, Any]:
    """Return the content of `step.json`.

    Raises:
        DataError: The directory is missing or unfinished, or the file is damaged.
    """
    path = directory / STEP_FILE
    if not directory.is_dir():
        raise DataError(
            f"{directory}: no such directory; run the step that makes it first",
            code="directory-missing",
            path=directory,
        )
    if not path.is_file():
        raise DataError(
            f"{directory} is not a finished output: no {STEP_FILE}; re-run the step",
            code="step-record-missing",
            path=directory,
        )
    record = read_json(path)
    missing = REQUIRED - record.keys() if isinstance(record, dict) else REQUIRED
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(sorted(missing))}; re-run the step",
            code="step-record-invalid",
            path=path,
            field=min(missing),
        )
    return dict(record)
