"""From a query to what a model is shown.

Withholding a modality happens here and nowhere else.
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
_FORMAT = 5  # raised when `parts` or `scoring` changes, so that scores made with another format are never compared


def profile_hash(profile: Profile) -> str:
    """Identity of the evaluation profile: its fields and the version of the format and the extractor."""
    return digest({"profile": profile.model_dump(mode="json"), "format": _FORMAT})


def prompt_parts(
    query: Query, view: View, profile: Profile, permutation: Sequence[int] | None = None
) -> tuple[Media | str, ...]:
    """The user turn: the media that the view shows, in the query's order or where `<media_N>`
    places them, then question and options.

    `permutation[i]` is the index of the option shown at place i; None keeps the query's own order.
    """
    options = [query.options[i] for i in permutation or range(len(query.options))]
    if profile.style == "value":
        text = " ".join([query.question, *options])
    else:
        text = "\n".join(
            [query.question, *(f"{chr(65 + i)}. {option}" for i, option in enumerate(options))]
        )
    if profile.instruction:
        text = f"{text}\n{profile.instruction}"
    placed = {int(number) for number in MEDIA_PLACEHOLDER.findall(text)}
    first = [
        m
        for number, m in enumerate(query.media, 1)
        if number not in placed and m.kind in SHOWN_KINDS[view]
    ]
    return (*first, *_inline(text, query.media, view))


def answer_choices(
    query: Query, profile: Profile, permutation: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return what a model may answer where `profile.scoring` bounds it, in the order shown:
    letters, or the options' texts.

    Nothing where replies are free, and for questions that are not answered by one option. Raises
    DataError for options that are media, which a model cannot say.
    """
    if profile.scoring == "reply" or query.answer_kind not in (
        AnswerKind.choice,
        AnswerKind.yes_no,
    ):
        return ()
    if profile.style == "letter":
        return tuple(chr(65 + i) for i in range(len(query.options)))
    shown = tuple(query.options[i] for i in permutation or range(len(query.options)))
    if any(MEDIA_PLACEHOLDER.search(option) for option in shown):
        raise DataError(
            f"{query.benchmark}, id {query.id}: an option is a medium, which no text names: set"
            " profile.style=letter"
        )
    return shown


def _inline(text: str, media: Sequence[Media], view: View) -> Iterator[Media | str]:
    """Text and placed media in turn.

    A medium that is withheld leaves its name: options that are sounds stay told apart.
    """
    said = ""
    for i, piece in enumerate(MEDIA_PLACEHOLDER.split(text)):
        if i % 2 == 0:
            said += piece
        elif (medium := media[int(piece) - 1]).kind not in SHOWN_KINDS[view]:
            said += f"[{medium.kind} {sum(m.kind == medium.kind for m in media[: int(piece)])}]"
        else:
            if said:
                yield said
            yield medium
            said = ""
    if said:
        yield said


def draw_permutation(query: Query, view: View, draw: int, seed: int) -> tuple[int, ...]:
    """The recorded re-shuffling of one draw: a function of query, view, draw and seed alone.

    Every K draws in turn, K the number of options, are the K rotations of one random order: such a
    circle shows each option at each place once, so that liking a place gains no option more hits
    than another. Which option is which plays no part in the order, so right and wrong options stay
    exchangeable, as the wrong-option null of the audit needs.
    """
    order = list(range(len(query.options)))
    turn = draw % max(1, len(order))
    random.Random(f"{seed}|{query.benchmark}|{query.id}|{view}|{draw - turn}").shuffle(order)
    return (*order[turn:], *order[:turn])
