"""Tables of cases of which `make test` runs a few and `make test-all` all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def cases(table: Mapping[str, tuple[Any, ...]], *quick: str) -> list[Any]:
    """Name the cases of a table by its keys, and mark all but the `quick` ones as slow."""
    assert set(quick) <= set(table)
    return [
        pytest.param(*case, id=name, marks=() if name in quick else pytest.mark.slow)
        for name, case in table.items()
    ]


def slow(*case: Any) -> Any:
    """Mark one case of a list as slow."""
    return pytest.param(*case, marks=pytest.mark.slow)
