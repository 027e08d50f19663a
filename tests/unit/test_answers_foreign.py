"""Replies that name none of the options, which are wrong, and those that cannot be read, which are
no evidence."""

import pytest

from omnicore.schema import Outcome, Query
from omnicore.scoring.verify import judge

DIGITS = ("3", "5", "8", "13")
ANIMALS = ("A dog barking", "A cat meowing", "A car horn", "Silence")
YES_NO = ("yes", "no")
FOREIGN = [
    # style, options, reply, and whether it names something that is none of the options
    ("value", DIGITS, "<answer>7</answer>", True),
    ("value", DIGITS, "7", True),
    ("value", DIGITS, "<think>8 or 7?</think><answer>7</answer>", True),
    ("value", DIGITS, "seven", True),
    ("value", DIGITS, "<answer>horse</answer>", True),
    ("value", ("piano", "drum", "flute"), "<answer>Violin</answer>", True),
    ("value", ANIMALS, "<answer>thunder</answer>", True),
    ("letter", ANIMALS, "E", True),
    ("letter", ANIMALS, "<answer>(F)</answer>", True),
    ("value", YES_NO, "<answer>6</answer>", True),
    ("value", YES_NO, "<answer>1</answer>", False),
    ("value", YES_NO, "<answer>true</answer>", False),
    # What may mean an option is not counted against the probe.
    ("value", DIGITS, "<answer>eight</answer>", False),
    ("value", DIGITS, "8.0", False),
    ("value", ("piano", "drum", "flute"), "<answer>drums</answer>", False),
    ("value", ("piano", "drum", "flute"), "<answer>B</answer>", False),
    ("value", ("piano", "drum", "flute"), "<answer>2</answer>", False),
    ("value", ("piano", "drum", "flute"), "second", False),
    ("value", ANIMALS, "<answer>the cat</answer>", False),
    ("value", ("猫叫", "狗叫"), "<answer>小猫</answer>", False),
    ("letter", ANIMALS, "<answer>2</answer>", False),
    ("letter", ANIMALS, "<answer>I</answer>", False),
    ("letter", ANIMALS, "<answer>thunder</answer>", False),
    # Nor what says nothing, or two things.
    ("value", DIGITS, "", False),
    ("value", DIGITS, "<answer></answer>", False),
    ("value", DIGITS, "<answer>7", False),
    ("value", DIGITS, "<answer>7</answer><answer>9</answer>", False),
    ("value", DIGITS, "<answer>7</answer><answer>8</answer>", False),
    ("value", DIGITS, "The answer is 7. 8", False),
    ("value", ANIMALS, "Choose B.", False),
    ("value", ANIMALS, "B and C", False),
    ("value", ANIMALS, "Is it B?", False),
    ("value", ANIMALS, "<|begin_of_box|>B<|end_of_box|>", False),
    ("value", DIGITS, "7 or 9", False),
    ("value", DIGITS, "unclear", False),
    ("value", ANIMALS, "None of these", False),
    ("value", ANIMALS, "I cannot tell from the picture what is heard there.", False),
    ("letter", ANIMALS, "I cannot tell from the picture.", False),
    ("letter", ANIMALS, "E or F", False),
]


@pytest.mark.parametrize(("style", "options", "reply", "outside"), FOREIGN)
def test_none_of_the_options_is_wrong_and_unread_is_not(style, options, reply, outside):
    kind = "yes_no" if options == YES_NO else "choice"
    query = Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        options=options,
        answer=options[0],
        answer_kind=kind,
        cluster="c",
    )
    expected = Outcome.incorrect if outside else Outcome.no_answer
    assert judge(reply, query, style) == (None, expected)
