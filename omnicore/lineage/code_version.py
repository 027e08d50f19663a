"""Digest of the code that a step can reach, so that other changes keep its results.

A probe of a server may have cost days and money; a changed line of a trainer does not justify
repeating it. The key of a step's result covers the modules that its own module imports, directly or
indirectly, at the top or inside functions, and the data files beside them. Modules that decide no
answer are left out: those that start, watch and report processes, or that move objects to a bucket,
and the sections of a recipe, whose values count by themselves.

Limits: imports are read from the source and not followed at run time. For a computed name, such as
that of a benchmark's adapter, all modules of its package count; other computed names are not seen.
Versions of other packages do not count: `step.json` names those of torch, transformers and TRL, and
another version re-runs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from omnicore.storage.digests import digest_directory
from omnicore.version import __version__

PACKAGE = Path(__file__).parents[1]
# Modules and rooms that steps reach and that decide no answer.
NO_EFFECT_ON_ANSWERS = (
    "cluster",
    "config",
    "errors",
    "lineage.code_version",
    "lineage.signing",
    "logs",
    "processes",
    "progress",
    "storage.publication",
    "storage.s3",
    "storage.s3_connection",
    "storage.s3_multipart",
    "storage.store",
    "storage.transfer",
    "telemetry",
)


@cache
def step_code_digest(step: str) -> str:
    """Return the sha256 over names and contents of a step's code, the package's media and data."""
    total = hashlib.sha256()
    for path in _files(step):
        name = path.relative_to(PACKAGE).as_posix()
        total.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def reachable_modules(step: str) -> frozenset[str]:
    """Return the modules that count for a step, as in `omnicore.scoring`."""
    modules: set[str] = set()
    waiting = [f"omnicore.steps.{step}"]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in modules or name == "omnicore" or has_no_effect(name) or not path:
            continue
        modules.add(name)
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return frozenset(modules)


def has_no_effect(name: str) -> bool:
    """Return whether a module, or the room that it lies in, decides no answer."""
    own = name.removeprefix("omnicore.")
    return any(own == room or own.startswith(f"{room}.") for room in NO_EFFECT_ON_ANSWERS)


def _files(step: str) -> list[Path]:
    sources = {path for path in map(_source, reachable_modules(step)) if path}
    files = set(sources)
    for folder in {path.parent for path in sources} - {PACKAGE}:
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                files.add(path)
    # Embedded models count only where a recipe names them.
    assets = PACKAGE / "assets"
    for path in assets.rglob("*"):
        if path.is_file() and assets / "models" not in path.parents:
            files.add(path)
    return sorted(files)


def _source(name: str) -> Path | None:
    """Return the file of a module of the package."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _imports(path: Path) -> Iterator[str]:
    """Yield a module's imports from the package, inside functions and for types too.

    Some are names inside modules.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("omnicore"))
        elif isinstance(node, ast.ImportFrom):
            if node.module and node.module.startswith("omnicore"):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield from _computed(str(node.values[0].value))


def _computed(start: str) -> Iterator[str]:
    """Yield the modules that a text such as f"omnicore.data.benchmarks.{name}" can name."""
    folder = PACKAGE.joinpath(*start.rstrip(".").split(".")[1:])
    if not (start.startswith("omnicore.") and start.endswith(".") and folder.is_dir()):
        return
    for file in folder.glob("*.py"):
        if file.stem != "__init__":
            yield f"{start}{file.stem}"


@cache
def code_digest() -> str:
    """Return the digest of the installed package: code, templates, shipped models and media.

    Recipes count by their values elsewhere; a wheel has the compiled pipelines, a checkout has not.
    """
    return digest_directory(PACKAGE, skip=("__pycache__", "recipes", "compiled_pipelines"))


@cache
def git_revision() -> str:
    """Return the commit that last changed the package; empty where git knows none.

    It ends in `-dirty` where files differ from the commit. It is not the newest commit: the same
    code would then write another checkpoint after a change to its documents.
    """
    commit = _git(PACKAGE, "log", "-1", "--format=%H", "--", ".")
    changes = _git(PACKAGE, "status", "--porcelain", "--", ".")
    return f"{commit}-dirty" if commit and changes else commit


def _git(place: Path, *arguments: str) -> str:
    # In a hook, git's variables name the repository that is being changed, whatever the directory.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=place, env=plain, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python, omnicore and the installed training libraries.

    Imports none of them.
    """
    installed = {"python": platform.python_version(), "omnicore": __version__}
    for name in ("torch", "transformers", "trl"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
