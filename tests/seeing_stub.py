"""A server that sees and hears known media in the requests that arrive, and answers the canary's
questions; it may lose some."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from omnicore.engines import canary_media, canary_questions
from omnicore.media.data_url import image_from_url, video_from_url, wav_from_base64
from tests.stub_server import Answer, completion, last_text

KINDS = {"image_url": "image", "input_audio": "audio", "video_url": "video"}


class Seen(NamedTuple):
    kind: str
    held: str
    seconds: float = 0.0


@cache
def _pictures() -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: np.asarray(canary_media.draw_digits(*name), float)
        for name in (*canary_media.DIGITS, *canary_media.MIXED)
    }


@cache
def _sounds() -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: canary_media.speak_digits(*name) / 32768
        for name in ("", *canary_media.DIGITS, *canary_media.MIXED)
    }


def _nearest(shown: np.ndarray[Any, Any], among: dict[str, np.ndarray[Any, Any]]) -> str:
    return min(among, key=lambda name: float(np.abs(among[name] - shown).mean()))


@cache
def _look(kind: str, data: str) -> tuple[str, int]:
    if kind == "audio":
        return _nearest(wav_from_base64(data), _sounds()), 0
    if kind == "image":
        return _nearest(np.asarray(image_from_url(data), float), _pictures()), 0
    frames = video_from_url(data).frames
    return _nearest(np.asarray(frames[0], float), _pictures()), len(frames)


def seeing(
    lose: Callable[[Sequence[Seen]], Sequence[Seen]] = lambda seen: seen, rate: float | None = None
) -> Callable[[Any], Answer]:
    """What `Stub` replies.

    `lose` gives what is perceived of the media that arrived; with a `rate`, all videos have that.
    """

    def reply(request: dict[str, Any]) -> Answer:
        fps = rate or request.get("mm_processor_kwargs", {}).get("fps", 1.0)
        arrived = []
        for item in request["messages"][-1]["content"]:
            if kind := KINDS.get(item["type"]):
                held, frames = _look(
                    kind, item[item["type"]].get("url") or item[item["type"]]["data"]
                )
                arrived.append(Seen(kind, held, frames / fps))
        perceived = lose(arrived)
        text = last_text(request)
        # Log-probs are a function of the prompt alone, as a model's are.
        number = int(hashlib.sha256(f"{perceived}{text}".encode()).hexdigest()[:4], 16)
        logprobs = {"content": [{"token": "t", "logprob": -0.1 - number / 65536}]}
        return completion(f"<answer>{_say(perceived, text)}</answer>", logprobs=logprobs)

    return reply


def _say(perceived: Sequence[Seen], text: str) -> str:
    if text.startswith(canary_questions.RATE_QUESTION):
        return f"{perceived[0].seconds:.0f}" if perceived else "2"
    if text.startswith(canary_questions.SUM_QUESTION):
        return str(sum(int(seen.held[:1] or 0) for seen in perceived) % 10)
    asked = re.match(r"Which digit is (written|spoken)(?: in (picture|sound|video) ?(\d*))?", text)
    assert asked, text
    kinds = {"picture": {"image"}, "sound": {"audio"}, "video": {"video"}}.get(
        asked[2], {"audio"} if asked[1] == "spoken" else {"image", "video"}
    )
    held = [seen.held for seen in perceived if seen.kind in kinds]
    place = int(asked[3] or 1) - 1
    return (held[place] if place < len(held) else "".join(held))[:1] or "0"
