"""Response to a chat completion request: the whole reply, or server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from omnicore.serving.prompt import PreparedRequest
from omnicore.serving.request import ChatRequest, RequestError


@dataclass(frozen=True)
class Generation:
    """Reply generated so far.

    Attributes:
        text: The text.
        tokens: Text of each token, the end of the turn included.
        logprobs: Log-probability of each token in nats.
        finish: `stop`, `length` if truncated, empty while it is generated.
    """

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    finish: str = ""


def token_usage(prepared: PreparedRequest, generation: Generation) -> dict[str, int]:
    """Return the `usage` of a response."""
    prompt, completion = len(prepared.prompt.ids), len(generation.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def completion_body(
    head: dict[str, Any], request: ChatRequest, prepared: PreparedRequest, generation: Generation
) -> dict[str, Any]:
    """Return the body of a whole reply; `head` holds its id, time and model."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": _logprobs(generation, 0) if request.logprobs else None,
        "finish_reason": generation.finish,
    }
    usage = token_usage(prepared, generation)
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def _logprobs(generation: Generation, start: int) -> dict[str, Any]:
    content = []
    pairs = zip(generation.tokens[start:], generation.logprobs[start:], strict=True)
    for token, logprob in pairs:
        content.append(
            {
                "token": token,
                "logprob": logprob,
                "bytes": list(token.encode()),
                "top_logprobs": [],
            }
        )
    return {"content": content}


class EventStream:
    """Formats a reply as server-sent events, each with what is new since the last."""

    def __init__(self, head: dict[str, Any], request: ChatRequest) -> None:
        self._head, self._request = {**head, "object": "chat.completion.chunk"}, request
        self._text, self._tokens = "", 0  # sent so far

    def first(self) -> bytes:
        """Return the event before the first token."""
        return self._event({"role": "assistant", "content": ""}, None, None)

    def more(self, generation: Generation) -> bytes:
        """Return the event for the tokens since the last one."""
        text = generation.text
        # An incomplete character, and space that may be the last, wait for the next token.
        if text.endswith("\ufffd") and not generation.finish:
            text = self._text
        new, self._text = text.removeprefix(self._text), text
        logprobs = _logprobs(generation, self._tokens) if self._request.logprobs else None
        self._tokens = len(generation.tokens)
        return self._event({"content": new}, generation.finish or None, logprobs)

    def last(self, prepared: PreparedRequest, generation: Generation) -> bytes:
        """Return the events that end the stream, with the usage if the client wants it."""
        end = b"data: [DONE]\n\n"
        if self._request.stream_options.include_usage:
            usage = token_usage(prepared, generation)
            end = _sse({**self._head, "choices": [], "usage": usage}) + end
        return end

    def _event(
        self, delta: dict[str, str], finish: str | None, logprobs: dict[str, Any] | None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return _sse({**self._head, "choices": [choice]})


def error_event(error: RequestError) -> bytes:
    """Return an error after the first event, when the HTTP status has been sent already."""
    return _sse(error.body())


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
