"""Which code a step can reach, so that a change elsewhere leaves its results as they are.

A probe of a server may have cost days and money; one changed line of a trainer is no reason to ask
again. The key of a step's result covers the modules that its own module imports, directly or
through others, at the top or inside functions, and the data files beside them. What it leaves out
decides no answer: how processes are started, watched and reported, how objects reach a bucket, and
the sections of a recipe, whose values count by themselves.

Limits: imports are read from the source, not followed at run time. Of a computed name, as that of a
benchmark's adapter, all modules of its package count; a name that is computed in another way is not
seen. Versions of other packages do not count: `step.json` names those of torch, transformers and
TRL, and a result is not made again for another one.
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

from omnicore import __version__
from omnicore.storage.digests import digest_directory

PACKAGE = Path(__file__).parents[1]
# Reached by steps, and no answer depends on them.
DECIDE_NOTHING = (
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
    """Sha256 over names and contents of the code that a step can reach, the media of the package,
    and the data beside the code."""
    total = hashlib.sha256()
    for path in _files(step):
        total.update(
            f"{path.relative_to(PACKAGE).as_posix()}\0".encode()
            + hashlib.sha256(path.read_bytes()).digest()
        )
    return total.hexdigest()


def reachable_modules(step: str) -> frozenset[str]:
    """The modules that count for a step, as in `omnicore.scoring`."""
    found: set[str] = set()
    waiting = [f"omnicore.steps.{step}"]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in found or name == "omnicore" or _decides_nothing(name) or not path:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return frozenset(found)


def _decides_nothing(name: str) -> bool:
    """Whether a module, or the room that it lies in, is listed in DECIDE_NOTHING."""
    own = name.removeprefix("omnicore.")
    return any(own == room or own.startswith(f"{room}.") for room in DECIDE_NOTHING)


def _files(step: str) -> list[Path]:
    sources = {path for name in reachable_modules(step) if (path := _source(name))}
    folders = {path.parent for path in sources} - {PACKAGE}
    beside = {
        path
        for folder in folders
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    # The embedded models count where a recipe names them.
    assets = PACKAGE / "assets"
    media = {
        path
        for path in assets.rglob("*")
        if path.is_file() and assets / "models" not in path.parents
    }
    return sorted(sources | beside | media)


def _source(name: str) -> Path | None:
    """The file of a module of the package."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return next(
        (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None
    )


def _imports(path: Path) -> Iterator[str]:
    """What a module imports of the package, also inside functions and for types alone; some are
    names inside modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("omnicore"))
        elif (
            isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("omnicore")
        ):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield from _computed(str(node.values[0].value))


def _computed(start: str) -> Iterator[str]:
    """The modules that a text such as f"omnicore.data.benchmarks.{name}" can name."""
    folder = PACKAGE.joinpath(*start.rstrip(".").split(".")[1:])
    if start.startswith("omnicore.") and start.endswith(".") and folder.is_dir():
        yield from (
            f"{start}{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"
        )


@cache
def code_digest() -> str:
    """Digest of the installed package: code, templates, shipped models and media.

    Recipes count by their values elsewhere; a wheel has the compiled pipelines, a checkout has not.
    """
    return digest_directory(PACKAGE, skip=("__pycache__", "recipes", "compiled_pipelines"))


@cache
def git_revision() -> str:
    """The commit that last changed the package, `-dirty` behind it where files differ from it;
    empty where git knows of none.

    Not the newest commit: the same code would then write another checkpoint after a change to its documents.
    """
    package = PACKAGE
    told = [
        _git(package, "log", "-1", "--format=%H", "--", "."),
        _git(package, "status", "--porcelain", "--", "."),
    ]
    return f"{told[0]}-dirty" if all(told) else told[0]


def _git(place: Path, *arguments: str) -> str:
    # In a hook, git's own environment names the repository that is being changed, whatever the directory.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=place, env=plain, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of what made an output; a library that is not installed is left out.

    Imports none of them.
    """
    found = {"python": platform.python_version(), "omnicore": __version__}
    for name in ("torch", "transformers", "trl"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
