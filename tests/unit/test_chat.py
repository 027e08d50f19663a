"""Parsing of requests to `omnicore serve`, as clients write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnicore.serving.request import ChatRequest, RequestError, parse_request

TURN = {"role": "user", "content": "Which digit?"}


def parsed(changed: dict[str, Any]) -> ChatRequest:
    return parse_request(json.dumps({"model": "m", "messages": [TURN], **changed}).encode())


@pytest.mark.parametrize(
    "changed",
    [
        dict.fromkeys(
            (
                "temperature",
                "top_p",
                "n",
                "max_tokens",
                "seed",
                "stop",
                "logprobs",
                "stream",
                "stream_options",
            )
        ),
        {
            "frequency_penalty": 0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0,
            "n": 1,
        },
        {"stop": [], "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"]},
        {
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "functions": [],
            "function_call": "none",
        },
        {
            "user": "u",
            "store": False,
            "metadata": {"run": "1"},
            "service_tier": "auto",
            "safety_identifier": "s",
        },
        {"stream_options": {"include_usage": None, "include_obfuscation": False}},
        {
            "ignore_eos": False,
            "skip_special_tokens": True,
            "stop_token_ids": [],
            "chat_template_kwargs": {},
            "top_logprobs": 0,
        },
        {"messages": [{**TURN, "name": "alice"}]},
        {"messages": [{"role": "system", "content": "Look.", "name": None}, TURN]},
        {"media_io_kwargs": None, "mm_processor_kwargs": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_null_and_neutral_values_are_accepted(changed: dict[str, Any]) -> None:
    request = parsed(changed)
    assert (request.temperature, request.max_tokens, request.seed, request.stream, request.fps) == (
        1.0,
        None,
        None,
        False,
        1.0,
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"top_p": 0.5}, "top_p: only 1 is supported here"),
        ({"n": 2}, "n: only 1 is supported here"),
        ({"frequency_penalty": 0.1}, "frequency_penalty: only 0 is supported here"),
        ({"stop": ["\n"]}, 'stop: only [] or "" is supported here'),
        (
            {"response_format": {"type": "json_object"}},
            'response_format: only {"type": "text"} is supported here',
        ),
        ({"tools": [{"type": "function"}]}, "tools: only [] is supported here"),
        (
            {"structured_outputs": {"choice": ["A", "B"]}},
            "structured_outputs: is not supported here",
        ),
        ({"messages": None}, "messages: field required"),
        (
            {"mm_processor_kwargs": {"use_audio_in_video": True}},
            "mm_processor_kwargs.use_audio_in_video: is not supported here",
        ),
        (
            {"media_io_kwargs": {"video": {"fps": 0}}},
            "media_io_kwargs.video.fps: input should be greater than 0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_fields_that_change_the_answer_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parsed(changed)
    assert (refused.value.status, refused.value.message) == (400, message)


@pytest.mark.parametrize(
    ("read", "processed", "rate"),
    [(None, None, 1.0), (2.0, None, 2.0), (None, 0.5, 0.5), (0.107, 0.107, 0.107), (2, 2.0, 2.0)],
)
def test_video_rate_may_be_in_either_field(
    read: float | None, processed: float | None, rate: float
) -> None:
    request = parsed(
        {
            "media_io_kwargs": {"video": {"num_frames": -1, "fps": read}},
            "mm_processor_kwargs": {"fps": processed},
        }
    )
    assert (request.fps, request.media_io_kwargs.video.num_frames) == (rate, -1)


def test_different_video_rates_are_refused() -> None:
    request = parsed(
        {"media_io_kwargs": {"video": {"fps": 1.0}}, "mm_processor_kwargs": {"fps": 2.0}}
    )
    with pytest.raises(RequestError) as caught:
        _ = request.fps
    assert (caught.value.code, caught.value.field) == ("unlike_rates", "mm_processor_kwargs.fps")
    assert "is 1 and mm_processor_kwargs.fps 2:" in caught.value.message
