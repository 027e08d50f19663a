"""What an engine is, and how steps ask one: in fixed batches, journaled."""

from __future__ import annotations

import sys
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

MEDIA_LENGTH = {"image": 1_000, "audio": 5_000, "video": 50_000}


@dataclass(frozen=True)
class Request:
    """One user turn; `root` is the directory that media URIs are relative to, `name` the query's
    benchmark/id, for messages.

    With `choices` the reply is one of them: a server generates nothing else, a model in this
    process gives the likeliest.
    """

    parts: tuple[Media | str, ...]
    root: Path
    name: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0, else from the whole distribution.

    `logprobs` asks for those of the tokens of the reply.
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
    """What came back.

    `reasoning` is thought that the server keeps apart from the answer; `truncated`: cut by its
    length limit; `logprobs` one a token, where they were asked for; `tokens` that were generated,
    thinking and end of turn included, 0 where a server does not say. With an `error` there is no
    answer, and none may be scored.
    """

    text: str = ""
    reasoning: str = ""
    truncated: bool = False
    error: str = ""
    logprobs: tuple[float, ...] = ()
    tokens: int = 0


def media_error_reply(request: Request, error: DataError) -> Reply:
    """Return the failed reply to a request whose media cannot be shown.

    It names files below `root`: what goes into an output holds no absolute paths.
    """
    return Reply(error=str(error).replace(f"{request.root}/", ""))


FinishedBatches = Sequence[tuple[int, list[Reply]]]


class Engine(Protocol):
    """Answers batches in whatever order they are finished: each time all that has been finished
    since the last, as pairs of a batch's index and its replies, one a request.

    A request that still fails after the engine's own retries is a `Reply` with an `error`; what no
    retry can mend (wrong credentials, unknown model, dead server) raises EngineError. Neither is
    ever an answer.
    """

    name: str

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]: ...

    def with_profile(self, profile: Profile) -> Engine:
        """The same model, reached the same way, that shows media as `profile` says."""
        ...


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
    """Replies to all requests, in order, read back from the journal as they are taken.

    All are asked before the first is given.     Batches hold requests of like length, cut from the
    whole list, never from what is left to do, and each has its own seed: a     run that was killed
    and goes on from its journal samples exactly what an undisturbed run samples. A batch in which a
    request failed is not journaled as done, so the same command asks it again; its failures come
    back as replies with an     `error` as long as they are at most `max_error_rate` of all
    requests.

    Raises EngineError above that rate, naming the errors by number.
    """
    log = Journal(journal)
    order = (
        sorted(range(len(requests)), key=lambda i: _length(requests[i]))
        if batch > 1
        else range(len(requests))
    )
    chunks = {
        f"{seed}-{start}": order[start : start + batch] for start in range(0, len(order), batch)
    }
    todo = [key for key in chunks if key not in log]
    failed: dict[str, list[Reply]] = {}
    with track(len(requests), label) as progress:
        progress.advance(sum(len(chunk) for key, chunk in chunks.items() if key in log))
        batches = [
            Batch([requests[i] for i in chunks[key]], int(digest(key)[:12], 16)) for key in todo
        ]
        for finished in engine.answer(batches, sampling):
            failed |= {
                todo[index]: replies
                for index, replies in finished
                if any(reply.error for reply in replies)
            }
            done = [
                (todo[index], replies) for index, replies in finished if todo[index] not in failed
            ]
            log.append(
                *(
                    [{"key": key, "replies": [_fields(reply) for reply in replies]}]
                    for key, replies in done
                )
            )
            came = [reply for _, replies in finished for reply in replies if not reply.error]
            live.increment("omni_samples_total", len(came))
            live.set_gauge("omni_engine_error_ratio", _errors(failed).total() / len(requests))
            names = {key: [requests[i].name for i in chunks[key]] for key in failed}
            _refuse_above(max_error_rate, failed, names, len(requests), label)
            progress.advance(sum(len(replies) for _, replies in finished))
    places = sorted(
        (i, key, place) for key, chunk in chunks.items() for place, i in enumerate(chunk)
    )
    batch_of = lru_cache(64)(lambda key: failed[key] if key in failed else _replies(log[key]))
    return (batch_of(key)[place] for _, key, place in places)


def log_failures(label: str, asked: int, errors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Print how many of the requests `asked` failed for good, by benchmark, and return these counts
    for a step's summary, as `errors_<benchmark>`."""
    counts = Counter(str(error["benchmark"]) for error in errors)
    if errors:
        first = errors[0]
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(
            f"{label}: {len(errors)} of {asked} requests failed and count for nothing ({listed});"
            f" errors.jsonl lists each, first {first['benchmark']}/{first['id']}: {first['error']}",
            file=sys.stderr,
            flush=True,
        )
    return {f"errors_{name}": count for name, count in sorted(counts.items())}


def _length(request: Request) -> int:
    """In characters, a medium counting as many: what pads a batch to its longest."""
    return sum(
        len(part) if isinstance(part, str) else MEDIA_LENGTH[part.kind] for part in request.parts
    )


def _errors(failed: Mapping[str, Sequence[Reply]]) -> Counter[str]:
    return Counter(reply.error for replies in failed.values() for reply in replies if reply.error)


def _refuse_above(
    rate: float,
    failed: Mapping[str, Sequence[Reply]],
    names: Mapping[str, Sequence[str]],
    total: int,
    label: str,
) -> None:
    errors = _errors(failed)
    if errors.total() <= rate * total:
        return
    asked: dict[str, dict[str, None]] = {}  # names by error, in order
    for key, replies in failed.items():
        for name, reply in zip(names[key], replies, strict=True):
            asked.setdefault(reply.error, {})[name] = None
    listed = "; ".join(
        f"{count} x {error}{_of([*asked[error]])}" for error, count in errors.most_common(3)
    )
    raise EngineError(
        f"{label}: {errors.total()} of {total} requests failed, more than the {rate:.1%} that"
        f" max_error_rate allows: {listed}. Fix the cause, or allow more failures with"
        " engine.max_error_rate. What was answered is kept: the same command asks only the rest"
    )


def _of(names: Sequence[str]) -> str:
    if not names[0]:
        return ""
    return (
        f" ({names[0]}, and {len(names) - 1} other queries)" if len(names) > 1 else f" ({names[0]})"
    )


def _fields(reply: Reply) -> dict[str, Any]:
    """Without what is at its default: a full audit journals some hundred thousand."""
    return {k: v for k, v in vars(reply).items() if v}


def _replies(record: Mapping[str, Any]) -> list[Reply]:
    return [Reply(**fields) for fields in record["replies"]]
