"""From a query to the prompt of a model.

Modalities are withheld here and nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from omnicore.config import Profile, digest
from omnicore.errors import DataError
from omnicore.schema import MEDIA_PLACEHOLDER, AnswerKind, Media, Query, View

SHOWN_KINDS: dict[View, frozenset[str]] = {
    View.omni: frozenset({"image", "audio", "video"}),
    View.visual_only: frozenset({"image", "video"}),
    View.audio_only: frozenset({"audio"}),
    View.text_only: frozenset(),
}
# Raised when `prompt_parts` or `scoring` changes, so that scores made with another format are never
# compared.
_FORMAT = 5


def profile_hash(profile: Profile) -> str:
    """Return the identity of an evaluation profile: its fields and the version of the format."""
    return digest({"profile": profile.model_dump(mode="json"), "format": _FORMAT})


def prompt_parts(
    query: Query, view: View, profile: Profile, permutation: Sequence[int] | None = None
) -> tuple[Media | str, ...]:
    """Return the user turn: the media that the view shows, then question and options.

    Media stand in the query's order, or where `<media_N>` places them.

    Args:
        query: The query.
        view: Which modalities are shown.
        profile: How options are written, and the instruction after them.
        permutation: At place i the index of the option shown there; None keeps the query's order.
    """
    options = _in_order(query.options, permutation)
    if profile.style == "value":
        text = " ".join([query.question, *options])
    else:
        lines = [f"{chr(65 + place)}. {option}" for place, option in enumerate(options)]
        text = "\n".join([query.question, *lines])
    if profile.instruction:
        text = f"{text}\n{profile.instruction}"
    placed = {int(number) for number in MEDIA_PLACEHOLDER.findall(text)}
    leading = []
    for number, medium in enumerate(query.media, 1):
        if number not in placed and medium.kind in SHOWN_KINDS[view]:
            leading.append(medium)
    return (*leading, *_split_at_places(text, query.media, view))


def answer_choices(
    query: Query, profile: Profile, permutation: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return what a model may answer where `profile.scoring` bounds it: letters or options' texts.

    They are in the order shown. Empty where replies are free, and for questions that are not
    answered by one option.

    Raises:
        DataError: An option is a medium, which a model cannot write.
    """
    if profile.scoring == "reply":
        return ()
    if query.answer_kind not in (AnswerKind.choice, AnswerKind.yes_no):
        return ()
    if profile.style == "letter":
        return tuple(chr(65 + place) for place in range(len(query.options)))
    shown = _in_order(query.options, permutation)
    if any(MEDIA_PLACEHOLDER.search(option) for option in shown):
        raise DataError(
            f"{query.benchmark}, id {query.id}: an option is a medium, which no text names: set"
            " profile.style=letter",
            code="query-option-is-medium",
            field="profile.style",
        )
    return shown


def _in_order(options: Sequence[str], permutation: Sequence[int] | None) -> tuple[str, ...]:
    return tuple(options[index] for index in permutation or range(len(options)))


def _split_at_places(text: str, media: Sequence[Media], view: View) -> Iterator[Media | str]:
    """Yield text and placed media in turn.

    A medium that is withheld leaves its name, so that options that are sounds stay distinct.
    """
    pending = ""
    for i, piece in enumerate(MEDIA_PLACEHOLDER.split(text)):
        # Every second piece is the number of a place.
        if i % 2 == 0:
            pending += piece
            continue
        medium = media[int(piece) - 1]
        if medium.kind in SHOWN_KINDS[view]:
            if pending:
                yield pending
            yield medium
            pending = ""
        else:
            same_kind = sum(other.kind == medium.kind for other in media[: int(piece)])
            pending += f"[{medium.kind} {same_kind}]"
    if pending:
        yield pending


def draw_permutation(query: Query, view: View, draw: int, seed: int) -> tuple[int, ...]:
    """Return the order of options of one draw, a function of only query, view, draw and seed.

    K successive draws, K the number of options, are the K rotations of one random order: each
    option is shown at each place once, so that a preference for a place gives no option more hits
    than another. The content of the options does not decide the order, so that right and wrong
    options stay exchangeable, as the wrong-option null of the audit needs.
    """
    order = list(range(len(query.options)))
    turn = draw % max(1, len(order))
    random.Random(f"{seed}|{query.benchmark}|{query.id}|{view}|{draw - turn}").shuffle(order)
    return (*order[turn:], *order[:turn])
