"""Which code a step can reach, so that a change elsewhere leaves its results as they are.

A probe of a server may have cost days and money; one changed line of a trainer is no reason to ask again. The key of a step's
result covers the modules that its own module imports, directly or through others, at the top or inside functions, and the data
files beside them. What it leaves out decides no answer: how processes are started, watched and reported, how objects reach a
bucket, and the sections of a recipe, whose values count by themselves.

Limits: imports are read from the source, not followed at run time. Of a computed name, as that of a benchmark's adapter, all
modules of its package count; a name that is computed in another way is not seen. Versions of other packages do not count:
`step.json` names those of torch, transformers and TRL, and a result is not made again for another one.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# Reached by steps, and no answer depends on them.
DECIDE_NOTHING = frozenset("cluster config errors live processes progress reach recipe s3 signing snapshot store telemetry".split())


@cache
def step_code_digest(step: str) -> str:
    """sha256 over names and contents of the code that a step can reach, the media of the package, and the data beside the code."""
    total = hashlib.sha256()
    for path in _files(step):
        total.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def reached(step: str) -> frozenset[str]:
    """The modules that count for a step, as in `omnicore.scoring`."""
    found: set[str] = set()
    waiting = [f"omnicore.steps.{step}"]
    while waiting:
        name = waiting.pop()
        if name in found or name == "omnicore" or name.split(".")[1] in DECIDE_NOTHING or not (path := _source(name)):
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return frozenset(found)


def _files(step: str) -> list[Path]:
    sources = {path for name in reached(step) if (path := _source(name))}
    folders = {path.parent for path in sources} - {PACKAGE}
    beside = {path for folder in folders for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")}
    # The embedded models count where a recipe names them.
    assets = PACKAGE / "assets"
    media = {path for path in assets.rglob("*") if path.is_file() and assets / "models" not in path.parents}
    return sorted(sources | beside | media)


def _source(name: str) -> Path | None:
    """The file of a module of the package."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """What a module imports of the package, also inside functions and for types alone; some are names inside modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("omnicore"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("omnicore"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield from _computed(str(node.values[0].value))


def _computed(start: str) -> Iterator[str]:
    """The modules that a text such as f"omnicore.benchmarks.{name}" can name."""
    folder = PACKAGE.joinpath(*start.rstrip(".").split(".")[1:])
    if start.startswith("omnicore.") and start.endswith(".") and folder.is_dir():
        yield from (f"{start}{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__")
