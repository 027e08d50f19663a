"""What an engine is, and how steps ask one: in fixed batches, journaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omnicore.config import digest
from omnicore.journal import Journal
from omnicore.schema import Media
from omnicore.telemetry import track


@dataclass(frozen=True)
class Request:
    """One user turn; `root` is the directory that media URIs are relative to."""

    parts: tuple[Media | str, ...]
    root: Path


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0, else from the whole distribution."""

    temperature: float
    max_new_tokens: int


class Engine(Protocol):
    """Answers a batch of requests, in order. A failure raises EngineError; it is never an answer."""

    name: str

    def generate(self, requests: Sequence[Request], sampling: Sampling, seed: int) -> list[str]: ...


def ask(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, *, seed: int, batch: int, journal: Path, label: str
) -> list[str]:
    """Replies to all requests, in order.

    Batches are cut from the whole list, never from what is left to do, and each has its own seed: a run that was killed and
    goes on from its journal samples exactly what an undisturbed run samples.
    """
    log = Journal(journal)
    replies: list[str] = []
    with track(len(requests), label) as progress:
        for start in range(0, len(requests), batch):
            chunk = requests[start : start + batch]
            key = f"{seed}-{start}"
            done = log.done.get(key)
            if done is None:
                said = engine.generate(chunk, sampling, seed=int(digest([seed, start])[:12], 16))
                log.append([{"key": key, "replies": said}])
            else:
                said = done["replies"]
            replies += said
            progress.advance(len(chunk))
    return replies
