"""What asking would cost, before it is spent: requests, tokens and, from a few that are asked,
hours."""

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
from omnicore.engines.base import Batch, Engine, Request, Sampling
from omnicore.errors import DataError, OmniError
from omnicore.media.read import read_media
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.media.video import Video
from omnicore.schema import Media

READ = 24  # media of a kind that are read for an estimate
# Tokens as Qwen2.5-Omni and Qwen2.5-VL count them (their processors' configuration); other models differ by a factor, not more.
CHARACTERS = 4  # of text
PATCH = 28  # side of what becomes one visual token, in pixels
IMAGE, FRAME = (
    (4, 16_384),
    (
        128,
        768,
    ),
)  # least and most tokens of a picture, and of two frames of a video
SECOND = 25  # of sound


@dataclass(frozen=True)
class CostEstimate:
    """`reply` tokens are a bound: every reply as long as it may be.

    `asked` requests were asked to know the `seconds`, which are None where nobody could be asked;
    why stands in `unmeasured`.
    """

    requests: int
    prompt: int
    reply: int
    asked: int
    seconds: float | None = None
    unmeasured: str = ""

    def lines(self) -> list[str]:
        return [
            f"requests       {self.requests:,}",
            f"prompt tokens  {self.prompt:,} (estimated)",
            f"reply tokens   {self.reply:,} at most",
            (
                f"hours          {self.seconds / 3600:.2f} ({self.asked} requests were asked and"
                " timed)"
                if self.seconds is not None
                else f"hours          unknown: {self.unmeasured}"
            ),
        ]


def estimate_cost(
    requests: Sequence[Request],
    sampling: Sampling,
    profile: Profile,
    *,
    batch: int,
    together: int,
    opened: Callable[[], Engine],
) -> CostEstimate:
    """The cost of `requests`, asked in batches of `batch` and `together` at a time of the engine
    that `opened` gives."""
    some = random.Random(0).sample(requests, min(together, len(requests)))
    facts = (
        len(requests),
        _prompt(requests, profile),
        len(requests) * sampling.max_new_tokens,
        len(some),
    )
    try:
        engine = opened()
        began = time.monotonic()
        batches = [Batch(some[i : i + batch], seed=i) for i in range(0, len(some), batch)]
        replies = [
            reply
            for done in engine.answer(batches, sampling)
            for _, found in done
            for reply in found
        ]
    except OmniError as error:
        return CostEstimate(*facts, unmeasured=str(error))
    if failed := next((reply.error for reply in replies if reply.error), ""):
        return CostEstimate(*facts, unmeasured=failed)
    return CostEstimate(*facts, seconds=(time.monotonic() - began) * len(requests) / len(some))


def _prompt(requests: Sequence[Request], profile: Profile) -> int:
    """Tokens of all prompts: text by its length, media by the mean over a sample of each kind."""
    shown: dict[str, list[tuple[Media, Path]]] = {}
    text = 0
    for request in requests:
        for part in request.parts:
            if isinstance(part, str):
                text += len(part)
            else:
                shown.setdefault(part.kind, []).append((part, request.root))
    media = 0.0
    for kind in sorted(shown):
        distinct = list(dict.fromkeys(shown[kind]))
        chosen = random.Random(0).sample(distinct, min(READ, len(distinct)))
        media += len(shown[kind]) * _mean_tokens(chosen, profile)
    return round((text + len(requests) * len(profile.system)) / CHARACTERS + media)


def _mean_tokens(chosen: Sequence[tuple[Media, Path]], profile: Profile) -> float:
    """The mean over those media that can be read, since the others will be errors and cost nothing;
    0 where none can."""
    counts = []
    for medium, root in chosen:
        with suppress(DataError):
            counts.append(_tokens(medium, root, profile))
    return fmean(counts) if counts else 0.0


def _tokens(medium: Media, root: Path, profile: Profile) -> float:
    found = read_media(medium, root, profile)
    if isinstance(found, Image.Image):
        return _visual(found, *IMAGE)
    if isinstance(found, Video):
        return len(found.jpegs) / 2 * _visual(found.frames[0], *FRAME)
    return SECOND * len(found) / SAMPLE_RATE


def _visual(image: Image.Image, least: int, most: int) -> float:
    return min(max(image.width * image.height / PATCH**2, least), most)
