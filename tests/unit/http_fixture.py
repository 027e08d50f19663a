"""An engine that asks the stub server, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import EngineConfig, Profile
from omnicore.engines import client, open_engine
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from tests.stub_server import MODEL, Answer, Stub, last_text

PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"
HTML = {"Content-Type": "text/html"}
replied = partial(Reply, tokens=9)  # as many as the stub counts


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


def connect(
    stub: Stub, profile: Profile | None = None, model: str = MODEL, **config: Any
) -> Engine:
    return open_engine(
        EngineConfig(kind="http", url=stub.url, **{"retries": 2, "timeout": 5, **config}),
        model,
        profile or Profile(),
    )


def requests(count: int) -> list[Request]:
    return [Request((f"question {i} dog cat owl fox",), Path()) for i in range(count)]


def batches(count: int) -> list[Batch]:
    return [Batch([request], seed) for seed, request in enumerate(requests(count))]


def answers(engine: Engine, asked: list[Batch], sampling: Sampling | None = None) -> list[Reply]:
    found = dict(
        pair
        for finished in engine.answer(asked, sampling or Sampling(1.0, 14))
        for pair in finished
    )
    return [reply for index in range(len(asked)) for reply in found[index]]


def on(
    number: int, answer: Answer, times: int = 1000
) -> Callable[[dict[str, Any], int], Answer | None]:
    """A fault in place of the first `times` answers to question `number`."""
    return lambda request, seen: (
        answer if last_text(request).startswith(f"question {number} ") and seen < times else None
    )
