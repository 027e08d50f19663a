"""What an engine is, and how steps ask one: in fixed batches, journaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Batch:
    """Requests that are answered together, with the seed of their sampling."""

    requests: Sequence[Request]
    seed: int


class Engine(Protocol):
    """Answers batches, one list of replies each, in order. A failure raises EngineError; it is never an answer."""

    name: str

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[list[str]]: ...


def ask(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, *, seed: int, batch: int, journal: Path, label: str
) -> list[str]:
    """Replies to all requests, in order.

    Batches are cut from the whole list, never from what is left to do, and each has its own seed: a run that was killed and
    goes on from its journal samples exactly what an undisturbed run samples.
    """
    log = Journal(journal)
    chunks = {f"{seed}-{start}": requests[start : start + batch] for start in range(0, len(requests), batch)}
    todo = {key: Batch(chunk, int(digest(key)[:12], 16)) for key, chunk in chunks.items() if key not in log.done}
    with track(len(requests), label) as progress:
        progress.advance(sum(len(chunk) for key, chunk in chunks.items() if key not in todo))
        for (key, asked), replies in zip(todo.items(), engine.answer(list(todo.values()), sampling), strict=True):
            log.append([{"key": key, "replies": replies}])
            progress.advance(len(asked.requests))
    return [reply for key in chunks for reply in log.done[key]["replies"]]
