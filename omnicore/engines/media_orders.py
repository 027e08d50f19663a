"""The orders in which a step shows media together, as a request of picture and sound does, and what
the canary asks of each.

A server may perceive each kind alone and lose it beside another: keep the first medium only, drop
sound beside a video, or put pictures before sounds. So one medium is varied at a time while the
others stay, and the question is about the one that varies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from omnicore.engines.base import Request
from omnicore.engines.canary_media import DIGITS, MIXED, MediaFiles, MediaKind
from omnicore.schema import Media

MediaOrder = tuple[MediaKind, ...]

MAX_ORDERS = 6  # orders that are asked about: 4 requests for each first and last medium of a kind, and 4 for two that change places
_NOUNS = {"image": "picture", "audio": "sound", "video": "video"}
_VERBS = {"image": "written", "audio": "spoken", "video": "written"}


def frequent_orders(requests: Iterable[Request]) -> tuple[MediaOrder, ...]:
    """The orders of two media or more that requests show: of those alike but for how often a kind
    stands in a row, the longest; the `MOST` that come most often."""
    found = Counter(
        tuple(part.kind for part in request.parts if isinstance(part, Media))
        for request in requests
    )
    longest: dict[tuple[tuple[MediaKind, bool], ...], MediaOrder] = {}
    often = Counter[tuple[tuple[MediaKind, bool], ...]]()
    for order, count in found.items():
        alike = tuple((kind, len(list(run)) > 1) for kind, run in groupby(order))
        often[alike] += count
        longest[alike] = max(longest.get(alike, ()), order, key=len)
    return tuple(
        longest[alike]
        for alike, _ in sorted(often.items(), key=lambda x: (-x[1], x[0]))
        if len(longest[alike]) > 1
    )[:MAX_ORDERS]


def order_label(order: MediaOrder) -> str:
    """As in image+audio, or 3*image+audio."""
    runs = [(kind, len(list(run))) for kind, run in groupby(order)]
    return "+".join(f"{length}*{kind}" if length > 1 else kind for kind, length in runs)


def tested_places(order: MediaOrder) -> list[int]:
    """The first and the last medium of each kind: whatever a server loses of a request, it loses
    one of them."""
    ends = {order.index(kind) for kind in order} | {
        len(order) - 1 - order[::-1].index(kind) for kind in order
    }
    return sorted(ends)


def place_name(order: MediaOrder, place: int) -> str:
    """As in `the second sound`, or `the video` where there is no other."""
    kind = order[place]
    number = f" {order[: place + 1].count(kind)}" if order.count(kind) > 1 else ""
    return f"{_NOUNS[kind]}{number}"


def place_question(order: MediaOrder, place: int) -> str:
    """Which digit the medium at `place` holds."""
    kind = order[place]
    alone = [_VERBS[other] for other in order].count(_VERBS[kind]) == 1
    return (
        f"Which digit is {_VERBS[kind]}?"
        if alone
        else f"Which digit is {_VERBS[kind]} in {place_name(order, place)}?"
    )


def digits_shown(order: MediaOrder, place: int, varied: bool) -> tuple[str, ...]:
    """The digit of each medium; that at `place` is another one where it is varied."""
    return tuple(DIGITS[(i + 2 * (varied and i == place)) % len(DIGITS)] for i in range(len(order)))


def media_shown(order: MediaOrder, names: Sequence[str], media: MediaFiles) -> list[Media]:
    return [media[kind][digits_shown] for kind, digits_shown in zip(order, names, strict=True)]


def swapped_orders(order: MediaOrder) -> tuple[int, list[tuple[MediaOrder, tuple[str, ...]]]]:
    """The place of a medium that changes places with the next, of another kind where there is one,
    and what is shown before and after.

    The two hold mixed digits: a model that is sure of its answer says the same with the same certainty in either order.
    """
    at = next((i for i in range(len(order) - 1) if order[i] != order[i + 1]), 0)
    names = [DIGITS[i % len(DIGITS)] for i in range(len(order))]
    names[at : at + 2] = MIXED[0], MIXED[-1]
    turned, turned_names = [*order], [*names]
    for both in (turned, turned_names):
        both[at], both[at + 1] = both[at + 1], both[at]  # type: ignore[call-overload]
    return at, [(order, tuple(names)), (tuple(turned), tuple(turned_names))]
