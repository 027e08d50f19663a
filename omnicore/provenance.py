"""Where an output comes from: `step.json` beside its files, and digests of what lies in a directory.

`step.json` is written last, so a directory without it is unfinished and no step reads it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from omnicore import __version__
from omnicore.errors import DataError
from omnicore.journal import read_json, write_json

STEP_FILE = "step.json"
FILES_FILE = "files.json"
METRICS_FILE = "metrics.prom"
SIGNATURE = "model.sig"
# Differ between two runs that give the same result: times, the unfinished work of a killed process, and signatures, which no two
# are alike.
NOT_CONTENT = (STEP_FILE, FILES_FILE, METRICS_FILE, SIGNATURE, "*.journal", "*.lock")
REQUIRED = {"step", "section", "key", "digest", "seconds", "summary"}


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_directory(path: Path, *, skip: Sequence[str] = NOT_CONTENT) -> str:
    """sha256 over the sorted relative paths and contents of a directory's files.

    `skip` holds patterns of names, of files or directories at any depth, that do not count. Raises DataError when there
    is no such directory.
    """
    return _digest({name: sha256_file(path / name) for name in _names(path, skip)})


def _names(path: Path, skip: Sequence[str] = NOT_CONTENT) -> list[str]:
    if not path.is_dir():
        raise DataError(f"{path}: no such directory")
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [name for name in names if not any(fnmatch(part, pattern) for part in name.split("/") for pattern in skip)]


def _digest(contents: Mapping[str, str]) -> str:
    """sha256 over names and the sha256 of their contents, in the order given."""
    total = hashlib.sha256()
    for name, sha256 in contents.items():
        total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


@cache
def code_digest() -> str:
    """Digest of the installed package: code, templates, shipped models and media; recipes count by their values elsewhere."""
    return digest_directory(Path(__file__).parent, skip=("__pycache__", "recipes"))


@cache
def revision() -> str:
    """The commit that last changed the package, `-dirty` behind it where files differ from it; empty where git knows of none.

    Not the newest commit: the same code would then write another checkpoint after a change to its documents.
    """
    package = Path(__file__).parent
    told = [_git(package, "log", "-1", "--format=%H", "--", "."), _git(package, "status", "--porcelain", "--", ".")]
    return f"{told[0]}-dirty" if all(told) else told[0]


def _git(place: Path, *arguments: str) -> str:
    # In a hook, git's own environment names the repository that is being changed, whatever the directory.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(["git", *arguments], cwd=place, env=plain, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def model_directory(model: str) -> Path:
    """Where the files of a local model, or of embedded:NAME, would lie. Needs no torch; `models.thinker.resolve` looks at them."""
    name = model.removeprefix("embedded:")
    return Path(model) if name == model else Path(str(files("omnicore") / "assets" / "models" / name))


def versions() -> dict[str, str]:
    """Versions of what made an output; a library that is not installed is left out. Imports none of them."""
    found = {"python": platform.python_version(), "omnicore": __version__}
    for name in ("torch", "transformers", "trl"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_step(directory: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Finishes an output: adds `digest`, `versions` and `code` to `fields` and writes `step.json`, whole or not at all. Before it
    comes `files.json`, by which `verified` sees what was changed since: size, time of change in ns and sha256 of each file."""
    contents = {name: sha256_file(directory / name) for name in _names(directory)}
    stats = {name: (directory / name).stat() for name in contents}
    write_json(directory / FILES_FILE, {name: [stats[name].st_size, stats[name].st_mtime_ns, contents[name]] for name in contents})
    code = {"digest": code_digest(), "revision": revision()}
    record = {**fields, "digest": _digest(contents), "versions": versions(), "code": code}
    write_json(directory / STEP_FILE, record)
    return record


def verified(directory: Path, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `step.json` of an output whose files are those that the step wrote.

    A file of the same size and time of change is taken as it is; of any other, as in a copy, the sha256 decides. Files and folders
    named in `skip` are not looked at. An output without `files.json`, of an earlier version, is read whole. Raises DataError as
    `read_step` does, and naming the first file that was changed, lost or added.
    """
    record = read_step(directory)
    names, listed = _names(directory, (*NOT_CONTENT, *skip)), {}
    if (directory / FILES_FILE).is_file():
        listed = read_json(directory / FILES_FILE)
        if _digest({name: listed[name][2] for name in sorted(listed)}) != record["digest"]:
            raise DataError(f"{directory / FILES_FILE} is not that of the {STEP_FILE} beside it; run the step again")
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
        if found.st_size != size or (found.st_mtime_ns != changed and sha256_file(directory / name) != sha256):
            raise DataError(f"{directory / name} was changed after the step was finished; {_REMEDY}")
    return record


_REMEDY = "run the step again, or copy its output again"


def read_step(directory: Path) -> dict[str, Any]:
    """The content of `step.json`. Raises DataError when the directory is missing or unfinished, or the file is damaged."""
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
