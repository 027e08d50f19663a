"""Questions of the canary: comparisons of media with known content, and the fixed reference set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from omnicore.engines import media_orders
from omnicore.engines.canary_media import DIGITS, MIXED, VIDEO_SECONDS, MediaFiles, MediaKind
from omnicore.engines.media_orders import MediaOrder
from omnicore.schema import Media, Query

# The embedded models know only these words; any model understands them.
QUESTIONS = {
    "image": "Which digit is written?",
    "audio": "Which digit is spoken?",
    "video": "Which digit is written?",
}
RATE_QUESTION = "How many seconds does the video last?"
SUM_QUESTION = "Add the written digit and the spoken digit. What is the last digit?"

# Usual causes of a kind of media that is not perceived.
CAUSES = {
    "image": (
        "the server drops pictures (vLLM: --limit-mm-per-prompt with image=0), a chat template"
        " without a place for them, a model without a vision tower"
    ),
    "audio": (
        "the server drops sound (vLLM: --limit-mm-per-prompt with audio=0, or its audio extra is"
        " not installed), use_audio_in_video left on, a chat template without a place for sound, a"
        " model without an audio tower"
    ),
    "video": (
        "the server drops videos (vLLM: --limit-mm-per-prompt with video=0), no frame is sampled, a"
        " chat template without a place for them"
    ),
}
REORDERED = (
    "the server changes the order of media: a chat template that gathers kinds (vLLM:"
    " --chat-template-content-format openai)"
)
RATE_IGNORED = (
    "the server ignores media_io_kwargs and mm_processor_kwargs, which hold the frame rate of a"
    " video. If the model gets no times at all, as InternVL, set engine.video_rate=unseen"
)


@dataclass(frozen=True)
class Case:
    """One query of a comparison.

    Attributes:
        name: What the varied medium shows, in words.
        digit: The digit in it, None if it has none.
        query: The query.
    """

    name: str
    digit: str | None
    query: Query


@dataclass(frozen=True)
class Comparison:
    """Queries that differ only in one medium of `kind`.

    Attributes:
        key: Key in the summary of a step.
        kind: Kind of the varied medium.
        cases: The queries.
        order: Label of the order in which the medium is shown among others; empty if alone.
        same_prompt_causes: Set where a confident answer need not show the difference (order, frame
            rate): then only identical replies prove a fault, one and the same prompt, and these are
            its usual causes.
    """

    key: str
    kind: MediaKind
    cases: Sequence[Case]
    order: str = ""
    same_prompt_causes: str = ""


def single_media(kinds: Set[MediaKind], media: MediaFiles) -> Iterator[Comparison]:
    """Compare two digits of each kind, each shown alone; for sound also silence."""
    names = {"image": "the written {}", "audio": "the spoken {}", "video": "the filmed {}"}
    for kind in sorted(kinds):
        cases = []
        for digit in DIGITS[:2]:
            name = names[kind].format(digit)
            query = _query(name, QUESTIONS[kind], DIGITS, media[kind][digit])
            cases.append(Case(name, digit, query))
        if kind == "audio":
            query = _query("silence", QUESTIONS[kind], DIGITS, media[kind]["silence"])
            cases.append(Case("silence", None, query))
        yield Comparison(f"canary_{kind}", kind, cases)


def media_together(order: MediaOrder, media: MediaFiles) -> Iterator[Comparison]:
    """Vary each first and last medium of a kind among the others, then swap two media."""
    label = media_orders.order_label(order)
    for place in media_orders.tested_places(order):
        cases = []
        for varied in (False, True):
            digits = media_orders.digits_shown(order, place, varied)
            name = f"a {digits[place]} as {media_orders.place_name(order, place)}"
            question = media_orders.place_question(order, place)
            shown = media_orders.media_shown(order, digits, media)
            cases.append(Case(name, digits[place], _query(name, question, DIGITS, *shown)))
        yield Comparison(f"canary_{label}", order[place], cases, label)
    place, orders = media_orders.swapped_orders(order)
    question = media_orders.place_question(order, place)
    cases = []
    for swapped, names in orders:
        name = f"{media_orders.order_label(swapped)} ({', '.join(names)})"
        shown = media_orders.media_shown(swapped, names, media)
        cases.append(Case(name, None, _query(name, question, DIGITS, *shown)))
    yield Comparison(f"canary_{label}_order", order[place], cases, label, REORDERED)


def frame_rates(media: MediaFiles) -> Comparison:
    """Compare the same frames, labelled as one a second and as one in sixteen seconds."""
    options = tuple(str(seconds) for seconds in (*VIDEO_SECONDS.values(), 2, 32))
    cases = []
    for name, seconds in VIDEO_SECONDS.items():
        query = _query(f"{name} video", RATE_QUESTION, options, media["video"][name])
        cases.append(Case(f"a video of {seconds} s", None, query))
    return Comparison("canary_rate", "video", cases, "a video", RATE_IGNORED)


def fixed_questions(media: MediaFiles) -> list[Query]:
    """Return the questions of the reference.

    They are about a picture, a sound, both together, and videos at one frame in sixteen seconds,
    for the kinds that are in `media`.
    """
    kinds = [kind for kind in ("image", "audio") if kind in media]
    queries = []
    for kind in kinds:
        for name in MIXED:
            queries.append(_query(f"{kind}-{name}", QUESTIONS[kind], DIGITS, media[kind][name]))
    if len(kinds) == 2:
        for name in MIXED:
            sums = tuple(str((int(name[0]) + int(digit)) % 10) for digit in DIGITS)
            both = (media["image"][name], media["audio"][name])
            queries.append(_query(f"both-{name}", SUM_QUESTION, sums, *both))
    if "video" in media:
        for name in MIXED:
            video = media["video"][f"long{name}"]
            queries.append(_query(f"video-{name}", QUESTIONS["video"], DIGITS, video))
    return queries


def _query(name: str, question: str, options: tuple[str, ...], *media: Media) -> Query:
    return Query(
        benchmark="canary",
        id=name,
        type=media[-1].kind,
        cluster=name,
        question=question,
        options=options,
        answer=options[0],
        media=media,
    )
