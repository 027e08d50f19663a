"""Body of a chat completion request: one user turn, after at most one system message.

A field that would change the answer and is not supported is refused, never ignored: a client that
asks for `top_p` 0.5 and gets the whole distribution would score another model. Clients send many
fields at a value without effect (`frequency_penalty` 0); these are in NEUTRAL. A null equals an
absent field everywhere.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

# Values without effect on this server, of fields that it otherwise refuses.
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
# Fields about billing, caching or the client, which do not change the answer.
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
    """A request that gets an error in OpenAI's form.

    Attributes:
        status: HTTP status.
        message: What is wrong, for people.
        code: What is wrong, for programs.
        field: Field at fault.
    """

    def __init__(self, status: int, message: str, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.field = status, message, code, field

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        error = {
            "message": self.message,
            "type": "server_error" if self.status >= 500 else "invalid_request_error",
            "param": self.field or None,
            "code": self.code or None,
        }
        return {"error": error}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class Text(_Part):
    """A text."""

    type: Literal["text"]
    text: str


class _Url(_Part):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"  # without effect: the model decides sizes


class Image(_Part):
    """A picture as a data URL."""

    type: Literal["image_url"]
    image_url: _Url

    @property
    def data(self) -> str:
        """The data URL."""
        return self.image_url.url


class _Wave(_Part):
    data: str
    format: Literal["wav", "mp3"]


class Audio(_Part):
    """A sound in base64."""

    type: Literal["input_audio"]
    input_audio: _Wave

    @property
    def data(self) -> str:
        """The base64 text."""
        return self.input_audio.data


class Video(_Part):
    """A video as a data URL of its frames."""

    type: Literal["video_url"]
    video_url: _Url

    @property
    def data(self) -> str:
        """The data URL."""
        return self.video_url.url


ContentItem = Annotated[Text | Image | Audio | Video, Field(discriminator="type")]


def _text_as_items(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Part):
    """One message of a chat."""

    role: Literal["system", "user"]
    name: str = ""  # without effect: chat templates have no place for it
    content: Annotated[list[ContentItem], BeforeValidator(_text_as_items)]


class _StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers: none is sent


class _VideoSettings(_Part):
    # Frames to keep, -1 for all. vLLM keeps 32 by default; this server shows all that are sent.
    num_frames: int = Field(-1, ge=-1)
    fps: float | None = Field(None, gt=0)


class _MediaSettings(_Part):
    video: _VideoSettings = _VideoSettings()


class _ProcessorSettings(_Part):
    fps: float | None = Field(None, gt=0)


class ChatRequest(_Part):
    """Body of POST /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=10)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    logprobs: bool = False
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    # vLLM's fields for the frame rate of videos, one for their reader, one for the processor.
    media_io_kwargs: _MediaSettings = _MediaSettings()
    mm_processor_kwargs: _ProcessorSettings = _ProcessorSettings()

    @model_validator(mode="before")
    @classmethod
    def _drop_fields_without_effect(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if name not in IGNORED and value not in NEUTRAL.get(name, ()):
                kept[name] = value
        return kept

    @property
    def fps(self) -> float:
        """Frame rate of all videos of the request.

        Raises:
            RequestError: The two fields differ.
        """
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
    """Parse a body.

    Raises:
        RequestError: It names the first wrong field, in one sentence.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise RequestError(400, f"the body is not JSON: {first['ctx']['error']}")
    loc = first["loc"]
    if len(loc) > 5:
        # messages, 0, content, 1, then the name of a union's member, which no client sent.
        loc = (*loc[:4], *loc[5:])
    field = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        reason = _unsupported(field)
    else:
        reason = first["msg"][0].lower() + first["msg"][1:]
    raise RequestError(400, f"{field or 'the body'}: {reason}", "invalid_field", field)


def _unsupported(field: str) -> str:
    neutral = " or ".join(json.dumps(value) for value in NEUTRAL.get(field, ()))
    return f"only {neutral} is supported here" if neutral else "is not supported here"
