"""Expect an error by its class, stable code and field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from omnicore.errors import OmniError


@contextmanager
def refused(kind: type[OmniError], code: str, **details: Any) -> Iterator[SimpleNamespace]:
    """Check that the block raises `kind` with this code and these details (field, path, line).

    Yields a namespace whose `value` is the error once the block has ended.
    """
    caught = SimpleNamespace(value=None)
    with pytest.raises(kind) as raised:
        yield caught
    caught.value = raised.value
    found = {"code": raised.value.code}
    found |= {name: getattr(raised.value, name) for name in details}
    expected = {"code": code} | {
        k: v if isinstance(v, int | None) else str(v) for k, v in details.items()
    }
    assert found == expected, str(raised.value)
