"""Estimate requests, tokens and, from a small sample that is sent and timed, hours."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from PIL import Image

from omnicore.config import Profile
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.errors import DataError, OmniError
from omnicore.media.read import read_media
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.media.video import Video
from omnicore.schema import Media

MEDIA_SAMPLE = 24  # media of a kind that are read for an estimate
# Tokens as Qwen2.5-Omni and Qwen2.5-VL count them, from the configuration of their processors;
# other models differ by a factor of a few.
CHARACTERS_PER_TOKEN = 4
PATCH = 28  # side of the square that becomes one visual token, in pixels
IMAGE_TOKENS = (4, 16_384)  # least and most tokens of a picture
FRAME_PAIR_TOKENS = (128, 768)  # least and most tokens of two frames of a video
SOUND_TOKENS_PER_SECOND = 25


@dataclass(frozen=True)
class CostEstimate:
    """Cost of the requests of a step.

    Attributes:
        requests: Number of requests.
        prompt: Estimated tokens of all prompts.
        reply: Upper bound of the tokens of all replies: each as long as allowed.
        asked: Requests that were sent and timed.
        seconds: Estimated wall time; None if the engine could not be timed.
        unmeasured: Why `seconds` is None.
    """

    requests: int
    prompt: int
    reply: int
    asked: int
    seconds: float | None = None
    unmeasured: str = ""

    def lines(self) -> list[str]:
        """Return the estimate as lines of text."""
        if self.seconds is None:
            hours = f"unknown: {self.unmeasured}"
        else:
            hours = f"{self.seconds / 3600:.2f} ({self.asked} requests were sent and timed)"
        return [
            f"requests       {self.requests:,}",
            f"prompt tokens  {self.prompt:,} (estimated)",
            f"reply tokens   {self.reply:,} at most",
            f"hours          {hours}",
        ]


def estimate_cost(
    requests: Sequence[Request],
    sampling: Sampling,
    profile: Profile,
    *,
    batch: int,
    sample: int,
    open_engine: Callable[[], Engine],
) -> CostEstimate:
    """Estimate the cost of `requests` from `sample` of them, sent in batches of `batch`.

    An engine that cannot be opened or fails gives an estimate without `seconds`.
    """
    sent = random.Random(0).sample(requests, min(sample, len(requests)))
    prompt_tokens = _prompt_tokens(requests, profile)
    reply_tokens = len(requests) * sampling.max_new_tokens
    facts = (len(requests), prompt_tokens, reply_tokens, len(sent))
    replies: list[Reply] = []
    try:
        engine = open_engine()
        began = time.monotonic()
        starts = range(0, len(sent), batch)
        batches = [Batch(sent[start : start + batch], seed=start) for start in starts]
        for finished in engine.answer(batches, sampling):
            for _, batch_replies in finished:
                replies += batch_replies
    except OmniError as error:
        return CostEstimate(*facts, unmeasured=str(error))
    errors = [reply.error for reply in replies if reply.error]
    if errors:
        return CostEstimate(*facts, unmeasured=errors[0])
    return CostEstimate(*facts, seconds=(time.monotonic() - began) * len(requests) / len(sent))


def _prompt_tokens(requests: Sequence[Request], profile: Profile) -> int:
    """Estimate tokens of all prompts: text by length, each kind of media by a sample's mean."""
    media_by_kind: dict[str, list[tuple[Media, Path]]] = {}
    characters = len(requests) * len(profile.system)
    for request in requests:
        for part in request.parts:
            if isinstance(part, str):
                characters += len(part)
            else:
                media_by_kind.setdefault(part.kind, []).append((part, request.root))
    media_tokens = 0.0
    for _, media in sorted(media_by_kind.items()):
        distinct = list(dict.fromkeys(media))
        chosen = random.Random(0).sample(distinct, min(MEDIA_SAMPLE, len(distinct)))
        media_tokens += len(media) * _mean_tokens(chosen, profile)
    return round(characters / CHARACTERS_PER_TOKEN + media_tokens)


def _mean_tokens(chosen: Sequence[tuple[Media, Path]], profile: Profile) -> float:
    """Return the mean over readable media, or 0; unreadable ones become errors and cost nothing."""
    counts = []
    for medium, root in chosen:
        with suppress(DataError):
            counts.append(_media_tokens(medium, root, profile))
    return fmean(counts) if counts else 0.0


def _media_tokens(medium: Media, root: Path, profile: Profile) -> float:
    decoded = read_media(medium, root, profile)
    if isinstance(decoded, Image.Image):
        return _visual_tokens(decoded, *IMAGE_TOKENS)
    if isinstance(decoded, Video):
        return len(decoded.jpegs) / 2 * _visual_tokens(decoded.frames[0], *FRAME_PAIR_TOKENS)
    return SOUND_TOKENS_PER_SECOND * len(decoded) / SAMPLE_RATE


def _visual_tokens(image: Image.Image, least: int, most: int) -> float:
    return min(max(image.width * image.height / PATCH**2, least), most)
