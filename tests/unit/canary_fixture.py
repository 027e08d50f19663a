"""Engines for tests of the canary: a real one, and real ones with one thing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import EngineConfig, Profile
from omnicore.engines import canary
from omnicore.engines.base import Batch, Engine, FinishedBatches, Reply, Request, Sampling

BOTH = frozenset({"image", "audio"})
LOCAL = EngineConfig()


@pytest.fixture(scope="module")
def base() -> Any:
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine("embedded:tiny-base", Profile())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of tiny-base with its reference."""
    from omnicore.models import thinker

    directory = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(thinker.resolve("embedded:tiny-base"), directory)
    canary.write_reference(directory, Profile())
    return directory


class Changed:
    """An engine whose requests or replies are changed on the way."""

    def __init__(
        self,
        engine: Engine,
        change_requests: Callable[[Sequence[Request]], Sequence[Request]] = lambda sent: sent,
        change_reply: Callable[[Reply], Reply] = lambda reply: reply,
        name: str = "server",
    ) -> None:
        self.name, self._engine = name, engine
        self._change_requests, self._change_reply = change_requests, change_reply

    def with_profile(self, profile: Profile) -> Engine:
        engine = self._engine.with_profile(profile)
        return Changed(engine, self._change_requests, self._change_reply, self.name)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        assert sampling.temperature == 0
        changed = [Batch(self._change_requests(batch.requests), batch.seed) for batch in batches]
        for finished in self._engine.answer(changed, sampling):
            yield [
                (index, [self._change_reply(reply) for reply in replies])
                for index, replies in finished
            ]
