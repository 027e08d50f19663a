"""Adversarial replies to questions that are answered by yes or no, with what a careful reader would
record."""

import pytest

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge

# reply, what it answers; the options are yes and no
VALUE = [
    # the word
    ("yes", "yes"),
    ("Yes", "yes"),
    ("YES.", "yes"),
    ("no", "no"),
    ("No.", "no"),
    ("**No**", "no"),
    ('"Yes"', "yes"),
    ("Ｙｅｓ。", "yes"),
    ("<answer>yes</answer>", "yes"),
    ("<answer>No.</answer>", "no"),
    ("<answer>\\boxed{No}</answer>", "no"),
    ("\\boxed{\\text{Yes}}", "yes"),
    # the word that opens an answer
    ("Yes, the dog barks.", "yes"),
    ("**Yes**, the dog barks.", "yes"),
    ("**Yes.** The dog barks.", "yes"),
    ("Yes. The dog barks.", "yes"),
    ("Yes! It barks", "yes"),
    ("Yes; it barks", "yes"),
    ("Yes: it barks", "yes"),
    ("Yes - it barks", "yes"),
    ("Yes—it barks", "yes"),
    ("Yes – it barks", "yes"),
    ("Yes，it barks", "yes"),
    ("Yes\nThe dog barks", "yes"),
    ("No, nothing is heard", "no"),
    ("No, I cannot hear it", "no"),
    ("<answer>No, it is silent</answer>", "no"),
    ("<think>Yes, perhaps</think>No, it is silent", "no"),
    ("The answer is yes, because it barks.", "yes"),
    ("Answer: No. It is silent.", "no"),
    # words that only begin like it, or do not stand first
    ("Yes it barks", None),
    ("Yes and no", None),
    ("Yes or no", None),
    ("Yes/No", None),
    ("yes?", None),
    ("No one is speaking", None),
    ("No-one is speaking", None),
    ("No. 5 is heard", None),
    ("No doubt, it barks", None),
    ("Nothing", None),
    ("Not sure", None),
    ("Yesterday", None),
    ("Maybe", None),
    ("Y", None),
    ("n", None),
    ("true", None),
    ("It barks, yes", None),
    ("I think yes", "yes"),
    ("Because the dog barks", None),
    ("The dog barks: yes", "yes"),
    # both are named
    ("No, wait, yes", None),
    ("Yes, no, yes", None),
    ("Yes, I hear no dog", None),
    ("Yes. No.", None),
    ("Yes\nNo", None),
    ("No, they don't. Yes.", None),
    ("Answer: yes\nNo, wait", None),
    ("The answer is yes. No.", None),
    ("<answer>yes</answer><answer>no</answer>", None),
    ("<answer>Yes, no</answer>", None),
    ("<answer>yes", None),
    ("<answer></answer>", None),
    # statements outrank the word that opens
    ("No, the answer is yes.", "yes"),
    ("I hear it. The answer is yes.", "yes"),
    ("答案：yes", "yes"),
    ("No, the answer is no.", "no"),
    ("No. The answer is unclear.", None),
    ("No. The answer is not yes.", None),
    ("Yes, so \\boxed{yes}", "yes"),
    ("Yes, so \\boxed{no}", "no"),
    ("Yes, so \\boxed{", None),
    ("The answer is not yes.", None),
    ("The answer is yes or no", None),
    ("The answer is yes. The answer is no.", None),
    ("<think>yes", None),
    ("", None),
    (" \n", None),
    ("A", None),
    ("(A)", None),
]

LETTER = [
    ("A", "yes"),
    ("(b)", "no"),
    ("A. Yes", "yes"),
    ("B. Yes", None),
    ("Answer: B", "no"),
    ("Yes", "yes"),
    ("No.", "no"),
    ("Yes, it barks", "yes"),
    ("Yes, B", None),
    ("A. Yes, it barks", "yes"),
    ("A or B", None),
    ("The answer is A. No.", None),
    ("<answer>A</answer><answer>Yes</answer>", "yes"),
    ("<answer>A</answer><answer>No</answer>", None),
]


def query(*options, answer="yes"):
    return Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        options=options,
        answer=answer,
        answer_kind=AnswerKind.yes_no,
        cluster="c",
    )


@pytest.mark.parametrize(
    ("reply", "expected", "style"),
    [(*row, "value") for row in VALUE] + [(*row, "letter") for row in LETTER],
)
def test_yes_no(reply, expected, style):
    worth = {None: Outcome.no_answer, "yes": Outcome.correct, "no": Outcome.incorrect}[expected]
    assert judge(reply, query("yes", "no"), style) == (expected, worth)


def test_the_table_is_large_enough():
    assert len(VALUE) >= 60


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Yes.", "Yes"), ("yes, it does", "Yes"), ("NO", "No"), ("<answer>no</answer>", "No")],
)
def test_the_answer_is_spelt_as_the_option(reply, expected):
    assert judge(reply, query("Yes", "No", answer="Yes"), "value")[0] == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("是。", "是"),
        ("是，有狗叫", "是"),
        ("否，不是", None),
        ("是的", None),
        ("不是", None),
        ("答案是否", "否"),
    ],
)
def test_chinese_words(reply, expected):
    assert judge(reply, query("是", "否", answer="是"), "value")[0] == expected


def test_the_order_shown_decides_the_letter():
    assert judge("A", query("yes", "no"), "letter", (1, 0)) == ("no", Outcome.incorrect)
