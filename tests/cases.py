"""Tables of cases of which `make test` runs a few and `make test-all` all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest


def cases(
    table: Mapping[str, tuple[Any, ...]],
    *,
    fast: Collection[str] = (),
    slow: Collection[str] = (),
) -> list[Any]:
    """Name the cases of a table by its keys; mark those in `slow`, or those not in `fast`."""
    assert {*fast, *slow} <= table.keys()
    marked = set(slow) if slow else table.keys() - set(fast)
    return [
        pytest.param(*case, id=name, marks=pytest.mark.slow if name in marked else ())
        for name, case in table.items()
    ]


def slow(*case: Any) -> Any:
    """Mark one case of a list as slow."""
    return pytest.param(*case, marks=pytest.mark.slow)
