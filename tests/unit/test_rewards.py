"""What a reply is worth, by kind of answer."""

from __future__ import annotations

from typing import Any

import pytest

from omnicore.config import Profile
from omnicore.schema import Outcome, Query
from omnicore.training.rewards import Reward, compute_reward

ANIMALS = {"options": ("cat", "dog", "cow", "hen")}
QUERIES: dict[str, dict[str, Any]] = {
    "choice": {**ANIMALS, "answer": "dog"},
    "yes_no": {"options": ("yes", "no"), "answer": "yes"},
    "set": {**ANIMALS, "answer": "cat", "also": ("dog",)},
    "number": {"answer": "7"},
    "interval": {"answer": "10-20"},
    "text": {"answer": "a red door"},
}
RIGHT, WRONG, NONE = Outcome.correct, Outcome.incorrect, Outcome.no_answer


def query(kind: str, **changes: Any) -> Query:
    known = {"benchmark": "b", "id": "q", "type": "t", "question": "?", "cluster": "c"}
    return Query(**{**known, **QUERIES[kind], "answer_kind": kind, **changes})


@pytest.mark.parametrize(
    ("kind", "reply", "outcome", "score"),
    [
        ("choice", "dog", RIGHT, 1),
        ("choice", "The answer is cat.", WRONG, 0),
        ("choice", "cat or dog", NONE, 0),
        ("yes_no", "Yes, it barks", RIGHT, 1),
        ("yes_no", "no", WRONG, 0),
        ("set", "dog, cat", RIGHT, 1),
        ("set", "cat", WRONG, 2 / 3),
        ("set", "cat, dog, cow", WRONG, 4 / 5),
        ("set", "cow, hen", WRONG, 0),
        ("set", "cat or dog", NONE, 0),
        ("number", "seven", RIGHT, 1),
        ("number", "7.0", RIGHT, 1),
        ("number", "8", WRONG, 0.5),
        ("number", "6", WRONG, 0.5),
        ("number", "7.5", WRONG, 0),
        ("number", "9", WRONG, 0),
        ("number", "many", NONE, 0),
        ("interval", "from 10 to 20 s", RIGHT, 1),
        ("interval", "[00:10, 00:15]", RIGHT, 0.5),
        ("interval", "15-25", WRONG, 1 / 3),
        ("interval", "30-40", WRONG, 0),
        ("interval", "20-10", NONE, 0),
        ("interval", "at 12 s", NONE, 0),
        ("interval", "The answer is 12 to 20.", RIGHT, 0.8),
        ("text", "A red door.", RIGHT, 1),
        ("text", "a green door", WRONG, 0),
        ("text", "", NONE, 0),
    ],
)
def test_worth_by_kind(kind: str, reply: str, outcome: Outcome, score: float) -> None:
    found = compute_reward(reply, False, query(kind), Profile())
    assert found == Reward(outcome, pytest.approx(score), float(outcome is not NONE))


def test_a_cut_reply_is_no_answer_whatever_it_says() -> None:
    assert compute_reward("dog", True, query("choice"), Profile()) == Reward(NONE, 0.0, 0.0)


@pytest.mark.parametrize("answer", ["soon", "20-10", "10-10", "-1-2", "0:10-0:20"])
def test_an_answer_that_cannot_be_judged_is_refused(answer: str) -> None:
    """A fault of the data: as a reward of 0 it would train against right replies."""
    with pytest.raises(ValueError, match="is not an interval in time"):
        query("interval", answer=answer)


@pytest.mark.parametrize(
    ("graded", "answer", "reply", "outcome", "score"),
    [
        ("word error rate", "NO ENTRY AFTER DARK", "No entry after dark.", RIGHT, 1),
        ("word error rate", "NO ENTRY AFTER DARK", "no entry after dawn", WRONG, 3 / 4),
        ("word error rate", "NO ENTRY AFTER DARK", "no entry", WRONG, 1 / 2),
        ("word error rate", "NO ENTRY AFTER DARK", "there is no entry after dark", WRONG, 1 / 2),
        ("word error rate", "STOP", "one two three", WRONG, 0),
        ("word error rate", "!?", "?", WRONG, 0),
        ("rouge", "the red door opens", "The red door opens", RIGHT, 1),
        ("rouge", "the red door opens", "the red gate opens", WRONG, (3 / 4 + 1 / 3 + 3 / 4) / 3),
        ("rouge", "the red door opens", "opens door red the", WRONG, (1 + 0 + 1 / 4) / 3),
        ("rouge", "the red door opens", "a dog", WRONG, 0),
        ("rouge", "wetsuit", "wetsuit", RIGHT, 1),  # one word has no pair of words: 2/3 by Video-R1
        ("rouge", "wetsuit", "a wetsuit", WRONG, (2 / 3 + 0 + 2 / 3) / 3),
        ("rouge", "wetsuit", "", NONE, 0),
        ("relative error", "40", "40", RIGHT, 1),
        ("relative error", "40", "41", WRONG, 39 / 40),
        ("relative error", "40", "30", WRONG, 3 / 4),
        ("relative error", "-40", "40", WRONG, 0),
        ("relative error", "0", "0.5", WRONG, 0),
        ("relative error", "40", "many", NONE, 0),
    ],
)
def test_graded_answers_have_partial_worth(
    graded: str, answer: str, reply: str, outcome: Outcome, score: float
) -> None:
    kind = "number" if graded == "relative error" else "text"
    found = compute_reward(
        f"<answer>{reply}</answer>",
        False,
        query(kind, answer=answer, native={"graded": graded}),
        Profile(),
    )
    assert found == Reward(
        outcome, pytest.approx(score), float(outcome is not NONE), outcome is not NONE
    )
    assert found.right == found.score
