"""Where an output comes from: `step.json` beside its files, and digests of what lies in a
directory.

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


def write_step(directory: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Finishes an output: adds `digest`, `versions` and `code` to `fields` and writes `step.json`,
    whole or not at all.

    Before it comes `files.json`, by which `verified` sees what was changed since: size, time of
    change in ns and sha256 of each file.
    """
    contents = {name: sha256_file(directory / name) for name in content_files(directory)}
    stats = {name: (directory / name).stat() for name in contents}
    write_json(
        directory / FILES_FILE,
        {name: [stats[name].st_size, stats[name].st_mtime_ns, contents[name]] for name in contents},
    )
    code = {"digest": code_digest(), "revision": git_revision()}
    record = {**fields, "digest": digest_contents(contents), "versions": versions(), "code": code}
    write_json(directory / STEP_FILE, record)
    return record


def verify_step(directory: Path, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `step.json` of an output whose files are those that the step wrote.

    A file of the same size and time of change is taken as it is; of any other, as in a copy, the
    sha256 decides. Files and folders named in `skip` are not looked at. An output without
    `files.json`, of an earlier version, is read whole. Raises DataError as `read_step` does, and
    naming the first file that was changed, lost or added.
    """
    record = read_step(directory)
    names, listed = content_files(directory, (*NOT_CONTENT, *skip)), {}
    if (directory / FILES_FILE).is_file():
        listed = read_json(directory / FILES_FILE)
        if digest_contents({name: listed[name][2] for name in sorted(listed)}) != record["digest"]:
            raise DataError(
                f"{directory / FILES_FILE} is not that of the {STEP_FILE} beside it; run the step"
                " again"
            )
    elif digest_directory(directory) != record["digest"]:
        raise DataError(f"{directory} was changed after it was finished; {_REMEDY}")
    else:
        return record
    listed = {name: facts for name, facts in listed.items() if not set(skip) & set(name.split("/"))}
    if lost := sorted(listed.keys() - set(names)):
        raise DataError(f"{directory / lost[0]} is missing since the step was finished; {_REMEDY}")
    for name in names:
        if name not in listed:
            raise DataError(f"{directory / name} was added after the step was finished; remove it")
        size, changed, sha256 = listed[name]
        found = (directory / name).stat()
        if found.st_size != size or (
            found.st_mtime_ns != changed and sha256_file(directory / name) != sha256
        ):
            raise DataError(
                f"{directory / name} was changed after the step was finished; {_REMEDY}"
            )
    return record


_REMEDY = "run the step again, or copy its output again"


def read_step(directory: Path) -> dict[str, Any]:
    """The content of `step.json`.

    Raises DataError when the directory is missing or unfinished, or the file is damaged.
    """
    path = directory / STEP_FILE
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; run the step that makes it first")
    if not path.is_file():
        raise DataError(f"{directory} is not a finished output: no {STEP_FILE}; run the step again")
    record = read_json(path)
    missing = REQUIRED - record.keys() if isinstance(record, dict) else REQUIRED
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; run the step again")
    return dict(record)
