"""Forms in which models answer, and forms made to be misread: `tests/replies/forms.jsonl`, with the
answer of a careful reader.

Written by hand after the forms (not the texts) that public evaluation code and issue threads show.
A `plain` reply states one answer; a `tricky` one denies, weighs, lists, asks or corrects, and
mostly states none.
"""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from omnicore.schema import Query
from omnicore.scoring.extract import read_answer
from tests.cases import slow

FORMS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "replies/forms.jsonl").read_text().splitlines()
]
SOUNDS = ("A violin", "Applause", "A siren", "Rain on a roof")


def query(kind, options=()):
    answer = {"number": "1", "interval": "1-2", "text": "x"}.get(kind) or options[0]
    return Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        options=tuple(options),
        answer=answer,
        answer_kind=kind,
        cluster="c",
    )


def read_form(form):
    named = read_answer(form["reply"], query(form["kind"], form["options"]), form["style"])
    return sorted(named) if isinstance(named, frozenset) else named


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form['kind']}-{form['reply'][:40]!r}")
def test_form(form):
    expected = form["reads"]
    assert read_form(form) == (sorted(expected) if isinstance(expected, list) else expected)


def test_tables_are_large_enough():
    counted = Counter(form["form"] for form in FORMS)
    assert min(counted["plain"], counted["tricky"]) >= 100


@pytest.mark.parametrize(
    "reply",
    [
        "A, B, C, D",
        "A. B. C. D.",
        "A\nB\nC\nD",
        "The answer is A. The answer is B. The answer is C. The answer is D.",
        "<answer>A</answer><answer>B</answer><answer>C</answer><answer>D</answer>",
        "\\boxed{A}\\boxed{B}\\boxed{C}\\boxed{D}",
        "A (or B, C, D)",
        "A is correct. B is correct. C is correct. D is correct.",
        "A, because B, or C, or D",
        "I choose A. I choose B. I choose C. I choose D.",
        "Answer: A / Answer: B / Answer: C / Answer: D",
    ],
)
def test_policy_gains_nothing_by_listing_all_options(reply):
    assert read_answer(reply, query("choice", SOUNDS), "letter") is None


UNITS = [
    "A",
    "B ",
    "B. ",
    "(b) ",
    "B, ",
    "B and ",
    "B or ",
    "Answer: ",
    "answer is ",
    "The answer is B. ",
    "The answer to the ",
    "I would choose ",
    "I think the x ",
    "option ",
    "Option B ",
    "the sound is ",
    "not B ",
    "B is ",
    "B is not ",
    "because B, ",
    "选",
    "答案是",
    "选B",
    "\n",
    "Answer:\n",
    "# ",
    "*",
    "$x",
    "```",
    "{",
    "[",
    "(",
    '{"answer": ',
    "\\boxed{",
    "\\boxed{B}",
    "\\text{",
    "<answer>",
    "</think>",
    "<|im_end|>",
    "\u200b",
    '"',
    "?",
    "Yes, ",
    "no ",
    "3, ",
    "1,234",
    "3/4",
    "3 to 7 ",
    "3:",
    "from ",
    "A violin ",
    "the ",
    "there are 3 ",
    "based on ",
    "so, ",
    "final ",
    "most likely ",
    "if ",
    "wait ",
    "B best fits ",
    ". ",
    "; ",
    "x",
    " ",
    "could not ",
    "he would ",
    "'s ",
]
KINDS = (("choice", SOUNDS, "letter"), ("number", (), "value"), ("set", SOUNDS, "letter"))


@pytest.mark.parametrize("unit", [*UNITS[:8], *map(slow, UNITS[8:])])
def test_time_is_linear_in_the_length(unit):
    """100 kB of one repeated unit: what is quadratic takes minutes."""
    reply = (unit * (100_000 // len(unit) + 1))[:100_000]
    for kind, options, style in KINDS:
        start = time.process_time()
        read_answer(f"Answer: B {reply} The answer is B.", query(kind, options), style)
        assert time.process_time() - start < 1, kind
