"""Digests of files and directories, and the names of files that do not count as content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

from omnicore.errors import DataError

STEP_FILE = "step.json"
# In an unfinished output: the key of its work, and below it what the key is a digest of.
KEY_FILE = "key.journal"
FILES_FILE = "files.json"
METRICS_FILE = "metrics.prom"
SIGNATURE = "model.sig"
# These differ between two runs with the same result: times, unfinished work of a killed process,
# and signatures, which are randomised.
NOT_CONTENT = (STEP_FILE, FILES_FILE, METRICS_FILE, SIGNATURE, "*.journal", "*.lock")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_directory(path: Path, *, skip: Sequence[str] = NOT_CONTENT) -> str:
    """Return the sha256 over the sorted relative paths and contents of a directory's files.

    Args:
        path: The directory.
        skip: Patterns of file and directory names, at any depth, that do not count.

    Raises:
        DataError: There is no such directory.
    """
    return digest_contents({name: sha256_file(path / name) for name in content_files(path, skip)})


def content_files(path: Path, skip: Sequence[str] = NOT_CONTENT) -> list[str]:
    """Return the sorted relative paths of a directory's files, without those that match `skip`."""
    if not path.is_dir():
        raise DataError(f"{path}: no such directory", code="directory-missing", path=path)
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return sorted(name for name in names if not matches_any(name, skip))


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a part of a relative path matches one of the patterns."""
    parts = name.split("/")
    return any(fnmatch(part, pattern) for part in parts for pattern in patterns)


def digest_contents(contents: Mapping[str, str]) -> str:
    """Return the sha256 over names and the sha256 of their contents, in the order given."""
    total = hashlib.sha256()
    for name, sha256 in contents.items():
        total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


def model_directory(model: str) -> Path:
    """Return where the files of a local model, or of `embedded:NAME`, lie if they exist.

    Imports no torch; `models.thinker.resolve` checks the files.
    """
    if model.startswith("embedded:"):
        name = model.removeprefix("embedded:")
        return Path(str(files("omnicore") / "assets" / "models" / name))
    return Path(model)
