"""What a request to `omnicore serve` may say, as clients write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnicore.serving.chat import ChatRequest, RequestError, parse_request

TURN = {"role": "user", "content": "Which digit?"}


def asked(changed: dict[str, Any]) -> ChatRequest:
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
def test_null_and_values_that_ask_for_nothing_are_accepted(changed: dict[str, Any]) -> None:
    request = asked(changed)
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
def test_what_would_change_the_answer_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        asked(changed)
    assert (refused.value.status, refused.value.message) == (400, message)


@pytest.mark.parametrize(
    ("read", "processed", "rate"),
    [(None, None, 1.0), (2.0, None, 2.0), (None, 0.5, 0.5), (0.107, 0.107, 0.107), (2, 2.0, 2.0)],
)
def test_a_videos_rate_is_said_in_either_field(
    read: float | None, processed: float | None, rate: float
) -> None:
    request = asked(
        {
            "media_io_kwargs": {"video": {"num_frames": -1, "fps": read}},
            "mm_processor_kwargs": {"fps": processed},
        }
    )
    assert (request.fps, request.media_io_kwargs.video.num_frames) == (rate, -1)


def test_unlike_rates_in_one_request_are_refused() -> None:
    request = asked(
        {"media_io_kwargs": {"video": {"fps": 1.0}}, "mm_processor_kwargs": {"fps": 2.0}}
    )
    with pytest.raises(
        RequestError,
        match=r"media_io_kwargs.video.fps is 1 and mm_processor_kwargs.fps 2: .* share one rate",
    ):
        _ = request.fps
