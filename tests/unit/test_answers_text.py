"""Adversarial replies to open questions.

An open answer cannot be told from other words: any text is one, right or not.
"""

import pytest

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge

WRONG = [
    "cello",
    "violins",
    "a violin",
    "the violin",
    "violin or cello",
    "violin, cello",
    "violin and cello",
    "violin/cello",
    "violin (left)",
    "not violin",
    "violin?",
    "violin!",
    "vio lin",
    "violin violin",
    "It is a violin",
    "It is violin.",
    "I hear a violin. It is low.",
    "violin\ncello",
    "violin. It is low.",
    "Because it is a violin",
    "A or B",
    "(b)",
    "**B**",
    "I don't know",
    "<answer>a violin</answer>",
    "<answer>violin, cello</answer>",
    "The answer is a violin.",
    "The answer is violin or cello.",
    "The answer is not violin.",
    "The answer is violin, I think",
    "Answer: C",
    "\\boxed{cello}",
    "小提琴",
    "12",
]
RIGHT = [
    "violin",
    "Violin",
    "VIOLIN.",
    " violin \n",
    "**violin**",
    "*violin*",
    "`violin`",
    '"violin"',
    "“Violin.”",
    "「violin」",
    "ｖｉｏｌｉｎ",
    "violin。",
    "$violin$",
    "\\text{violin}",
    "\\boxed{violin}",
    "$\\boxed{\\text{violin}}$",
    "I hear strings, so \\boxed{violin}.",
    "<answer>violin</answer>",
    "<answer>**Violin**.</answer>",
    "<answer>\\boxed{violin}</answer>",
    "<answer>violin</answer><answer>Violin.</answer>",
    "It plays low. <answer>violin</answer> It is old.",
    "<think>cello? no</think>violin",
    "cello? no</think>violin",
    "<think><answer>cello</answer></think><answer>violin</answer>",
    "Answer: violin",
    "**Answer:** violin",
    "**Answer: violin**",
    "Final answer:\n\nviolin",
    "The answer is violin.",
    "The answer is **violin**.",
    "The answer is violin. It plays low.",
    "Answer: violin\nIt plays low.",
    "The answer is violin. Answer: violin",
    "答案：violin",
    "答案是violin。因为",
]
NOTHING = [
    "",
    " \n ",
    "<answer></answer>",
    "<answer> </answer>",
    "<answer>violin",
    "violin</answer>",
    "<answer>violin</answer",
    "<answer>violin</answer><answer>cello</answer>",
    "<answer>violin</answer><answer></answer>",
    "<answer>violin</answer> <answer>cel",
    "<answer>The answer is violin</answer>",
    "<think>violin",
    "<think>violin</think>",
    "Answer:",
    "The answer is",
    "The answer is violin. The answer is cello.",
    "The answer is cello, so \\boxed{violin}",
    "\\boxed{violin} \\boxed{cello}",
    "\\boxed{violin",
    "\\boxed{}",
    "The wrong answer is violin.",
    "Another answer: violin",
    "No answer: violin",
]


def query(answer):
    return Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        answer=answer,
        answer_kind=AnswerKind.text,
        cluster="c",
    )


@pytest.mark.parametrize(
    ("reply", "worth"),
    [(r, Outcome.correct) for r in RIGHT]
    + [(r, Outcome.incorrect) for r in WRONG]
    + [(r, Outcome.no_answer) for r in NOTHING],
)
@pytest.mark.parametrize("style", ["value", "letter"])
def test_text(reply, worth, style):
    given, found = judge(reply, query("violin"), style)
    assert found is worth
    assert (given is None) is (worth is Outcome.no_answer)


def test_the_table_is_large_enough():
    assert len(RIGHT) + len(WRONG) + len(NOTHING) >= 60


@pytest.mark.parametrize(
    ("reply", "answer", "worth"),
    [
        ("2", "two", Outcome.correct),
        ("Two.", "2", Outcome.correct),
        ("The answer is 2.", "two", Outcome.correct),
        ("02", "two", Outcome.incorrect),
        ("two violins", "two", Outcome.incorrect),
        ("more than ten", "more than ten", Outcome.correct),
        ("11", "more than ten", Outcome.incorrect),
        ("007", "7", Outcome.incorrect),
        ("Mr. Smith", "Mr. Smith", Outcome.correct),
        ("<answer>Mr. Smith</answer>", "mr. smith", Outcome.correct),
        ("EXIT  12\nleft", "Exit 12 left", Outcome.correct),
        ("<answer>出口</answer>", "出口。", Outcome.correct),
    ],
)
def test_answers_of_other_forms(reply, answer, worth):
    assert judge(reply, query(answer), "value")[1] is worth


def test_the_text_is_given_in_one_spelling():
    assert {
        judge(reply, query("violin"), "value")[0] for reply in ("Answer: **A Cello**.", "a  CELLO")
    } == {"a cello"}
