"""Adversarial replies to questions for a number, with the number that a careful reader would
record."""

import pytest
from pydantic import ValidationError

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge

# reply, number
NUMBERS = [
    # digits
    ("12", "12"),
    (" 12\n", "12"),
    ("12.", "12"),
    ("**12**", "12"),
    ("`12`", "12"),
    ('"12"', "12"),
    ("１２", "12"),
    ("12。", "12"),
    ("$12$", "12"),
    ("\\boxed{12}", "12"),
    ("$\\boxed{12}$", "12"),
    ("\\(12\\)", "12"),
    ("12.0", "12"),
    ("012", "12"),
    ("+12", "12"),
    ("-12", "-12"),
    ("−12", "-12"),
    ("12.5", "12.5"),
    ("12.50", "12.5"),
    ("0.5", "0.5"),
    ("0", "0"),
    ("-0.0", "0"),
    ("1,234", "1234"),
    ("1，234", "1234"),
    ("1,234,567.8", "1234567.8"),
    ("100", "100"),
    # words and times
    ("twelve", "12"),
    ("Twelve.", "12"),
    ("zero", "0"),
    ("twenty", "20"),
    ("12 times", "12"),
    ("12 times.", "12"),
    ("1 time", "1"),
    ("twelve times", "12"),
    ("12次", "12"),
    ("12个。", "12"),
    # tags and statements
    ("<answer>12</answer>", "12"),
    ("<answer> twelve </answer>", "12"),
    ("<answer>12</answer><answer>12.0</answer>", "12"),
    ("I count 3 and 9 <answer>12</answer>", "12"),
    ("<think>3 + 9 = 12, or 13</think>12", "12"),
    ("Answer: 12", "12"),
    ("**Answer:** 12", "12"),
    ("**Final answer: 12 times**", "12"),
    ("The answer is 12.", "12"),
    ("The answer is 12.5.", "12.5"),
    ("The answer is 12. I counted every bark.", "12"),
    ("3 + 9, so \\boxed{12}.", "12"),
    ("答案：12", "12"),
    ("答案是12次。", "12"),
    # more than one
    ("3 or 4", None),
    ("12 or 13", None),
    ("12, 13", None),
    ("12 13", None),
    ("12-13", None),
    ("12 to 13", None),
    ("12/13", None),
    ("12\n13", None),
    ("12 (twelve)", None),
    ("between 10 and 12", None),
    ("<answer>12</answer><answer>13</answer>", None),
    ("<answer>12</answer><answer>many</answer>", None),
    ("The answer is 12. The answer is 13.", None),
    ("The answer is 12. 13.", None),
    ("The answer is 12 or 13", None),
    ("Answer: 12\n13", None),
    ("\\boxed{12} \\boxed{13}", None),
    # what follows or precedes changes it
    ("12 dozen", None),
    ("12 people", "12"),
    ("12%", None),
    ("12k", None),
    ("12 million", None),
    ("12+", None),
    ("12 or so", None),
    ("about 12", None),
    ("about 12 people", None),
    ("12 out of 13 people", None),
    ("I hear 12 barks and 3 meows", None),
    ("~12", None),
    (">12", None),
    ("at least 12", None),
    ("not 12", None),
    ("$12", None),
    ("x = 12", None),
    ("3 + 9 = 12", None),
    ("It is 12", "12"),
    ("I hear 12 barks", "12"),
    ("The answer is about 12", None),
    ("The answer is not 12", None),
    # no number that is written so
    ("1,23", None),
    ("12,34,567", None),
    ("1.234.567", None),
    ("12,5", None),
    ("1 234", None),
    (".5", None),
    ("1e1", None),
    ("0x0c", None),
    ("--12", None),
    ("XII", None),
    ("twenty-one", None),
    ("dozen", None),
    ("times", None),
    ("once", None),
    ("十二", None),
    ("١٢", None),
    ("½", None),
    ("inf", None),
    ("nan", None),
    ("Because", None),
    ("A", None),
    ("(b)", None),
    ("<answer>12", None),
    ("<answer></answer>", None),
    ("<think>12", None),
    ("", None),
    (" \n", None),
]


def query(answer):
    return Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        answer=answer,
        answer_kind=AnswerKind.number,
        cluster="c",
    )


@pytest.mark.parametrize(("reply", "number"), NUMBERS)
@pytest.mark.parametrize("style", ["value", "letter"])
def test_number(reply, number, style):
    worth = {None: Outcome.no_answer, "12": Outcome.correct}.get(number, Outcome.incorrect)
    assert judge(reply, query("12"), style) == (number, worth)


def test_the_table_is_large_enough():
    assert len(NUMBERS) >= 60


@pytest.mark.parametrize(
    ("reply", "answer", "worth"),
    [
        ("12", "12.0", Outcome.correct),
        ("0.1", "0.10", Outcome.correct),
        ("1,200", "1.2e3", Outcome.correct),
        ("0.3", "0.30000000000000004", Outcome.incorrect),
        ("900719925474099.3", "900719925474099.2", Outcome.incorrect),
        ("-3", "3", Outcome.incorrect),
    ],
)
def test_numbers_are_equal_exactly_or_not(reply, answer, worth):
    assert judge(reply, query(answer), "value")[1] is worth


@pytest.mark.parametrize("answer", ["nan", "inf", "-Infinity", "1e999"])
def test_no_reply_could_name_such_an_answer(answer):
    """`nan` is unlike itself: every reply would be wrong."""
    with pytest.raises(ValidationError, match="is not a number that a reply could name"):
        Query(
            benchmark="b",
            id="1",
            type="t",
            question="?",
            answer=answer,
            answer_kind=AnswerKind.number,
            cluster="c",
        )


@pytest.mark.parametrize(
    ("published", "answer", "reply", "named"),
    [
        ("3/4", "0.75", "3/4", "0.75"),
        ("3/4", "0.75", "<answer>3 / 4</answer>", "0.75"),
        ("3/4", "0.75", r"\boxed{\frac{3}{4}}", "0.75"),
        ("3/4", "0.75", "$6/8$", "0.75"),
        ("3/4", "0.75", "The answer is 0.75.", "0.75"),
        ("3/4", "0.75", "3", "3"),
        ("3/4", "0.75", "3/0", None),
        ("3/4", "0.75", "75%", None),
        (r"\frac{1}{3}", "0.333333333333", "1/3", "0.333333333333"),
        (r"\frac{1}{3}", "0.333333333333", "0.33", "0.33"),
        ("3/4", "0.75", r"-\frac{3}{4}", "-0.75"),
        ("3/4", "0.75", r"2\frac{3}{4}", None),
        ("3/4", "0.75", "2 3/4", None),
        ("15%", "15", "15%", "15"),
        ("15%", "15", r"\boxed{15\%}", "15"),
        ("15%", "15", "15 percent", "15"),
        ("15%", "15", "15", "15"),
        ("15%", "15", "0.15", "0.15"),
        ("15%", "15", "15/1", None),
        ("15", "15", "15%", None),
        ("0.75", "0.75", "3/4", None),
    ],
)
def test_reply_may_have_the_published_notation(published, answer, reply, named):
    asked = query(answer).model_copy(update={"native": {"answer": published}})
    right = {None: Outcome.no_answer, answer: Outcome.correct}.get(named, Outcome.incorrect)
    assert judge(reply, asked, "letter") == (named, right)
