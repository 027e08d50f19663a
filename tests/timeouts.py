"""Short timeouts of the launcher for tests."""

from __future__ import annotations

import pytest

from omnicore.cluster import timeouts

QUICK = {
    "HEARTBEAT_INTERVAL": 0.05,
    "REQUEST": 20.0,
    "WATCH": 5.0,
    "FIRST_RETRY": 0.01,
    "LONGEST_RETRY": 0.05,
    "OUTAGE": 30.0,
    "CLEANUP": 5.0,
}


def shorten(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Set the quick timeouts, and others by name."""
    for name, value in {**QUICK, **seconds}.items():
        monkeypatch.setattr(timeouts, name, value)
