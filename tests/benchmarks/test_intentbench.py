"""IntentBench: items of the hand-written fixture, and replies under the publisher's rule and
ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import intentbench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

DISBELIEF = ("He is glad", "He doesn't believe it", "He jokes", "He gives in", "He asks again")
FEELINGS = ("Angry", "Tired", "Proud", "Curious", "Worried", "Calm")
# id, kind, options, answers, video
ITEMS = [
    (
        "hall_01-0",
        "choice",
        ("She is cold", "She wants to be alone", "She hides the noise", "She was told to"),
        ("She hides the noise",),
        "hall_01.mp4",
    ),
    (
        "social/talk_7-0",
        "choice",
        DISBELIEF,
        ("He doesn't believe it",),
        "social/talk_7.mp4",
    ),  # options as Python text, `path`
    ("hall_01-1", "set", FEELINGS, ("Tired", "Worried"), "hall_01.mp4"),
    ("hall_01-2", "set", ("Glad", "Bored"), ("Glad",), "hall_01.mp4"),
    ("court_3-0", "yes_no", ("Yes", "No"), ("No",), "court_3.mp4"),
    (
        "court_3-1",
        "yes_no",
        ("Yes", "No"),
        ("Yes",),
        "court_3.mp4",
    ),  # no options at all, the answer in small letters
    ("market-0", "number", (), ("1200",), "market.mp4"),
    ("market-1", "number", (), ("4",), "market.mp4"),
    ("market-2", "text", (), ("Fresh fish",), "market.mp4"),
]
# id, reply, publisher's score, our outcome
REPLIES = [
    # multiple choice, C
    ("hall_01-0", "<answer>C</answer>", 1, "correct"),
    ("hall_01-0", "<think>B</think><answer> C </answer>", 1, "correct"),
    ("hall_01-0", "<answer>(C)</answer>", 0, "correct"),  # bug: the letter alone
    ("hall_01-0", "<answer>C.</answer>", 0, "correct"),
    ("hall_01-0", "<answer>C. She hides the noise</answer>", 0, "correct"),
    ("hall_01-0", "<answer>c</answer>", 0, "correct"),
    ("hall_01-0", "C", 0, "correct"),  # without tags another item's output would be scored
    ("hall_01-0", "The answer is C.", 0, "correct"),
    ("hall_01-0", "<ANSWER>C</ANSWER>", 0, "correct"),
    (
        "hall_01-0",
        "<answer>C</answer> or <answer>A</answer>",
        1,
        "no_answer",
    ),  # bug: the first tag counts
    (
        "hall_01-0",
        "<think><answer>C</answer></think><answer>B</answer>",
        1,
        "incorrect",
    ),  # bug: in thinking, too
    ("hall_01-0", "<answer>B or C</answer>", 0, "no_answer"),
    ("hall_01-0", "<answer></answer>", 0, "no_answer"),
    ("hall_01-0", "<answer>C", 0, "no_answer"),
    ("hall_01-0", "<answer>B</answer>", 0, "incorrect"),
    ("hall_01-0", "", 0, "no_answer"),
    # emer_ov_mc, B and E
    ("hall_01-1", "<answer>B,E</answer>", 1, "correct"),
    ("hall_01-1", "<answer>E,B</answer>", 1, "correct"),
    ("hall_01-1", "<answer>B, E</answer>", 1 / 2, "correct"),  # bug: " E" is not "E"
    ("hall_01-1", "<answer>B,E.</answer>", 1 / 2, "correct"),
    ("hall_01-1", "<answer>B and E</answer>", 0, "correct"),
    ("hall_01-1", "<answer>BE</answer>", 0, "correct"),
    ("hall_01-1", "<answer>B</answer>", 2 / 3, "incorrect"),
    ("hall_01-1", "<answer>B,E,A</answer>", 4 / 5, "incorrect"),
    ("hall_01-1", "<answer>A,B,C,D,E,F</answer>", 1 / 2, "incorrect"),  # all of them are half right
    (
        "hall_01-1",
        "<answer>B,E,E</answer>",
        4 / 5,
        "no_answer",
    ),  # bug: a part said twice counts twice below the line
    ("hall_01-1", "<answer>b,e</answer>", 0, "no_answer"),
    ("hall_01-1", "<answer>A,C</answer>", 0, "incorrect"),
    ("hall_01-1", "<answer>,</answer>", 0, "no_answer"),
    ("hall_01-2", "<answer>A</answer>", 1, "correct"),
    # judge, No and Yes
    ("court_3-0", "<answer>No</answer>", 1, "correct"),
    (
        "court_3-0",
        "<answer>I do not know</answer>",
        1,
        "no_answer",
    ),  # bug: no, inside "not" and "know"
    ("court_3-0", "<answer>Yes, there is nothing hidden</answer>", 1, "incorrect"),  # bug
    ("court_3-0", "<answer>yes or no</answer>", 1, "no_answer"),  # bug: right whatever is right
    ("court_3-1", "<answer>yes or no</answer>", 1, "no_answer"),
    ("court_3-1", "<answer>yesterday</answer>", 1, "no_answer"),  # bug
    ("court_3-1", "<answer>YES!</answer>", 1, "correct"),
    ("court_3-0", "<answer>false</answer>", 0, "no_answer"),
    ("court_3-0", "<answer>B</answer>", 0, "correct"),
    ("court_3-1", "<answer>No</answer>", 0, "incorrect"),
    # numerical, 1,200
    ("market-0", "<answer>1,200</answer>", 1, "correct"),
    (
        "market-0",
        "<answer>1200</answer>",
        0,
        "correct",
    ),  # bug: no decimal mark where the key's comma is taken for one
    ("market-0", "<answer>1200.0</answer>", 1, "correct"),
    ("market-0", "<answer>1200.004</answer>", 1, "incorrect"),
    ("market-0", "<answer>12,00</answer>", 1, "no_answer"),  # bug: commas go
    ("market-0", "<answer>1,200 coins</answer>", 0, "correct"),
    # regression, 4
    ("market-1", "<answer>4</answer>", 1, "correct"),
    ("market-1", "<answer>4.1</answer>", 1, "incorrect"),
    ("market-1", "<answer>5</answer>", 1 / 2, "incorrect"),
    ("market-1", "<answer>6</answer>", 0, "incorrect"),
    ("market-1", "<answer>four</answer>", 0, "correct"),
    # OCR: bug, 0 whatever is said
    ("market-2", "<answer>Fresh fish</answer>", 0, "correct"),
    ("market-2", "<answer>Fish</answer>", 0, "incorrect"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("intentbench", native.copy("intentbench", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "intentbench" / "qa.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, kind, options, answers, video) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.question) == (row["problem_type"], row["problem"])
        assert (str(query.answer_kind), query.options) == (kind, options)
        assert (query.answer, *query.also) == answers
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", f"videos/{video}"),
            ("audio", f"videos/{video}"),
        ]
        assert query.cluster == video


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"judge"', '"essay"', ("problem_type", "'essay' is none of")),
        (
            "<answer>C</answer>",
            "<answer>H</answer>",
            ("solution", "'H' names none of the 4 options"),
        ),
        (
            "<answer>B,E</answer>",
            "<answer>B,</answer>",
            ("solution", "'' names none of the 6 options"),
        ),
        (
            "<answer>No</answer>",
            "<answer>Maybe</answer>",
            ("solution", "'Maybe' is none of the options ['Yes', 'No']"),
        ),
        (
            "<answer>4</answer>",
            "<answer>four</answer>",
            ("answer", "could not convert string to float: 'four'"),
        ),
        ("<answer>Fresh fish</answer>", "Fresh fish", ("solution", "holds no <answer>")),
        (
            "['A. Glad', 'B. Bored']",
            "__import__('os').listdir()",
            ("options", "is not a list: \"__import__('os').listdir()\""),
        ),
        (
            '"video": "hall_01.mp4"',
            '"video": "hall_02.mp4"',
            ("video", "video videos/hall_02.mp4 is missing"),
        ),
        ('"social/talk_7.mp4"', '"../talk_7.mp4"', ("path", "videos/../talk_7.mp4 lies outside")),
        ('"data_type": "video"', '"data_type": "image"', ("data_type", "is 'image', not 'video'")),
    ],
)
def test_wrong_items_are_listed(
    tmp_path: Path, old: str, new: str, problem: tuple[str, str]
) -> None:
    folder = native.copy("intentbench", tmp_path)
    text = (folder / "qa.json").read_text()
    assert old in text
    (folder / "qa.json").write_text(text.replace(old, new, 1))
    rows, problems, count = read_queries(intentbench, AnnotationSource(intentbench.ENTRY, folder))
    assert (len(rows), count) == (8, 9)
    field, message = problem
    assert (problems[0].field, problems[0].excluded) == (field, False)
    assert message in problems[0].message


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (pytest.approx(score), outcome)
