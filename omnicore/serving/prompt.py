"""Prompt of a chat completion request: media decoded, text tokenised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers.utils import is_torchvision_available

from omnicore.errors import DataError
from omnicore.media.data_url import image_from_url, video_from_url, wav_from_base64
from omnicore.models.processor import Encoder, Features, Prompt
from omnicore.schema import CONTROL_TOKEN
from omnicore.serving.request import (
    Audio,
    ChatRequest,
    ContentItem,
    Image,
    Message,
    RequestError,
    Text,
    Video,
)

MAX_MEDIA = 16  # in one request


@dataclass(frozen=True)
class PreparedRequest:
    """A request ready for generation.

    Attributes:
        prompt: The prompt with its processed media.
        max_tokens: Tokens after which the reply is truncated.
        temperature: 0 for greedy decoding.
        seed: Seed of the sampling; None for a random one.
    """

    prompt: Prompt
    max_tokens: int
    temperature: float
    seed: int | None


def prepare_request(request: ChatRequest, encoder: Encoder, context_length: int) -> PreparedRequest:
    """Decode the media and tokenise the text.

    Raises:
        RequestError: Status 400 if the model cannot answer it, 422 for broken media.
    """
    *system, user = request.messages
    _check_messages(system, user)
    system_texts = []
    for message in system:
        system_texts += [item.text for item in message.content if isinstance(item, Text)]
    parts = []
    for index, item in enumerate(user.content):
        parts.append(_part(item, f"messages.{len(system)}.content.{index}", encoder, request))
    _refuse_control_tokens([*system_texts, *(part for part in parts if isinstance(part, str))])
    prompt = encoder.prompt(parts, "".join(system_texts))
    length = len(prompt.ids)
    max_tokens = request.max_completion_tokens or request.max_tokens
    if not max_tokens:
        max_tokens = max(1, context_length - length)
    if length + max_tokens > context_length:
        raise RequestError(
            400,
            f"the prompt has {length} tokens and max_tokens is {max_tokens}: together more than"
            f" the context length of {context_length}",
            "context_length_exceeded",
            "messages",
        )
    return PreparedRequest(prompt, max_tokens, request.temperature, request.seed)


def _check_messages(system: list[Message], user: Message) -> None:
    if user.role != "user" or len(system) > 1 or any(m.role != "system" for m in system):
        raise RequestError(
            400,
            "messages: this server answers one user message, after at most one system message",
            field="messages",
        )
    if any(_media(message) for message in system):
        raise RequestError(400, "messages.0: a system message holds text only", field="messages")
    if len(_media(user)) > MAX_MEDIA:
        raise RequestError(
            400, f"more than {MAX_MEDIA} media in one request", "too_many_media", "messages"
        )


def _media(message: Message) -> list[ContentItem]:
    return [item for item in message.content if not isinstance(item, Text)]


def _refuse_control_tokens(texts: Iterable[str]) -> None:
    """Refuse tokens that would stand for a missing medium or end the user's turn."""
    for text in texts:
        match = CONTROL_TOKEN.search(text)
        if match:
            raise RequestError(
                400,
                f"the text holds {match[0]!r}, which controls the model: leave it out",
                "control_token",
                "messages",
            )


def _part(item: ContentItem, field: str, encoder: Encoder, request: ChatRequest) -> str | Features:
    if isinstance(item, Text):
        return item.text
    if item.data.startswith(("http://", "https://", "file:", "ftp:")):
        raise RequestError(
            400,
            f"{field}: this server fetches nothing; send the medium itself as a data URL",
            "external_url",
            field,
        )
    if isinstance(item, Video) and not is_torchvision_available():
        raise RequestError(
            400,
            f"{field}: videos need torchvision, which is not installed on this server",
            "no_video",
            field,
        )
    try:
        if isinstance(item, Image):
            return encoder.image(image_from_url(item.data))
        if isinstance(item, Audio):
            return encoder.audio(wav_from_base64(item.data))
        video = video_from_url(item.data, request.fps)
        num_frames = request.media_io_kwargs.video.num_frames
        if 0 <= num_frames < len(video.jpegs):
            raise RequestError(
                400,
                f"{field}: {len(video.jpegs)} frames, but media_io_kwargs.video.num_frames is"
                f" {num_frames}: send this number of frames, or set it to -1 for all",
                "too_many_frames",
                field,
            )
        return encoder.video(video.frames, video.fps)
    except DataError as error:
        raise RequestError(422, f"{field}: {error}", "broken_media", field) from error
