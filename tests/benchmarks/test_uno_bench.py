"""UNO-Bench, omni part: rows of the hand-written fixture as Parquet, what is excluded, and replies
under both rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omnicore.data.benchmarks import uno_bench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.records import Problem, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native, tables
from tests.benchmarks.scoring import both

ROWS = tables.rows("uno_bench")
# id, question, options, answer, media
ITEMS = [
    (
        "omni-1",
        "图中是哪种乐器<media_1>？请听<media_2>，从以下选项中选出一个正确答案：",
        ("笛子", "二胡", "古筝", "都不是"),
        "二胡",
        ["image images/pipe.png", "audio audios/tune.mp3"],
    ),
    (  # pictures in options; the sound stands after them
        "omni-2",
        "Which picture goes with the sound?\n<media_3>",
        ("<media_1>", "<media_2>", "neither"),
        "neither",
        ["image images/pipe.png", "image images/drum.jpg", "audio audios/tune.mp3"],
    ),
    (  # in one line, after a Chinese mark; the key with its text
        "omni-3",
        "<media_1><media_2>视频里的甲先生得了几分？",
        ("30分", "35分", "37分", "40分"),
        "35分",
        ["video videos/game.mp4", "audio audios/rules.wav"],
    ),
    (  # of a subset that is not named so; the key by its text
        "omni-5",
        "Does <media_1> or <media_2> go with <media_3>?",
        ("the first", "the second"),
        "the second",
        ["audio audios/tune.mp3", "audio audios/rules.wav", "video videos/game.mp4"],
    ),
    (
        "omni-6",
        "What does the sign in <media_1> that <media_2> speaks of read?",
        (),
        "Exit",
        ["image images/drum.jpg", "audio audios/tune.mp3"],
    ),
    ("omni-7", "<media_1><media_2>", (), "Ten", ["audio audios/tune.mp3", "image images/drum.jpg"]),
]
# id, reply, publisher's score, our outcome
REPLIES = [
    ("omni-1", "B", None, "correct"),
    ("omni-1", "(B)", None, "correct"),
    ("omni-1", "B、二胡", None, "correct"),
    ("omni-1", "答案：B", None, "correct"),
    ("omni-1", "答案是B。因为声音", None, "correct"),
    ("omni-1", "二胡", None, "correct"),
    ("omni-1", "A或B", None, "no_answer"),
    ("omni-1", "C", None, "incorrect"),
    ("omni-7", "10", None, "correct"),
    ("omni-6", "Exit", 1, "correct"),
    ("omni-6", "The sign reads EXIT.", 1, "incorrect"),
    ("omni-6", "way\nout", 1, "incorrect"),
    ("omni-6", "exits everywhere", 1, "incorrect"),  # bug: a longer word
    ("omni-6", "Not an exit", 1, "incorrect"),
    ("omni-6", "No sign", 0, "incorrect"),
    ("omni-6", "", 0, "no_answer"),
]


def made(rows: list[dict[str, Any]], folder: Path) -> tuple[list[Query], list[Problem]]:
    tables.write(native.copy("uno_bench", folder) / "validation.parquet", rows, (), "bytes")
    found, problems, count = read_queries(
        uno_bench, AnnotationSource(uno_bench.ENTRY, folder / "uno_bench")
    )
    assert len(found) + len(problems) == count == len(rows)
    return found, problems


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Query], list[Problem]]:
    return made(ROWS, tmp_path_factory.mktemp("copy"))


def test_every_row_becomes_its_query_or_is_excluded(
    copy: tuple[list[Query], list[Problem]],
) -> None:
    queries, problems = copy
    written = {row["qid"]: row for row in ROWS}
    assert [query.id for query in queries] == [name for name, *_ in ITEMS]
    for query, (name, question, options, answer, media) in zip(queries, ITEMS, strict=True):
        assert (query.question, query.options, query.answer) == (question, options, answer)
        assert [f"{medium.kind} {medium.uri}" for medium in query.media] == media
        assert query.answer_kind == ("choice" if options else "text")
        assert query.type == written[name]["subset_name"]
        assert query.native == {
            "score_type": str(written[name]["score_type"]),
            "answer": written[name]["answer"],
        }
        assert (
            query.cluster
            == next(medium for medium in query.media if medium.kind != "audio").sha256[:16]
        )
    assert [(p.line, p.field, p.excluded, p.message) for p in problems] == [
        (4, "score_type", True, "omni-4 is multi-step: its rubric needs a judge"),
        (8, "subset_name", True, "uni-1 of MMLongText is uni-modal"),
    ]


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"answer": "E"}, "answer", "'E' names none of the 4 options"),
        (
            {"answer": "鼓"},
            "answer",
            "'鼓' is none of the options ['笛子', '二胡', '古筝', '都不是']",
        ),
        (
            {"question": "<image_1><audio_1>A. one B. one", "answer": "A"},
            "question",
            "options 1 and 2 are equal: 'one'",
        ),
        (
            {"question": "<image_1><audio_1>1. one 2. two"},
            "question",
            "holds no options A, B and so on",
        ),
        (
            {"question": "<image_2><audio_1>A. one B. two"},
            "question",
            "<image_2> names a medium that the row does not hold",
        ),
        (
            {"images": {"<image_1>": "images/lost.png", "<image_2>": None}},
            "images",
            "image images/lost.png is missing",
        ),
    ],
)
def test_wrong_items_are_listed(
    tmp_path: Path, changed: dict[str, Any], field: str, message: str
) -> None:
    _, problems = made([{**ROWS[0], **changed}, ROWS[1]], tmp_path)
    assert [(p.line, p.excluded) for p in problems] == [(1, False)]
    assert message in problems[0].message
    assert problems[0].field == ("answer" if field == "options" else field)


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Who? A. one B. two", "Who?", ["one", "two"]),
        ("Who?\nA. one C. two\nB. Mr. A. Smith", "Who?", ["one C. two", "Mr. A. Smith"]),
        (
            "Who?\n A：one\n still one\n B：two\nSee <media_1>.",
            "Who?\nSee <media_1>.",
            ["one\n still one", "two"],
        ),
        ("Is it DNA.\nA. it is\nB. is it", "Is it DNA.", ["it is", "is it"]),
    ],
)
def test_options_are_distinguished_from_other_letters(
    text: str, question: str, options: list[str]
) -> None:
    assert uno_bench._split_options(text) == (question, options)


@pytest.mark.parametrize(
    "text",
    [
        "Who? A. Mr. A. Smith B. two",
        "A. one",
        "A. one B. two D. four",
        "B. one C. two",
        "A or B",
        "",
    ],
)
def test_ambiguous_options_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="holds no options A, B and so on, each once"):
        uno_bench._split_options(text)


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    copy: tuple[list[Query], list[Problem]],
    name: str,
    reply: str,
    score: float | None,
    outcome: str,
) -> None:
    assert both({query.id: query for query in copy[0]}[name], reply) == (score, outcome)
