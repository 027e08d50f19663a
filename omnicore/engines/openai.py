"""Engine for a server that speaks OpenAI's chat completions: vLLM, KServe, `omnicore serve`, APIs.

An event loop in a thread keeps `concurrency` requests in flight while the caller's thread writes
the journal. Memory does not grow with the number of queries: media are encoded just before they are
sent, and kept only for the draws that follow.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import to_json

from omnicore.config import EngineConfig, Profile
from omnicore.engines.base import (
    Batch,
    FinishedBatches,
    Reply,
    Request,
    Sampling,
    media_error_reply,
)
from omnicore.engines.client import ChatClient
from omnicore.errors import DataError, EngineError
from omnicore.media.data_url import image_to_url, video_settings, video_to_url, wav_to_base64
from omnicore.media.read import read_media, verify_media, with_common_fps
from omnicore.media.video import Video
from omnicore.schema import Media

# Seconds for which finished replies are gathered, so that one write to the journal holds many.
COMMIT_SECONDS = 0.05
CODER_THREADS = 2  # threads that decode and encode media
# vLLM's field that constrains a reply; version 0.32 ignores its earlier name, `guided_choice`.
CHOICES_FIELD = "structured_outputs"
MESSAGE_CHARACTERS = 80  # of a reply or a choice in a message
CACHE_BYTES = 64 << 20  # encoded media kept for further draws of the same query

# Finished batches, then None at the end.
_Finished = SimpleQueue[tuple[int, list[Reply]] | None]


class OpenAIEngine:
    """Engine that sends requests for `model` to the server at `config.url`."""

    def __init__(self, config: EngineConfig, model: str, profile: Profile) -> None:
        """Connect to the server.

        Raises:
            EngineError: It cannot be reached, refuses the credentials or does not have the model.
        """
        self.name = model
        self._config, self._profile = config, profile
        # The caller's thread may run its own event loop, as notebooks do.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, self._connect()).result()

    async def _connect(self) -> None:
        async with ChatClient(self._config, self.name) as client:
            await client.wait_until_ready(retries=0)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Yield replies as they arrive; a request with an unreadable medium gets an error.

        Raises:
            EngineError: No retry can help; all earlier replies are yielded first.
        """
        finished: _Finished = SimpleQueue()
        running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

        async def main() -> None:
            task = asyncio.current_task()
            assert task, "a coroutine runs in one"
            running.set_result((asyncio.get_running_loop(), task))
            await self._answer_all(batches, sampling, finished)

        with ThreadPoolExecutor(1, "http") as pool:
            work = pool.submit(asyncio.run, main())
            work.add_done_callback(lambda _: finished.put(None))
            loop, task = running.result()
            try:
                yield from _groups(finished)
                work.result()
            finally:
                # If the caller stops iterating, the rest of the list must not be sent.
                if not work.done():
                    # The loop may have ended since.
                    with suppress(RuntimeError):
                        loop.call_soon_threadsafe(task.cancel)

    def with_profile(self, profile: Profile) -> OpenAIEngine:
        """Return an engine for the same server that shows media as `profile` says."""
        return OpenAIEngine(self._config, self.name, profile)

    async def _answer_all(
        self, batches: Sequence[Batch], sampling: Sampling, finished: _Finished
    ) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CODER_THREADS, "media"))
        items, head, todo = _MessageItems(self._profile), self._head(sampling), enumerate(batches)

        async def answer_in_turn(client: ChatClient) -> None:
            for index, batch in todo:
                replies = []
                for request in batch.requests:
                    replies.append(await _answer_request(client, head, items, request, batch.seed))
                finished.put((index, replies))

        async with ChatClient(self._config, self.name) as client:
            if batches:
                await client.wait_until_ready(retries=self._config.retries)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._config.concurrency, len(batches))):
                        group.create_task(answer_in_turn(client))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None

    def _head(self, sampling: Sampling) -> bytes:
        fields: dict[str, Any] = {
            "model": self.name,
            "temperature": sampling.temperature,
            # The whole distribution: vLLM takes a missing value from the model's own configuration.
            "top_p": 1,
            "max_tokens": sampling.max_new_tokens,
        }
        if sampling.logprobs:
            fields["logprobs"] = True
        return request_head(fields, self._profile.system)


def _groups(finished: _Finished) -> Iterator[FinishedBatches]:
    """Yield what has finished, gathered for COMMIT_SECONDS, until the None at the end."""
    ended = False
    while not ended:
        group = [finished.get()]
        time.sleep(COMMIT_SECONDS)
        while not finished.empty():
            group.append(finished.get())
        ended = group[-1] is None
        batches = [pair for pair in group if pair]
        if batches:
            yield batches


class MessageItem(NamedTuple):
    """One item of a message.

    Attributes:
        json: The item as JSON.
        fps: Frames a second, for a video.
    """

    json: bytes
    fps: float | None = None


class _MessageItems:
    """Parts of prompts as items of messages.

    Media are encoded in threads just before they are sent, and once for all draws of a query, which
    follow one another.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._tasks: OrderedDict[tuple[Media, float], asyncio.Task[MessageItem]] = OrderedDict()
        self._size = 0  # bytes of the finished ones

    async def of(self, request: Request) -> list[MessageItem]:
        """Return all items of a request.

        Raises:
            DataError: A medium is missing, changed or unreadable.
        """
        profile = await asyncio.to_thread(
            with_common_fps, request.parts, request.root, self._profile
        )
        return [await self._item(part, request.root, profile) for part in request.parts]

    async def _item(self, part: Media | str, root: Path, profile: Profile) -> MessageItem:
        if isinstance(part, str):
            return text_item(part)
        key = part, profile.fps
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._encode(part, root, profile))
        self._tasks.move_to_end(key)
        return await self._tasks[key]

    async def _encode(self, media: Media, root: Path, profile: Profile) -> MessageItem:
        item = await asyncio.to_thread(media_item, media, root, profile)
        self._size += len(item.json)
        while self._size > CACHE_BYTES:
            oldest = next(iter(self._tasks.values()))
            if not oldest.done():
                break
            if not oldest.exception():
                self._size -= len(oldest.result().json)
            self._tasks.popitem(last=False)
        return item


def text_item(text: str) -> MessageItem:
    """Return a text as an item of a message."""
    return MessageItem(to_json({"type": "text", "text": text}))


def media_item(media: Media, root: Path, profile: Profile) -> MessageItem:
    """Encode a medium as an item of a message: pictures and videos as data URLs, sound as WAV.

    Raises:
        DataError: The medium is missing, changed or unreadable.
    """
    if media.kind == "image":
        image = {"url": image_to_url(verify_media(media, root))}
        return MessageItem(to_json({"type": "image_url", "image_url": image}))
    decoded = read_media(media, root, profile)
    if isinstance(decoded, Video):
        video = {"url": video_to_url(decoded)}
        return MessageItem(to_json({"type": "video_url", "video_url": video}), decoded.fps)
    assert isinstance(decoded, np.ndarray), "neither a picture nor a video: a sound"
    sound = {"data": wav_to_base64(decoded), "format": "wav"}
    return MessageItem(to_json({"type": "input_audio", "input_audio": sound}))


def request_head(fields: Mapping[str, Any], system: str) -> bytes:
    """Return the body of a request up to the items of the user's turn.

    The items follow as JSON: a video of megabytes is escaped once, not once a draw.
    """
    messages = [{"role": "system", "content": system}] if system else []
    comma = b"," if system else b""
    body = to_json({**fields, "messages": messages}).removesuffix(b"]}")
    return body + comma + b'{"role":"user","content":['


def request_tail(items: Sequence[MessageItem], seed: int, choices: Sequence[str] = ()) -> bytes:
    """Return the body of a request after the items; with `choices` the reply must be one of them.

    Raises:
        DataError: The videos have different frame rates; a request has room for one.
    """
    rates = sorted({item.fps for item in items if item.fps})
    if len(rates) > 1:
        listed = " and ".join(f"{rate:g}" for rate in rates)
        raise DataError(
            f"its videos are shown at {listed} frames a second, and a request has one rate for all:"
            " give them clips of equal length",
            code="request-mixed-video-rates",
        )
    fields: dict[str, Any] = video_settings(rates[0]) if rates else {}
    if choices:
        fields[CHOICES_FIELD] = {"choice": choices}
    fields["seed"] = seed
    return b"]}]," + to_json(fields)[1:]


async def _answer_request(
    client: ChatClient, head: bytes, items: _MessageItems, request: Request, seed: int
) -> Reply:
    """Send one request.

    Raises:
        EngineError: Every request would fail, or the server ignores the choices.
    """
    try:
        content = await items.of(request)
        tail = request_tail(content, seed, request.choices)
    except DataError as error:
        return media_error_reply(request, error)
    reply = await client.complete(head + b",".join(item.json for item in content) + tail)
    if request.choices and not reply.error:
        _check_choice(reply, request.choices)
    return reply


def _check_choice(reply: Reply, choices: Sequence[str]) -> None:
    """Raise EngineError for a reply outside the choices; servers ignore fields they do not know."""
    text = reply.text.strip()
    # If the reasoning was truncated, the reply is empty: it counts as a truncated reply.
    if text in choices or (reply.truncated and not text):
        return
    if reply.truncated:
        raise EngineError(
            f"profile.max_new_tokens truncates a choice at {text[:MESSAGE_CHARACTERS]!r}: set it to"
            " more than the tokens of the longest option",
            code="engine-choice-truncated",
            field="profile.max_new_tokens",
        )
    listed = ", ".join(repr(choice[:MESSAGE_CHARACTERS]) for choice in choices)
    raise EngineError(
        f"the server replied {text[:MESSAGE_CHARACTERS]!r}, which is none of the choices {listed}:"
        f" it ignores {CHOICES_FIELD}. Use a server that supports it, such as vLLM 0.32, or"
        " profile.scoring=reply",
        code="engine-choices-ignored",
        field="profile.scoring",
    )
