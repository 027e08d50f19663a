"""AV-Odyssey: rows of the hand-written fixture as Parquet, and replies under the publisher's rule
and ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.config import Profile
from omnicore.data.benchmarks import av_odyssey
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.fields import places_to_tags
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.prompts import prompt_parts
from omnicore.schema import Media, Query, View
from tests.benchmarks import tables
from tests.benchmarks.scoring import both, queries

MEDIA = ("video_1", *(f"{kind}_{i}" for kind in ("image", "audio") for i in range(1, 5)))
ROWS = tables.rows("av_odyssey")
# id, subfield, question, options, answer, kinds of media
ITEMS = [
    (
        "1_0",
        "Timbre",
        "Which instrument of <media_1> is heard in <media_2>?",
        ("The left one", "The right one", "Both", "Neither"),
        2,
        "image audio",
    ),
    (
        "2_7",
        "Tone",
        "Which of the sounds goes with <media_1>?",
        ("<media_2>", "<media_3>", "<media_4>", "<media_5>"),
        3,
        "image audio audio audio audio",
    ),
    (
        "3_2",
        "Intricacy",
        "Which picture goes with <media_5>?",
        ("<media_1>", "<media_2>", "<media_3>", "<media_4>"),
        0,
        "image image image image audio",
    ),
    (
        "4_1",
        "Time",
        (
            "<media_1> is the video and <media_2> the sound. Does <media_2> begin before, with or"
            " after the first step in <media_1>?"
        ),
        ("Before", "With", "After", "There is no step"),
        1,
        "video audio",
    ),
    (
        "5_3",
        "Space",
        (
            "The sounds are <media_3> and <media_4>. Which room of <media_1> or <media_2> do they"
            " come from?"
        ),
        (
            "both from <media_1>",
            "both from <media_2>",
            "<media_3> from <media_1>, <media_4> from <media_2>",
            "<media_4> from <media_1>, <media_3> from <media_2>",
        ),
        3,
        "image image audio audio",
    ),
    (
        "6_0",
        "Hallucination",
        "Is anything heard that the picture does not show?",
        ("Yes, a bird", "Yes, a car", "Yes, a voice", "No"),
        0,
        "image audio",
    ),
]
# id, reply, publisher's score, our outcome; the keys are 1_0 C, 2_7 D, 4_1 B, 6_0 A
REPLIES = [
    ("1_0", "C", 1, "correct"),
    ("1_0", "(C)", 1, "correct"),
    ("1_0", "C. Both", 0, "correct"),  # bug: B stands in the option's own text
    ("1_0", "(C) Both", 1, "correct"),
    ("1_0", "**C**", 1, "correct"),
    ("2_7", "D.", 1, "correct"),
    ("1_0", "The answer is C", 1, "correct"),
    ("1_0", "The Answer is C", 0, "correct"),  # bug: A stands in "Answer", and comes first
    ("1_0", "The Answer is (C)", 1, "correct"),  # brackets tell
    ("1_0", "<answer>C</answer>", 1, "correct"),
    ("4_1", "B or A", 0, "no_answer"),  # bug: the first of the alphabet wins
    ("6_0", "B or A", 1, "no_answer"),
    ("4_1", "Because it begins later", 1, "no_answer"),  # bug: a letter in a word
    ("1_0", "Cannot tell", 1, "no_answer"),  # bug
    ("6_0", "", 1, "no_answer"),  # bug: nothing is A
    ("6_0", "i do not know", 1, "no_answer"),  # bug: a refusal is A
    ("1_0", "i do not know", 0, "no_answer"),
    ("1_0", "both", 0, "correct"),
    (
        "1_0",
        "it seems to me that it is c. both",
        1,
        "correct",
    ),  # an option's text, its letter with it
    (
        "1_0",
        "it seems to me that it must be both",
        0,
        "no_answer",
    ),  # bug: without the letter it is none, so A
    ("2_7", "it sounds to me like d. [audio4] of them", 1, "no_answer"),
    ("1_0", "'C.'", 1, "correct"),
    ("1_0", "D", 0, "incorrect"),
    ("1_0", "<think>(C)</think>(D)", 0, "incorrect"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part 1 with bytes as they are, which evaluation.py reads, part 2 with the features that the
    card declares."""
    folder = tmp_path_factory.mktemp("copy")
    for part, form in ((1, "bytes"), (2, "feature")):
        rows = [
            {k: v for k, v in row.items() if k != "part"} for row in ROWS if row["part"] == part
        ]
        tables.write(folder / f"av_odyssey_part{part}.parquet", rows, MEDIA, form)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def items(copy: Path) -> dict[str, Query]:
    return queries("av_odyssey", copy, copy.parent / "scratch-av-odyssey")


def test_every_row_becomes_its_query(items: dict[str, Query]) -> None:
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, subfield, question, options, right, kinds) in zip(ROWS, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.question, query.options) == (subfield, question, options)
        assert query.answer == options[right]
        assert [medium.kind for medium in query.media] == kinds.split()
        assert query.cluster == query.media[0].sha256[:16]
        assert (query.native["task"], query.native["data_type"]) == (
            row["question_type_id"],
            row["data_type"],
        )
        assert json.loads(query.native["options"]) == row["options"]


def test_queries_and_problems_add_up(items: dict[str, Query]) -> None:
    for row in ROWS:
        query = items[row["question_id"]]
        counts: dict[str, int] = {}
        tags = {}
        for number, medium in enumerate(query.media, 1):
            counts[medium.kind] = counts.get(medium.kind, 0) + 1
            tags[f"[{'img' if medium.kind == 'image' else medium.kind}{counts[medium.kind]}]"] = (
                number
            )
        assert places_to_tags(query.question, tags) == row["question"]
        assert [
            f"{chr(65 + i)}. {places_to_tags(option, tags)}"
            for i, option in enumerate(query.options)
        ] == row["options"]


def test_sounds_in_options_are_shown_or_named(
    items: dict[str, Query],
) -> None:
    query, profile = items["2_7"], Profile(style="letter")
    texts = ["Which of the sounds goes with ", "?\nA. ", "\nB. ", "\nC. ", "\nD. "]
    assert list(prompt_parts(query, View.omni, profile)) == [
        part for pair in zip(texts, query.media, strict=True) for part in pair
    ]
    silent = prompt_parts(query, View.visual_only, profile)
    assert [part.kind for part in silent if isinstance(part, Media)] == ["image"]
    assert silent[-1] == "?\nA. [audio 1]\nB. [audio 2]\nC. [audio 3]\nD. [audio 4]"


def test_incomplete_row_is_listed(tmp_path: Path) -> None:
    first = {k: v for k, v in ROWS[0].items() if k != "part"}
    wrong = [
        first,
        {**first, "question_id": "x1", "audio_1": None},
        {**first, "question_id": "x2", "options": ["A. [img2]", "B. 2", "C. 3", "D. 4"]},
        {**first, "question_id": "x3", "question": "What of [img1] is <media_1>?"},
        {**first, "question_id": "x4", "answer": "E"},
        {**first, "question_id": "1_0"},
    ]
    tables.write(tmp_path / "av_odyssey_part1.parquet", wrong, MEDIA, "bytes")
    rows, problems, count = read_queries(
        av_odyssey, AnnotationSource(av_odyssey.ENTRY, tmp_path, tmp_path / "scratch")
    )
    assert ([row.id for row in rows], count) == (["1_0"], 6)
    assert [(p.line, p.field, p.message) for p in problems] == [
        (2, "question", "[audio1] names a medium that the row does not hold"),
        (3, "options", "[img2] names a medium that the row does not hold"),
        (4, "question", "holds <media_1> itself"),
        (5, "answer", "'E' names none of the 4 options"),
        (6, "id", "1_0 occurs twice"),
    ]


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (score, outcome)
