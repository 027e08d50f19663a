"""Digests of files and directories, and the names of the files that do not count as content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

from omnicore.errors import DataError

STEP_FILE = "step.json"
FILES_FILE = "files.json"
METRICS_FILE = "metrics.prom"
SIGNATURE = "model.sig"
# Differ between two runs that give the same result: times, the unfinished work of a killed process, and signatures, which no two
# are alike.
NOT_CONTENT = (STEP_FILE, FILES_FILE, METRICS_FILE, SIGNATURE, "*.journal", "*.lock")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_directory(path: Path, *, skip: Sequence[str] = NOT_CONTENT) -> str:
    """Sha256 over the sorted relative paths and contents of a directory's files.

    `skip` holds patterns of names, of files or directories at any depth, that do not count. Raises
    DataError when there is no such directory.
    """
    return digest_contents({name: sha256_file(path / name) for name in content_files(path, skip)})


def content_files(path: Path, skip: Sequence[str] = NOT_CONTENT) -> list[str]:
    if not path.is_dir():
        raise DataError(f"{path}: no such directory")
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [
        name
        for name in names
        if not any(fnmatch(part, pattern) for part in name.split("/") for pattern in skip)
    ]


def digest_contents(contents: Mapping[str, str]) -> str:
    """Sha256 over names and the sha256 of their contents, in the order given."""
    total = hashlib.sha256()
    for name, sha256 in contents.items():
        total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


def model_directory(model: str) -> Path:
    """Where the files of a local model, or of embedded:NAME, would lie.

    Needs no torch; `models.thinker.resolve` looks at them.
    """
    name = model.removeprefix("embedded:")
    return (
        Path(model) if name == model else Path(str(files("omnicore") / "assets" / "models" / name))
    )
