"""Client of one OpenAI-compatible server: retries, Retry-After, and a circuit breaker.

How each outcome is handled:

- connection lost, no answer in time, 408, 425, 429, 5xx, a reply that is incomplete or not a chat
  completion: retried after a jittered wait that doubles from half a second and is never shorter
  than Retry-After; when the retries are used up, a `Reply` with an `error`.
- another refusal of the request (400, 413, 422): a `Reply` with an `error` at once, because other
  requests may succeed.
- 401, 403, 404, a redirect, an unknown model, a reply by another model: EngineError at once,
  because every request would fail.
- the server is gone: EngineError after a full round of retries at /models has failed as well.

When a connection is lost, one request probes /models while all others wait. A server that is down
is not flooded, and after one that returns within the retries the run continues without an error.
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
from typing import Self

import aiohttp
from pydantic import BaseModel, Field, ValidationError
from yarl import URL

from omnicore.config import EngineConfig
from omnicore.engines.base import Reply
from omnicore.engines.server_errors import error_message
from omnicore.errors import EngineError
from omnicore.telemetry import live

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries
# Seconds that an idle connection is kept. uvicorn closes its own after 5, and a request that is
# sent at that moment would be lost.
KEEPALIVE_SECONDS = 4.0
CONNECT_SECONDS = 10.0  # for a connection to open, and for /models to answer

_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum model length|(prompt|input) is too long", re.IGNORECASE
)
_REASONING = re.compile(
    r"\s*(?:<think>)?((?:(?!<think>).)*?)</think>\s*", re.DOTALL | re.IGNORECASE
)
# Hosted APIs reply under the model's name with the date of its version.
_VERSION_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}")


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
    """The fields of a chat completion that are used; servers add fields, so others are allowed."""

    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str
    root: str | None = None


class _Models(BaseModel):
    data: list[_Model]


class _Retryable(Exception):
    """A failure that a retry may fix; the server asks to wait `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _ConnectionLost(_Retryable):
    """No complete answer arrived: the server may be gone."""


class _Rejected(Exception):
    """The server refuses this request, and would refuse it again."""


class ChatClient:
    """Client of the chat completions of one server; used as an async context."""

    def __init__(self, config: EngineConfig, model: str) -> None:
        """Prepare requests to `model` at `config.url`.

        Raises:
            EngineError: The URL is invalid.
        """
        self._config, self._model = config, model
        base = config.url.rstrip("/")
        try:
            self._chat_url = URL(f"{base}/chat/completions")
            self._models_url = URL(f"{base}/models")
        except ValueError as error:
            raise EngineError(
                f"engine.url {config.url!r} is not a URL: {error}",
                code="engine-url-invalid",
                field="engine.url",
            ) from error
        self._reply_names = frozenset({model})  # names under which the server may reply
        self._reachable = asyncio.Event()
        self._reachable.set()

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._config.key_env)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            # Callers bound the number of requests; the pool must not.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def complete(self, body: bytes) -> Reply:
        """Post a chat completion; return the reply, or one with an error if the retries fail.

        Raises:
            EngineError: Every request would fail, or the server is gone.
        """
        failure = _Retryable("")
        for tries in range(self._config.retries + 1):
            if tries:
                live.increment("omni_engine_retries_total", 1)
                await asyncio.sleep(failure.retry_after + backoff_seconds(tries))
            await self._reachable.wait()
            try:
                content = await self._fetch(self._chat_url, self._config.timeout, body)
                return self._parse_completion(content)
            except _Rejected as rejection:
                return Reply(error=str(rejection))
            except EngineError:
                # If the model is the fault, the error of this probe lists the server's models.
                with suppress(_Retryable):
                    await self._check_model()
                raise
            except _Retryable as error:
                failure = error
            if isinstance(failure, _ConnectionLost):
                await self._wait_until_reachable()
            if failure.retry_after > self._config.timeout:
                asked = f"asks to wait {failure.retry_after:.0f} s, longer than engine.timeout"
                return Reply(error=f"{failure} ({asked})")
        # The request is at fault only if the server itself still answers.
        await self._wait_until_reachable()
        return Reply(error=f"{failure} ({self._config.retries + 1} tries)")

    async def wait_until_ready(self, *, retries: int) -> None:
        """Return when the server answers and has the model.

        Raises:
            EngineError: It does not answer after `retries` retries, or does not have the model.
        """
        began, failure = time.monotonic(), _Retryable("")
        for tries in range(retries + 1):
            if tries:
                await asyncio.sleep(failure.retry_after + backoff_seconds(tries))
            try:
                return await self._check_model()
            except _Retryable as error:
                failure = error
            if failure.retry_after > self._config.timeout:
                break
        raise EngineError(
            f"{self._config.url} does not answer ({failure}; tried {tries + 1} times in"
            f" {time.monotonic() - began:.0f} s): start the server, or fix engine.url. Finished"
            " replies are kept: re-run the same command to send only the rest",
            code="engine-unreachable",
            field="engine.url",
        )

    async def _wait_until_reachable(self) -> None:
        """Wait until the server answers; one request probes it for all."""
        if not self._reachable.is_set():
            await self._reachable.wait()
            return
        self._reachable.clear()
        try:
            await self.wait_until_ready(retries=self._config.retries)
        finally:
            self._reachable.set()

    async def _check_model(self) -> None:
        try:
            content = await self._fetch(self._models_url, CONNECT_SECONDS)
            models = _Models.model_validate_json(content).data
        except (ValidationError, _Rejected) as error:
            raise EngineError(
                f"{self._models_url} lists no models, so engine.url is not an OpenAI-compatible"
                f" API: {error}",
                code="engine-url-not-openai",
                field="engine.url",
            ) from error
        roots = {model.id: model.root for model in models}
        if self._model not in roots:
            listed = ", ".join(map(repr, roots)) or "none"
            raise EngineError(
                f"{self._config.url} has no model {self._model!r}; it has {listed}",
                code="engine-model-unknown",
                field="engine.url",
            )
        # vLLM replies under the first of the names that it serves a model by.
        root = roots[self._model]
        aliases = [name for name in roots if root and roots[name] == root]
        self._reply_names = frozenset({self._model, *aliases})

    async def _fetch(self, url: URL, timeout: float, body: bytes | None = None) -> bytes:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(
                method, url, data=body, timeout=limits, allow_redirects=False
            ) as response:
                content = (await response.read()).removeprefix(BOM_UTF8)
        except TimeoutError as error:
            raise _ConnectionLost(f"no answer in {timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise _ConnectionLost(f"connection lost: {error}") from error
        if response.status == 200:
            return content
        raise self._failure(url, response, f"HTTP {response.status}: {error_message(content)}")

    def _failure(self, url: URL, response: aiohttp.ClientResponse, message: str) -> Exception:
        """Return the exception for a response with another status than 200."""
        status = response.status
        if status in (408, 425, 429) or status >= 500:
            return _Retryable(message, retry_after_seconds(response.headers))
        if status in (401, 403):
            return EngineError(
                f"{url} refuses the credentials ({message}): set the API key in the environment"
                f" variable {self._config.key_env}",
                code="engine-credentials-refused",
                field="engine.key_env",
            )
        if status in (404, 405) or status < 400:
            return EngineError(
                f"{url} does not exist ({message}): engine.url is the base of the API and usually"
                " ends in /v1",
                code="engine-url-not-found",
                field="engine.url",
            )
        if _TOO_LONG.search(message):
            message = f"the prompt is longer than the model's context ({message})"
        return _Rejected(message)

    def _parse_completion(self, content: bytes) -> Reply:
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError as error:
            raise _Retryable(f"not a chat completion: {error_message(content)}") from error
        self._check_reply_name(completion.model)
        choice = completion.choices[0]
        # vLLM ends a generation that it gave up with `abort`, a content filter with its own name.
        if choice.finish_reason not in ("stop", "length"):
            raise _Retryable(f"generation ended by {choice.finish_reason!r}")
        text = choice.message.content or ""
        reasoning = choice.message.reasoning_content or choice.message.reasoning or ""
        inline = _REASONING.match(text)
        if inline and not reasoning:
            reasoning, text = inline[1].strip(), text[inline.end() :]
        logprobs: tuple[float, ...] = ()
        if choice.logprobs and choice.logprobs.content:
            logprobs = tuple(token.logprob for token in choice.logprobs.content)
        return Reply(
            text,
            reasoning,
            truncated=choice.finish_reason == "length",
            logprobs=logprobs,
            tokens=(completion.usage and completion.usage.completion_tokens) or 0,
        )

    def _check_reply_name(self, name: str | None) -> None:
        if not name or name in self._reply_names:
            return
        if _VERSION_DATE.fullmatch(name.removeprefix(self._model)):
            return
        raise EngineError(
            f"{self._config.url} was asked for model {self._model!r} and {name!r} replied: the"
            " scores would be those of another model; set the model that the server has",
            code="engine-wrong-model",
            field="engine.url",
        )


def backoff_seconds(tries: int) -> float:
    """Return the seconds to wait before another try.

    They double from try to try, with jitter, so that requests that failed together spread out.
    """
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.5)


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Read Retry-After, in seconds or as a date (RFC 9110, section 10.2.3); 0 without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    # Not a date, or one without a time zone.
    except (ValueError, TypeError):
        return 0.0
