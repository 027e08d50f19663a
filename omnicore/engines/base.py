"""Inference-engine protocol and the journaled request loop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from omnicore.config import Profile, digest
from omnicore.errors import DataError, EngineError
from omnicore.progress import track
from omnicore.schema import Media
from omnicore.storage.journal import Journal
from omnicore.telemetry import live

logger = logging.getLogger(__name__)

# Characters that a medium counts as when requests are sorted by length.
MEDIA_LENGTH = {"image": 1_000, "audio": 5_000, "video": 50_000}


@dataclass(frozen=True)
class Request:
    """One user turn.

    Attributes:
        parts: Texts and media in the order in which they are shown.
        root: Directory that media URIs are relative to.
        name: `<benchmark>/<id>` of the query, for messages.
        choices: The only replies that are allowed, if any. A server generates nothing else; a model
            in this process returns the most likely one.
    """

    parts: tuple[Media | str, ...]
    root: Path
    name: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled.

    Attributes:
        temperature: 0 for greedy decoding, otherwise sampling from the whole distribution.
        max_new_tokens: Tokens after which a reply is truncated.
        logprobs: Whether replies carry the log-probabilities of their tokens.
    """

    temperature: float
    max_new_tokens: int
    logprobs: bool = False


@dataclass(frozen=True)
class Batch:
    """Requests that are answered together, with the seed of their sampling."""

    requests: Sequence[Request]
    seed: int


@dataclass(frozen=True)
class Reply:
    """Reply to one request.

    Attributes:
        text: The answer.
        reasoning: Reasoning that the server returns separately from the answer.
        truncated: Whether the reply reached its length limit.
        error: Why there is no answer. A reply with an error is never scored.
        logprobs: Log-probability of each token in nats, where `Sampling.logprobs` is set.
        tokens: Generated tokens, reasoning and end of turn included; 0 if the server does not say.
    """

    text: str = ""
    reasoning: str = ""
    truncated: bool = False
    error: str = ""
    logprobs: tuple[float, ...] = ()
    tokens: int = 0


def media_error_reply(request: Request, error: DataError) -> Reply:
    """Return the failed reply to a request whose media cannot be shown.

    Files are named relative to `root`, because outputs hold no absolute paths.
    """
    return Reply(error=str(error).replace(f"{request.root}/", ""))


# Index of a batch and its replies, one a request.
FinishedBatches = Sequence[tuple[int, list[Reply]]]


class Engine(Protocol):
    """A model that answers batches of requests."""

    name: str

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Answer batches in any order; yield those that have finished since the last yield.

        A request that still fails after the engine's own retries gets a `Reply` with an `error`.

        Raises:
            EngineError: No retry can help: wrong credentials, unknown model, dead server.
        """
        ...

    def with_profile(self, profile: Profile) -> Engine:
        """Return an engine for the same model that shows media as `profile` says."""
        ...


@dataclass(frozen=True)
class _Chunk:
    """Requests of one batch: its key in the journal and their places in the list of all."""

    key: str
    places: Sequence[int]

    def batch(self, requests: Sequence[Request]) -> Batch:
        seed = int(digest(self.key)[:12], 16)
        return Batch([requests[place] for place in self.places], seed)


def run_requests(
    engine: Engine,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    seed: int,
    batch: int,
    journal: Path,
    label: str,
    max_error_rate: float = 0.0,
) -> Iterator[Reply]:
    """Answer all requests, then return the replies in order, read from the journal one by one.

    Batches hold requests of similar length. They are cut from the whole list, never from the rest,
    and each has its own seed: a run that is killed and resumed samples exactly what an undisturbed
    run samples. A batch with a failed request is not journaled, so a re-run sends it again.

    Args:
        engine: Answers the requests.
        requests: Requests in the order of the replies.
        sampling: How replies are sampled.
        seed: Seed of the run; every batch derives its own.
        batch: Requests a batch.
        journal: File of finished batches.
        label: Name of the work in progress and messages.
        max_error_rate: Share of requests, 0 to 1, that may fail; they return replies with `error`.

    Raises:
        EngineError: More requests failed; the message counts the errors and names the queries.
    """
    log = Journal(journal)
    chunks = _chunks(requests, seed, batch)
    todo = [chunk for chunk in chunks if chunk.key not in log]
    batches = [chunk.batch(requests) for chunk in todo]
    failed: dict[str, list[Reply]] = {}
    failures: list[tuple[str, str]] = []  # error and name of each failed request
    with track(len(requests), label) as progress:
        progress.advance(len(requests) - sum(len(chunk.places) for chunk in todo))
        for finished in engine.answer(batches, sampling):
            lines = []
            received = answered = 0
            for index, replies in finished:
                errors = _failures(batches[index], replies)
                if errors:
                    failed[todo[index].key] = replies
                    failures += errors
                else:
                    fields = [_non_default_fields(reply) for reply in replies]
                    lines.append([{"key": todo[index].key, "replies": fields}])
                received += len(replies)
                answered += len(replies) - len(errors)
            log.append(*lines)
            live.increment("omni_samples_total", answered)
            live.set_gauge("omni_engine_error_ratio", len(failures) / len(requests))
            _check_error_rate(failures, max_error_rate, len(requests), label)
            progress.advance(received)
    return _in_order(chunks, failed, log)


def log_failures(label: str, asked: int, errors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Log how many of the requests `asked` failed, and count them by benchmark.

    Args:
        label: Name of the step.
        asked: Requests that the step sent.
        errors: Failed requests as written to errors.jsonl, with `benchmark`, `id` and `error`.

    Returns:
        `{"errors_<benchmark>": count}` for the summary of the step.
    """
    counts = Counter(str(error["benchmark"]) for error in errors)
    if errors:
        first = errors[0]
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        logger.warning(
            f"{label}: {len(errors)} of {asked} requests failed and are not scored ({listed});"
            f" errors.jsonl lists them, first {first['benchmark']}/{first['id']}: {first['error']}"
        )
    return {f"errors_{name}": count for name, count in sorted(counts.items())}


def _chunks(requests: Sequence[Request], seed: int, batch: int) -> list[_Chunk]:
    order = list(range(len(requests)))
    if batch > 1:
        order.sort(key=lambda place: _length(requests[place]))
    starts = range(0, len(order), batch)
    return [_Chunk(f"{seed}-{start}", order[start : start + batch]) for start in starts]


def _length(request: Request) -> int:
    """Return the length in characters, media included; a batch is padded to its longest request."""
    length = 0
    for part in request.parts:
        length += len(part) if isinstance(part, str) else MEDIA_LENGTH[part.kind]
    return length


def _failures(batch: Batch, replies: Sequence[Reply]) -> list[tuple[str, str]]:
    """Return error and request name of each failed reply."""
    pairs = zip(batch.requests, replies, strict=True)
    return [(reply.error, request.name) for request, reply in pairs if reply.error]


def _check_error_rate(
    failures: Sequence[tuple[str, str]], max_error_rate: float, total: int, label: str
) -> None:
    if len(failures) <= max_error_rate * total:
        return
    names: dict[str, dict[str, None]] = {}  # by error, distinct and in order
    for error, name in failures:
        names.setdefault(error, {})[name] = None
    counts = Counter(error for error, _ in failures)
    listed = [
        f"{count} x {error}{_named(list(names[error]))}" for error, count in counts.most_common(3)
    ]
    raise EngineError(
        f"{label}: {len(failures)} of {total} requests failed, more than the {max_error_rate:.1%}"
        f" that max_error_rate allows: {'; '.join(listed)}. Fix the cause, or allow more failures"
        " with engine.max_error_rate. Finished replies are kept: re-run the same command to send"
        " only the rest",
        code="engine-error-rate",
        field="engine.max_error_rate",
    )


def _named(names: Sequence[str]) -> str:
    if not names[0]:
        return ""
    others = f", and {len(names) - 1} other queries" if len(names) > 1 else ""
    return f" ({names[0]}{others})"


def _non_default_fields(reply: Reply) -> dict[str, Any]:
    """Return the fields to journal; a full audit journals several hundred thousand replies."""
    return {name: value for name, value in vars(reply).items() if value}


def _in_order(
    chunks: Sequence[_Chunk], failed: Mapping[str, list[Reply]], log: Journal
) -> Iterator[Reply]:
    @lru_cache(64)
    def replies_of(key: str) -> list[Reply]:
        if key in failed:
            return failed[key]
        return [Reply(**fields) for fields in log[key]["replies"]]

    positions = []
    for chunk in chunks:
        positions += [(place, chunk.key, index) for index, place in enumerate(chunk.places)]
    return (replies_of(key)[index] for _, key, index in sorted(positions))
