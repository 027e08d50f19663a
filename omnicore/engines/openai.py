"""The engine behind a server that speaks OpenAI's chat completions: vLLM, KServe, `omnicore serve`,
a hosted API.

An event loop in a thread keeps `concurrency` requests on their way; the caller's thread writes the
journal meanwhile. Memory does not grow with the number of queries: media are encoded just before
they are sent, and kept only for the draws that follow.
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

COMMIT_SECONDS = 0.05  # seconds that finished replies are gathered for, so that one write to the journal holds many
CODER_THREADS = 2  # threads that decode and encode media
CHOICES_FIELD = (
    "structured_outputs"  # vLLM's field; `guided_choice`, its name before, is ignored by 0.32
)
MESSAGE_CHARACTERS = 80  # characters of a reply or a choice in a message
CACHE_BYTES = 64 << 20  # bytes of encoded media kept for further draws of the same query


class OpenAIEngine:
    """Asks `model` of the server at `config.url`.

    Raises EngineError when the server cannot be reached, refuses the credentials or does not have
    the model.
    """

    def __init__(self, config: EngineConfig, model: str, profile: Profile) -> None:
        self.name = model
        self._config, self._profile = config, profile
        with ThreadPoolExecutor(
            1
        ) as pool:  # the caller's thread may run an event loop of its own, as notebooks do
            pool.submit(asyncio.run, self._open()).result()

    async def _open(self) -> None:
        async with ChatClient(self._config, self.name) as client:
            await client.ready(retries=0)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Yield replies as they come; a request with a medium that cannot be read gets one with an
        error.

        Raises EngineError for what no retry can mend; all that was answered before is given first.
        """
        finished: SimpleQueue[tuple[int, list[Reply]] | None] = SimpleQueue()
        running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

        async def main() -> None:
            task = asyncio.current_task()
            assert task, "a coroutine runs in one"
            running.set_result((asyncio.get_running_loop(), task))
            await self._ask_all(batches, sampling, finished)

        with ThreadPoolExecutor(1, "http") as pool:
            work = pool.submit(asyncio.run, main())
            work.add_done_callback(lambda _: finished.put(None))
            loop, task = running.result()
            try:
                ended = False
                while not ended:
                    group = [finished.get()]
                    time.sleep(COMMIT_SECONDS)
                    while not finished.empty():
                        group.append(finished.get())
                    ended = group[-1] is None
                    if done := [pair for pair in group if pair]:
                        yield done
                work.result()
            finally:
                if not work.done():  # whoever asked has had enough: without this, the server is asked to the end of the list
                    with suppress(RuntimeError):  # the loop may have ended since
                        loop.call_soon_threadsafe(task.cancel)

    def with_profile(self, profile: Profile) -> OpenAIEngine:
        return OpenAIEngine(self._config, self.name, profile)

    async def _ask_all(
        self,
        batches: Sequence[Batch],
        sampling: Sampling,
        finished: SimpleQueue[tuple[int, list[Reply]] | None],
    ) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CODER_THREADS, "media"))
        items, head, todo = _MessageItems(self._profile), self._head(sampling), enumerate(batches)

        async def ask_in_turn(client: ChatClient) -> None:
            for index, batch in todo:
                finished.put(
                    (
                        index,
                        [
                            await _asked(client, head, items, request, batch.seed)
                            for request in batch.requests
                        ],
                    )
                )

        async with ChatClient(self._config, self.name) as client:
            if batches:
                await client.ready(retries=self._config.retries)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._config.concurrency, len(batches))):
                        group.create_task(ask_in_turn(client))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None

    def _head(self, sampling: Sampling) -> bytes:
        fields = {
            "model": self.name,
            "temperature": sampling.temperature,
            "top_p": (
                1
            ),  # the whole distribution: vLLM takes what is not given from the model's own generation config
            "max_tokens": sampling.max_new_tokens,
            **({"logprobs": True} if sampling.logprobs else {}),
        }
        return request_head(fields, self._profile.system)


class MessageItem(NamedTuple):
    """One item of a message as JSON; `fps` are a video's frames a second."""

    json: bytes
    fps: float | None = None


class _MessageItems:
    """Parts of a prompt as items of a message.

    Media are encoded in threads, just before they are sent, and once for the draws of a query,
    which follow one another.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._kept: OrderedDict[tuple[Media, float], asyncio.Task[MessageItem]] = OrderedDict()
        self._size = 0

    async def of(self, request: Request) -> list[MessageItem]:
        """All items of a request.

        Raises DataError.
        """
        profile = await asyncio.to_thread(
            with_common_fps, request.parts, request.root, self._profile
        )
        return [await self._item(part, request.root, profile) for part in request.parts]

    async def _item(self, part: Media | str, root: Path, profile: Profile) -> MessageItem:
        if isinstance(part, str):
            return text_item(part)
        key = part, profile.fps
        if key not in self._kept:
            self._kept[key] = asyncio.create_task(self._encode(part, root, profile))
        self._kept.move_to_end(key)
        return await self._kept[key]

    async def _encode(self, media: Media, root: Path, profile: Profile) -> MessageItem:
        item = await asyncio.to_thread(media_item, media, root, profile)
        self._size += len(item.json)
        while self._size > CACHE_BYTES and (oldest := next(iter(self._kept.values()))).done():
            self._size -= 0 if oldest.exception() else len(oldest.result().json)
            self._kept.popitem(last=False)
        return item


def text_item(text: str) -> MessageItem:
    return MessageItem(to_json({"type": "text", "text": text}))


def media_item(media: Media, root: Path, profile: Profile) -> MessageItem:
    """Raises DataError for a medium that is missing, was changed or cannot be read."""
    if media.kind == "image":
        return MessageItem(
            to_json(
                {"type": "image_url", "image_url": {"url": image_to_url(verify_media(media, root))}}
            )
        )
    shown = read_media(media, root, profile)
    if isinstance(shown, Video):
        return MessageItem(
            to_json({"type": "video_url", "video_url": {"url": video_to_url(shown)}}), shown.fps
        )
    assert isinstance(shown, np.ndarray), "what is no image and no video is a sound"
    return MessageItem(
        to_json(
            {"type": "input_audio", "input_audio": {"data": wav_to_base64(shown), "format": "wav"}}
        )
    )


def request_head(fields: Mapping[str, Any], system: str) -> bytes:
    """The body of a request up to the items of the user's turn, which are JSON already: a video of
    megabytes is escaped once, not once a draw."""
    messages = [{"role": "system", "content": system}] if system else []
    comma = b"," if system else b""
    return (
        to_json({**fields, "messages": messages}).removesuffix(b"]}")
        + comma
        + b'{"role":"user","content":['
    )


def request_tail(items: Sequence[MessageItem], seed: int, choices: Sequence[str] = ()) -> bytes:
    """The end of a body; with `choices` the server may generate nothing else.

    Raises DataError for videos of unlike rates: a request has room for one.
    """
    rates = sorted({item.fps for item in items if item.fps})
    if len(rates) > 1:
        listed = " and ".join(f"{rate:g}" for rate in rates)
        raise DataError(
            f"its videos are shown at {listed} frames a second, and a request has one rate for all:"
            " clip them alike"
        )
    bounded = {CHOICES_FIELD: {"choice": choices}} if choices else {}
    return (
        b"]}],"
        + to_json({**(video_settings(rates[0]) if rates else {}), **bounded, "seed": seed})[1:]
    )


async def _asked(
    client: ChatClient, head: bytes, items: _MessageItems, request: Request, seed: int
) -> Reply:
    """Raises EngineError as `_check_choice` does."""
    try:
        shown = await items.of(request)
        end = request_tail(shown, seed, request.choices)
    except DataError as error:
        return media_error_reply(request, error)
    reply = await client.reply(head + b",".join(item.json for item in shown) + end)
    if request.choices and not reply.error:
        _check_choice(reply, request.choices)
    return reply


def _check_choice(reply: Reply, choices: Sequence[str]) -> None:
    """Raises EngineError for a reply that is none of the choices: servers ignore fields that they
    do not know."""
    said = reply.text.strip()
    if said in choices or (reply.truncated and not said):  # a thought that was cut is a cut reply
        return
    if reply.truncated:
        raise EngineError(
            f"profile.max_new_tokens cuts a choice at {said[:MESSAGE_CHARACTERS]!r}: raise it above the longest"
            " option's tokens"
        )
    listed = ", ".join(repr(choice[:MESSAGE_CHARACTERS]) for choice in choices)
    raise EngineError(
        f"the server answered {said[:MESSAGE_CHARACTERS]!r}, which is none of the choices {listed}: it ignores"
        f" {CHOICES_FIELD}. Use a server that knows it, as vLLM 0.32 does, or profile.scoring=reply"
    )
