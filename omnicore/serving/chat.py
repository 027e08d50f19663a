"""OpenAI's chat completions as this server speaks them: one user turn, after at most one system
message.

A field that would change the answer and is not supported is refused, never ignored: a client that
asks for `top_p` 0.5 and gets the whole distribution would score another model. Clients send many
fields at the value that asks for nothing (`frequency_penalty` 0); these are `NEUTRAL`, and null is
absent everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from transformers.utils import is_torchvision_available

from omnicore.errors import DataError
from omnicore.media.data_url import image_from_url, video_from_url, wav_from_base64
from omnicore.models.processor import Encoder, Features, Prompt
from omnicore.schema import CONTROL_TOKEN

MAX_MEDIA = 16  # of one request

# Values that ask for what this server does anyway, of fields that it otherwise refuses.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stop": ([], ""),
    "stop_token_ids": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "top_logprobs": (0,),
    "top_p": (1,),
    "use_beam_search": (False,),
}
# What is about the bill, the cache or who asks, and no part of the question.
IGNORED = {
    "metadata",
    "parallel_tool_calls",  # there are no tools
    "prompt_cache_key",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}


class RequestError(Exception):
    """A request that is answered with an error in OpenAI's shape; `code` is for programs."""

    def __init__(self, status: int, message: str, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.field = status, message, code, field

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": kind,
            "param": self.field or None,
            "code": self.code or None,
        }
        return {"error": error}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return (
            {k: v for k, v in values.items() if v is not None}
            if isinstance(values, dict)
            else values
        )


class Text(_Part):
    type: Literal["text"]
    text: str


class _Url(_Part):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"  # sizes are the model's own


class Image(_Part):
    type: Literal["image_url"]
    image_url: _Url


class _Wave(_Part):
    data: str
    format: Literal["wav", "mp3"]


class Audio(_Part):
    type: Literal["input_audio"]
    input_audio: _Wave


class Video(_Part):
    type: Literal["video_url"]
    video_url: _Url


ContentItem = Annotated[Text | Image | Audio | Video, Field(discriminator="type")]


class Message(_Part):
    role: Literal["system", "user"]
    name: str = ""  # chat templates have no place for it
    content: Annotated[
        list[ContentItem],
        BeforeValidator(lambda c: [{"type": "text", "text": c}] if isinstance(c, str) else c),
    ]


class _StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool = False  # noise against who listens on the way: none is sent


class _VideoSettings(_Part):
    num_frames: int = Field(
        -1, ge=-1
    )  # vLLM's own default keeps 32 and drops the rest; here all that are sent are shown
    fps: float | None = Field(None, gt=0)


class _MediaSettings(_Part):
    video: _VideoSettings = _VideoSettings()


class _ProcessorSettings(_Part):
    fps: float | None = Field(None, gt=0)


class ChatRequest(_Part):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=10)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    logprobs: bool = False
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    # vLLM's: how many of a video's frames are a second, told to its reader and to the model's processor.
    media_io_kwargs: _MediaSettings = _MediaSettings()
    mm_processor_kwargs: _ProcessorSettings = _ProcessorSettings()

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k not in IGNORED and v not in NEUTRAL.get(k, ())}

    @property
    def fps(self) -> float:
        """Raises Refused for unlike rates: all videos of a request share one."""
        read, processed = self.media_io_kwargs.video.fps, self.mm_processor_kwargs.fps
        if read and processed and read != processed:
            raise RequestError(
                400,
                f"media_io_kwargs.video.fps is {read:g} and mm_processor_kwargs.fps {processed:g}:"
                " the videos of a request share one rate, so sample them alike",
                "unlike_rates",
                "mm_processor_kwargs.fps",
            )
        return read or processed or 1.0


def parse_request(body: bytes) -> ChatRequest:
    """Raises Refused naming the first field that is wrong, in one sentence."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise RequestError(400, f"the body is not JSON: {first['ctx']['error']}")
    loc = first["loc"]
    path = (
        (*loc[:4], *loc[5:]) if len(loc) > 5 else loc
    )  # messages, 0, content, 1, then the name of a union's member
    field = ".".join(map(str, path))
    said = (
        _unsupported(field)
        if first["type"] == "extra_forbidden"
        else first["msg"][0].lower() + first["msg"][1:]
    )
    raise RequestError(400, f"{field or 'the body'}: {said}", "invalid_field", field)


def _unsupported(field: str) -> str:
    neutral = " or ".join(json.dumps(value) for value in NEUTRAL.get(field, ()))
    return f"only {neutral} is supported here" if neutral else "is not supported here"


@dataclass(frozen=True)
class PreparedRequest:
    """A request ready to be answered.

    `most` is the number of tokens that the reply may have.
    """

    prompt: Prompt
    most: int
    temperature: float
    seed: int | None


def prepare_request(request: ChatRequest, encoder: Encoder, context: int) -> PreparedRequest:
    """Decodes the media and tokenises.

    Raises Refused: 400 for what the model cannot be asked, 422 for broken media.
    """
    *system, user = request.messages
    if user.role != "user" or len(system) > 1 or any(m.role != "system" for m in system):
        raise RequestError(
            400,
            "messages: this server answers one user message, after at most one system message",
            field="messages",
        )
    if any(not isinstance(item, Text) for message in system for item in message.content):
        raise RequestError(400, "messages.0: a system message holds text only", field="messages")
    if sum(not isinstance(item, Text) for item in user.content) > MAX_MEDIA:
        raise RequestError(
            400, f"more than {MAX_MEDIA} media in one request", "too_many_media", "messages"
        )
    parts = [
        _part(item, f"messages.{len(system)}.content.{i}", encoder, request)
        for i, item in enumerate(user.content)
    ]
    texts = [item.text for message in system for item in message.content if isinstance(item, Text)]
    # One of these in a text would stand for a medium that is not there, or end the user's turn.
    for text in (*texts, *(part for part in parts if isinstance(part, str))):
        if found := CONTROL_TOKEN.search(text):
            raise RequestError(
                400,
                f"the text holds {found[0]!r}, which controls the model: leave it out",
                "control_token",
                "messages",
            )
    prompt = encoder.prompt(parts, "".join(texts))
    most = request.max_completion_tokens or request.max_tokens or max(1, context - len(prompt.ids))
    if len(prompt.ids) + most > context:
        raise RequestError(
            400,
            f"the prompt has {len(prompt.ids)} tokens and max_tokens is {most}: together more than"
            f" the context length of {context}",
            "context_length_exceeded",
            "messages",
        )
    return PreparedRequest(prompt, most, request.temperature, request.seed)


def _part(
    item: Text | Image | Audio | Video, field: str, encoder: Encoder, request: ChatRequest
) -> str | Features:
    if isinstance(item, Text):
        return item.text
    url = (
        item.input_audio.data
        if isinstance(item, Audio)
        else (item.image_url if isinstance(item, Image) else item.video_url).url
    )
    if url.startswith(("http://", "https://", "file:", "ftp:")):
        raise RequestError(
            400,
            f"{field}: nothing is fetched from elsewhere; send the medium itself as a data URL",
            "external_url",
            field,
        )
    if isinstance(item, Video) and not is_torchvision_available():
        raise RequestError(
            400,
            f"{field}: videos need torchvision, which is not installed where this server runs",
            "no_video",
            field,
        )
    try:
        if isinstance(item, Image):
            return encoder.image(image_from_url(url))
        if isinstance(item, Audio):
            return encoder.audio(wav_from_base64(url))
        video = video_from_url(url, request.fps)
        if 0 <= request.media_io_kwargs.video.num_frames < len(video.jpegs):
            raise RequestError(
                400,
                f"{field}: {len(video.jpegs)} frames, and media_io_kwargs.video.num_frames is "
                f"{request.media_io_kwargs.video.num_frames}: send so many, or -1 for all",
                "too_many_frames",
                field,
            )
        return encoder.video(video.frames, video.fps)
    except DataError as error:
        raise RequestError(422, f"{field}: {error}", "broken_media", field) from error


@dataclass(frozen=True)
class Generation:
    """What was generated so far; `finish` once it ended: `stop`, or `length` where it was cut."""

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    finish: str = ""


def token_usage(asked: PreparedRequest, answer: Generation) -> dict[str, int]:
    prompt, completion = len(asked.prompt.ids), len(answer.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def completion_body(
    head: dict[str, Any], request: ChatRequest, asked: PreparedRequest, answer: Generation
) -> dict[str, Any]:
    """The whole reply; `head` is its id, time and model."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": _logprobs(answer, 0) if request.logprobs else None,
        "finish_reason": answer.finish,
    }
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice],
        "usage": token_usage(asked, answer),
    }


def _logprobs(answer: Generation, start: int) -> dict[str, Any]:
    tokens = zip(answer.tokens[start:], answer.logprobs[start:], strict=True)
    return {
        "content": [
            {"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []}
            for t, p in tokens
        ]
    }


class EventStream:
    """The reply as server-sent events, each with what is new since the last."""

    def __init__(self, head: dict[str, Any], request: ChatRequest) -> None:
        self._head, self._request = {**head, "object": "chat.completion.chunk"}, request
        self._text, self._tokens = "", 0

    def first(self) -> bytes:
        return self._event({"role": "assistant", "content": ""}, None, None)

    def more(self, answer: Generation) -> bytes:
        # A character whose bytes are not all there yet, and space that may be the reply's last, wait for what follows.
        text = answer.text if answer.finish or not answer.text.endswith("\ufffd") else self._text
        new, self._text = text.removeprefix(self._text), text
        logprobs = _logprobs(answer, self._tokens) if self._request.logprobs else None
        self._tokens = len(answer.tokens)
        return self._event({"content": new}, answer.finish or None, logprobs)

    def last(self, asked: PreparedRequest, answer: Generation) -> bytes:
        end = (
            _sse({**self._head, "choices": [], "usage": token_usage(asked, answer)})
            if self._request.stream_options.include_usage
            else b""
        )
        return end + b"data: [DONE]\n\n"

    def _event(
        self, delta: dict[str, str], finish: str | None, logprobs: dict[str, Any] | None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return _sse({**self._head, "choices": [choice]})


def error_event(refused: RequestError) -> bytes:
    """An error after the first event, when the status is out already."""
    return _sse(refused.body())


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
