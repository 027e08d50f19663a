"""Expensive results that several tests read: made once a session, by whichever worker comes first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` that all workers of this session share.

    Args:
        factory: pytest's own; the folder of a session under xdist is the parent of a worker's.
        name: Name of the folder; one name, one content.
        make: Creates the folder at the path that it is given. Tests must not change it.
    """
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    root = session / "shared"
    root.mkdir(exist_ok=True)
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.making"):  # a step's own lock is `{name}.lock`
        if not made.exists():
            make(folder)
            made.touch()
    return folder
