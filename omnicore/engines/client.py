"""One server that speaks OpenAI's chat completions, asked until it answers.

What becomes of what comes back:

- connection lost, no answer in time, 408, 425, 429, 5xx, a reply that is not whole or was broken off: another try, after a
  jittered wait that doubles from half a second and never before a Retry-After; when no try is left, a `Reply` with an `error`.
- any other refusal of a request (400, 413, 422): a `Reply` with an `error` at once. Other requests may be answered.
- 401, 403, 404, a redirect, an unknown model, another model's reply: EngineError at once. Every request would fail.
- the server itself is gone: EngineError, once a whole round of tries at /models has failed, too.

When a connection is lost, all requests wait while one of them asks for /models: a server that is down is not stormed, and one
that comes back within the tries goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from codecs import BOM_UTF8
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import aiohttp
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json, to_json
from yarl import URL

from omnicore.config import EngineConfig
from omnicore.engines.base import Reply
from omnicore.errors import EngineError
from omnicore.telemetry import live

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries
KEEPALIVE_SECONDS = 4.0  # seconds an idle connection is kept: uvicorn closes its own after 5, and a request sent then would be lost
CONNECT_SECONDS = 10.0  # seconds for a connection to open, and for /models to answer

SAID = 300  # characters of a server's message

_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum model length|(prompt|input) is too long", re.IGNORECASE
)
_THOUGHT = re.compile(r"\s*(?:<think>)?((?:(?!<think>).)*?)</think>\s*", re.DOTALL | re.IGNORECASE)
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_SAMPLES = re.compile(r"[-+]?\d[\d.e+-]*(?:[,\s]+[-+]?\d[\d.e+-]*){7,}")  # eight numbers or more
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{80,}")
# vLLM writes a list of pydantic's errors as Python does, each with all that was sent.
_PYDANTIC = re.compile(r"'loc': \(([^)]*)\), 'msg': ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_DATED = re.compile(
    r"-\d{4}-?\d{2}-?\d{2}"
)  # how hosted APIs name the version behind a model's name


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """The part of a chat completion that is read.

    Servers add fields of their own, so unknown ones are no fault.
    """

    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str
    root: str | None = None


class _Models(BaseModel):
    data: list[_Model]


class _Again(Exception):
    """What another try may mend; `after` are the seconds that the server asks to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class _Refused(Exception):
    """What the server will not answer however often it is asked."""


class _Lost(_Again):
    """No whole answer came: the server may be gone."""


class ChatClient:
    """Posts to one server until it answers, and knows whether it is there."""

    def __init__(self, config: EngineConfig, model: str) -> None:
        self._config, self._model = config, model
        base = config.url.rstrip("/")
        try:
            self._chat, self._models = URL(f"{base}/chat/completions"), URL(f"{base}/models")
        except ValueError as error:
            raise EngineError(f"engine.url {config.url!r} is no address: {error}") from error
        self._names = frozenset({model})
        self._up = asyncio.Event()
        self._up.set()

    async def __aenter__(self) -> Self:
        key = os.environ.get(self._config.key_env)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEPALIVE_SECONDS
            ),  # whoever calls bounds the requests, not the pool
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def reply(self, body: bytes) -> Reply:
        """What the server replies, or a reply with an error when tries are used up.

        Raises EngineError.
        """
        failure = _Again("")
        for tries in range(self._config.retries + 1):
            if tries:
                live.increment("omni_engine_retries_total", 1)
                await asyncio.sleep(failure.after + _wait(tries))
            await self._up.wait()
            try:
                return self._read(await self._fetch(self._chat, self._config.timeout, body))
            except _Refused as refusal:
                return Reply(error=str(refusal))
            except EngineError:
                with suppress(_Again):
                    await (
                        self._look()
                    )  # where the model is what is wrong, this names those that the server has
                raise
            except _Again as error:
                failure = error
            if isinstance(failure, _Lost):
                await self._return()
            if failure.after > self._config.timeout:
                return Reply(
                    error=(
                        f"{failure} (asks to wait {failure.after:.0f} s, longer than"
                        " engine.timeout)"
                    )
                )
        await self._return()  # a request is at fault only where the server is not
        return Reply(error=f"{failure} ({self._config.retries + 1} tries)")

    async def ready(self, *, retries: int) -> None:
        """Returns when the server answers and has the model.

        Raises EngineError.
        """
        began, failure = time.monotonic(), _Again("")
        for tries in range(retries + 1):
            if tries:
                await asyncio.sleep(failure.after + _wait(tries))
            try:
                return await self._look()
            except _Again as error:
                failure = error
            if failure.after > self._config.timeout:
                break
        raise EngineError(
            f"{self._config.url} does not answer ({failure}; asked {tries + 1} times in"
            f" {time.monotonic() - began:.0f} s): start the server, or mend engine.url. What was"
            " answered is kept: the same command asks only the rest"
        )

    async def _return(self) -> None:
        """Waits until the server is there; one asks for all."""
        if not self._up.is_set():
            await self._up.wait()
            return
        self._up.clear()
        try:
            await self.ready(retries=self._config.retries)
        finally:
            self._up.set()

    async def _look(self) -> None:
        try:
            models = _Models.model_validate_json(
                await self._fetch(self._models, CONNECT_SECONDS)
            ).data
        except (ValidationError, _Refused) as error:
            raise EngineError(
                f"{self._models} lists no models, so engine.url is no OpenAI-compatible API:"
                f" {error}"
            ) from error
        roots = {model.id: model.root for model in models}
        if self._model not in roots:
            raise EngineError(
                f"{self._config.url} has no model {self._model!r}; it has"
                f" {', '.join(map(repr, roots)) or 'none'}"
            )
        # vLLM replies under the first of the names that it serves a model by.
        self._names = frozenset(
            name
            for name, root in roots.items()
            if name == self._model or (root and root == roots[self._model])
        )

    async def _fetch(self, url: URL, timeout: float, body: bytes | None = None) -> bytes:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(
                method, url, data=body, timeout=limits, allow_redirects=False
            ) as response:
                content = (await response.read()).removeprefix(BOM_UTF8)
        except TimeoutError as error:
            raise _Lost(f"no answer in {timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise _Lost(f"connection lost: {error}") from error
        status = response.status
        if status == 200:
            return content
        said = f"HTTP {status}: {_said(content)}"
        if status in (408, 425, 429) or status >= 500:
            raise _Again(said, _after(response.headers))
        if status in (401, 403):
            where = f"the API key goes into the environment variable {self._config.key_env}"
            raise EngineError(f"{url} refuses the credentials ({said}): {where}")
        if status in (404, 405) or status < 400:
            raise EngineError(
                f"{url} is not there ({said}): engine.url is the base of the API and mostly ends"
                " in /v1"
            )
        raise _Refused(
            f"the prompt is longer than the model's context ({said})"
            if _TOO_LONG.search(said)
            else said
        )

    def _read(self, content: bytes) -> Reply:
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError as error:
            raise _Again(f"no chat completion: {_said(content)}") from error
        name, choice = completion.model, completion.choices[0]
        if (
            name
            and name not in self._names
            and not _DATED.fullmatch(name.removeprefix(self._model))
        ):
            raise EngineError(
                f"{self._config.url} was asked for {self._model!r} and answered by {name!r}: scores"
                " would be another model's"
            )
        if choice.finish_reason not in (
            "stop",
            "length",
        ):  # vLLM ends with `abort` what it gave up, a filter with its own name
            raise _Again(f"generation ended by {choice.finish_reason!r}")
        text = choice.message.content or ""
        reasoning = choice.message.reasoning_content or choice.message.reasoning or ""
        if not reasoning and (thought := _THOUGHT.match(text)):
            reasoning, text = thought[1].strip(), text[thought.end() :]
        logprobs = tuple(
            token.logprob for token in (choice.logprobs and choice.logprobs.content) or ()
        )
        tokens = (completion.usage and completion.usage.completion_tokens) or 0
        return Reply(
            text, reasoning, choice.finish_reason == "length", logprobs=logprobs, tokens=tokens
        )


def _wait(tries: int) -> float:
    """Seconds before another try: doubled from try to try, scattered so that requests that failed
    together part."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.5)


def _after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After asks for, given in seconds or as a date (RFC 9110, 10.2.3); 0
    without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0


def _said(content: bytes) -> str:
    """The server's own words, in one line of about 300 characters: the messages of a JSON error,
    the title of a page.

    Numbers in a row and base64, which are the medium that was sent, are left out; of what is still
    too long, the middle.
    """
    text = content.decode(errors="replace")
    with suppress(ValueError):
        text = _message(from_json(content))
    if title := _TITLE.search(text):
        text = f"a page titled {title[2]!r}"
    if reasons := [_reason(found) for found in _PYDANTIC.finditer(text)]:
        text = "; ".join(dict.fromkeys(reasons))
    text = " ".join(_SAMPLES.sub("...", _BASE64.sub("...", text)).split())
    return (
        text if len(text) <= SAID else f"{text[: SAID // 2]} ... {text[-SAID // 2 :]}"
    ) or "nothing"


def _reason(found: re.Match[str]) -> str:
    field = ".".join(re.findall(r"[\w-]+", found[1]))
    return f"{field}: {found[2][1:-1]}"


def _message(found: Any) -> str:
    """The words of an error in JSON: OpenAI's `error.message`, FastAPI's `detail`, which may list
    pydantic's errors."""
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return "; ".join(dict.fromkeys(map(_message, found)))
    if isinstance(found, dict) and found.get("msg"):
        field = ".".join(map(str, found.get("loc") or ["request"]))
        return f"{field}: {found['msg']}"
    if isinstance(found, dict) and (
        inner := next((found[k] for k in ("error", "message", "detail") if found.get(k)), None)
    ):
        return _message(inner)
    return to_json(found).decode()
