"""Evidence of the canary: whether the replies to two media prove that the engine perceives them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from omnicore.engines.base import Reply
from omnicore.engines.canary_questions import CAUSES, REORDERED, Comparison
from omnicore.errors import EngineError
from omnicore.telemetry import live

# All in nats. Two replies may agree by chance or come from a cache, so log-probabilities count only
# if they differ by more than rounding does: computed in bf16 instead of float32, those of the
# embedded models that perceive differ by at most 0.047.
FLOOR = 0.05
# For media shown together: each kind was told apart alone before. One that is lost beside others,
# or an order that is not kept, makes the same prompt twice, so any difference above the rounding of
# float32 is proof. The embedded models, confident about another medium, differ by 0.009.
FLOOR_TOGETHER = 0.001
# For replies of two tokens, noise alone exceeds this in one check of two thousand.
NOISE_FACTOR = 5.0

_MEDIA_LOST = (
    "the server keeps the first media only (vLLM: --limit-mm-per-prompt), or drops a kind beside"
    " another"
)
_VERBS = {"image": "see pictures", "audio": "hear", "video": "see videos"}


@dataclass(frozen=True)
class Observed:
    """Replies to one case of a comparison.

    Attributes:
        name: What the medium shows, in words.
        digit: The digit in it, None if it has none.
        answers: The answer in each reply, or its words where none can be read.
        replies: Two replies to the same query.
    """

    name: str
    digit: str | None
    answers: tuple[str, ...]
    replies: tuple[Reply, Reply]


def reply_words(reply: Reply) -> str:
    """Return reasoning and answer together; servers draw the line between them differently."""
    return " ".join(re.sub(r"</?think>", " ", f"{reply.reasoning} {reply.text}").split())


def reply_distance(a: Reply, b: Reply) -> float:
    """Return the largest difference of a token's log-probability in nats.

    It is infinite if the words differ.
    """
    if reply_words(a) != reply_words(b):
        return math.inf
    pairs = zip(a.logprobs, b.logprobs, strict=False)
    return max((abs(x - y) for x, y in pairs), default=0.0)


def tell_media_apart(
    engine_name: str, comparison: Comparison, observed: Sequence[Observed], noise: float
) -> str:
    """Return by what the two digits of a comparison are told apart: `answers` or `logprobs`.

    Silence has to differ from one of the digits: a model may mistake it for the other.

    Raises:
        EngineError: The digits are not told apart, or are taken for each other.
    """
    # 0 until the checks below have passed.
    live.set_gauge("omni_canary_passed", 0, kind=comparison.kind)
    first, second, *silence = observed
    if _swapped(first, second):
        raise EngineError(
            f"{engine_name} answers for {first.name} what {second.name} holds, and the reverse: the"
            " server mixes up the media of concurrent requests, or its cache of processed media"
            " does (vLLM: --mm-processor-cache-gb 0)",
            code="canary-media-swapped",
        )
    floor = FLOOR_TOGETHER if comparison.order else FLOOR
    evidence = _evidence(first, second, noise, floor)
    if not evidence:
        raise _not_perceived(engine_name, comparison, first, second, noise)
    for quiet in silence:
        if not any(_evidence(digit, quiet, noise, floor) for digit in (first, second)):
            raise _not_perceived(engine_name, comparison, first, quiet, noise)
    live.set_gauge("omni_canary_passed", 1, kind=comparison.kind)
    return evidence


def tell_prompts_apart(
    engine_name: str, comparison: Comparison, observed: Sequence[Observed], noise: float
) -> str:
    """Return by what two prompts are told apart: `answers`, `logprobs` or `unproven`.

    Raises:
        EngineError: They were the same prompt: a server without noise gave identical replies, and
            it was uncertain enough for a difference to show.
    """
    first, second = observed
    logprobs = [p for each in observed for reply in each.replies for p in reply.logprobs]
    uncertain = min(logprobs, default=0.0) < -FLOOR
    gap = _gap(first, second)
    if uncertain and noise * NOISE_FACTOR < FLOOR and gap <= noise:
        raise EngineError(
            f"{engine_name} gets one and the same prompt for {first.name} and for {second.name}:"
            f" its log-probabilities differ by {gap:.2g} nats. Usual causes:"
            f" {comparison.same_prompt_causes}",
            code="canary-same-prompt",
        )
    return _evidence(first, second, noise, FLOOR_TOGETHER) or "unproven"


def check_swapped_answers(
    engine_name: str, observations: Sequence[tuple[Comparison, Sequence[Observed]]]
) -> None:
    """Raise EngineError where each of two media of a request is answered with the other's digit."""
    places_by_order: dict[tuple[str, str], list[Observed]] = {}
    for comparison, observed in observations:
        if comparison.order and not comparison.same_prompt_causes:
            key = (comparison.kind, comparison.order)
            places_by_order.setdefault(key, []).append(observed[0])
    for places in places_by_order.values():
        first, last = places[0], places[-1]
        if first is not last and _swapped(first, last):
            raise EngineError(
                f"{engine_name} answers for {first.name} what {last.name} holds, and the reverse."
                f" Usual causes: {REORDERED}",
                code="canary-media-swapped",
            )


def _swapped(a: Observed, b: Observed) -> bool:
    return set(a.answers) == {b.digit} and set(b.answers) == {a.digit}


def _evidence(a: Observed, b: Observed, noise: float, floor: float) -> str:
    consistent = len(set(a.answers)) == len(set(b.answers)) == 1
    if consistent and a.answers != b.answers:
        return "answers"
    return "logprobs" if _gap(a, b) > max(floor, NOISE_FACTOR * noise) else ""


def _gap(a: Observed, b: Observed) -> float:
    return min(reply_distance(x, y) for x in a.replies for y in b.replies)


def _not_perceived(
    engine_name: str, comparison: Comparison, a: Observed, b: Observed, noise: float
) -> EngineError:
    if not math.isfinite(noise):
        reason = "greedy replies to the same request change, so they prove nothing"
    elif not (a.replies[0].logprobs and b.replies[0].logprobs):
        reason = (
            "both get the same words, and the server sends no log-probabilities that could differ"
        )
    else:
        reason = (
            f"their log-probabilities differ by {_gap(a, b):.2g} nats, those of two replies to the"
            f" same request by {noise:.2g}"
        )
    texts = [repr((reply.text or reply.reasoning)[:80]) for reply in (*a.replies, *b.replies)]
    task, causes = _VERBS[comparison.kind], CAUSES[comparison.kind]
    if comparison.order:
        task = f"{task} where requests show {comparison.order}"
        causes = f"{_MEDIA_LOST}; {causes}"
    return EngineError(
        f"{engine_name} does not {task}: {a.name} and {b.name} are answered alike"
        f" ({' | '.join(dict.fromkeys(texts))}); {reason}. Usual causes: {causes}",
        code="canary-not-perceived",
        field=comparison.kind,
    )
