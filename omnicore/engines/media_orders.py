"""Orders in which requests show several media, and the canary's question about each place.

A server may perceive each kind alone and lose it beside another: it may keep the first medium only,
drop sound beside a video, or put pictures before sounds. So one medium is varied at a time while
the others stay, and the question is about the one that varies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from omnicore.engines.base import Request
from omnicore.engines.canary_media import DIGITS, MIXED, MediaFiles, MediaKind
from omnicore.schema import Media

MediaOrder = tuple[MediaKind, ...]

# Orders that the canary tests, with 4 requests for each first and last medium of a kind and 4 for
# two media that change places.
MAX_ORDERS = 6
_NOUNS = {"image": "picture", "audio": "sound", "video": "video"}
_VERBS = {"image": "written", "audio": "spoken", "video": "written"}


def frequent_orders(requests: Iterable[Request]) -> tuple[MediaOrder, ...]:
    """Return the MAX_ORDERS most frequent orders of two or more media.

    Orders that differ only in the length of a run of one kind count as one: the longest.
    """
    counts = Counter[MediaOrder]()
    for request in requests:
        counts[tuple(part.kind for part in request.parts if isinstance(part, Media))] += 1
    longest: dict[tuple[tuple[MediaKind, bool], ...], MediaOrder] = {}
    frequency = Counter[tuple[tuple[MediaKind, bool], ...]]()
    for order, count in counts.items():
        shape = tuple((kind, length > 1) for kind, length in _runs(order))
        frequency[shape] += count
        longest[shape] = max(longest.get(shape, ()), order, key=len)
    shapes = sorted(frequency, key=lambda shape: (-frequency[shape], shape))
    orders = [longest[shape] for shape in shapes]
    return tuple(order for order in orders if len(order) > 1)[:MAX_ORDERS]


def _runs(order: MediaOrder) -> list[tuple[MediaKind, int]]:
    return [(kind, len(list(run))) for kind, run in groupby(order)]


def order_label(order: MediaOrder) -> str:
    """Return a name such as `image+audio` or `3*image+audio`."""
    runs = [f"{length}*{kind}" if length > 1 else kind for kind, length in _runs(order)]
    return "+".join(runs)


def tested_places(order: MediaOrder) -> list[int]:
    """Return the places of the first and last medium of each kind.

    Whatever media of a request a server loses, one of these is among them.
    """
    places = set()
    for kind in order:
        places |= {order.index(kind), len(order) - 1 - order[::-1].index(kind)}
    return sorted(places)


def place_name(order: MediaOrder, place: int) -> str:
    """Return a name such as `sound 2`, or `video` if there is only one."""
    kind = order[place]
    number = f" {order[: place + 1].count(kind)}" if order.count(kind) > 1 else ""
    return f"{_NOUNS[kind]}{number}"


def place_question(order: MediaOrder, place: int) -> str:
    """Return the question for the digit in the medium at `place`."""
    verb = _VERBS[order[place]]
    verbs = [_VERBS[kind] for kind in order]
    if verbs.count(verb) == 1:
        return f"Which digit is {verb}?"
    return f"Which digit is {verb} in {place_name(order, place)}?"


def digits_shown(order: MediaOrder, place: int, varied: bool) -> tuple[str, ...]:
    """Return the digit of each medium; `varied` gives the one at `place` another digit."""
    digits = [DIGITS[index % len(DIGITS)] for index in range(len(order))]
    if varied:
        digits[place] = DIGITS[(place + 2) % len(DIGITS)]
    return tuple(digits)


def media_shown(order: MediaOrder, names: Sequence[str], media: MediaFiles) -> list[Media]:
    """Return the files of an order, each by the name of its content."""
    return [media[kind][name] for kind, name in zip(order, names, strict=True)]


def swapped_orders(order: MediaOrder) -> tuple[int, list[tuple[MediaOrder, tuple[str, ...]]]]:
    """Choose two neighbouring media to change places, of different kinds if there are such.

    Both show mixed digits: a model that is certain of its answer would give it with the same
    certainty in either order.

    Returns:
        The place of the first of the two, and order and contents before and after the change.
    """
    neighbours = range(len(order) - 1)
    place = next((i for i in neighbours if order[i] != order[i + 1]), 0)
    names = [DIGITS[index % len(DIGITS)] for index in range(len(order))]
    names[place : place + 2] = MIXED[0], MIXED[-1]
    swapped = [*range(len(order))]
    swapped[place : place + 2] = place + 1, place
    after = tuple(order[index] for index in swapped), tuple(names[index] for index in swapped)
    return place, [(order, tuple(names)), after]
