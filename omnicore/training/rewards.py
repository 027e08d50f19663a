"""Rewards: thin functions over `scoring`, one for each kind of answer.

A failure to judge raises; it never scores 0. A reward is the score of the answer, in 0..1, plus a
small format reward. Whether a rollout is right is told apart from both: groups are filtered on that
alone, since a format reward on an all-wrong group would become a gradient of full size.

Answers whose `native["graded"]` names one of `GRADES` are seldom given word by word, so their score
is graded and their groups are filtered on it: Video-R1's types OCR, free-form and regression
(src/r1-v/src/open_r1/grpo.py of github.com/tulerfeng/Video-R1, read at 59d65c3).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from omnicore.config import Profile
from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.extract import read_answer
from omnicore.scoring.verify import interval_iou, judge

# What `scoring.extract` reads in a reply: one text, or several options.
Extracted = str | frozenset[str]


@dataclass(frozen=True)
class Reward:
    """The judgement of a reply.

    Attributes:
        outcome: Whether the answer is right.
        score: Partial credit of the answer, in 0..1.
        format: 1 if an answer can be read in the reply, else 0.
        graded: Whether the score is a grade that groups are filtered on.
    """

    outcome: Outcome
    score: float
    format: float
    graded: bool = False

    @property
    def right(self) -> float:
        """What groups are filtered on: 1 or 0, or the score of a graded answer."""
        return self.score if self.graded else float(self.outcome is Outcome.correct)


def _f1(answer: Extracted, query: Query) -> float:
    right = {query.answer, *query.also}
    return 2 * len(right & set(answer)) / (len(right) + len(answer))


def _nearness(answer: Extracted, query: Query) -> float:
    """Return 1 for the number, and 0.5 for the next whole number: most of them are counts."""
    given = Decimal(str(answer))
    difference = abs(given - Decimal(query.answer))
    if difference == 0:
        return 1.0
    return 0.5 if difference == 1 and given == int(given) else 0.0


def _interval_overlap(answer: Extracted, query: Query) -> float:
    return interval_iou(str(answer), query.answer)


# Partial credit of kinds of answers that may be partly right; others are right or wrong.
PARTIAL_CREDIT: Mapping[AnswerKind, Callable[[Extracted, Query], float]] = {
    AnswerKind.set: _f1,
    AnswerKind.number: _nearness,
    AnswerKind.interval: _interval_overlap,
}


def _words(text: object) -> list[str]:
    """Return the words without case and punctuation."""
    return re.findall(r"\w+", str(text).casefold())


def _word_accuracy(answer: Extracted, query: Query) -> float:
    """Return 1 less the word error rate.

    Case and punctuation make no difference here; in Video-R1 they do.
    """
    given, right = _words(answer), _words(query.answer)
    if not right:
        return 0.0
    row = list(range(len(given) + 1))
    for i, word in enumerate(right, 1):
        above, row = row, [i]
        for j, other in enumerate(given, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return max(0.0, 1 - row[-1] / len(right))


def _rouge(answer: Extracted, query: Query) -> float:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L.

    As rouge-score 0.1.2 computes it without its stemmer, which Video-R1 uses.
    """
    given, right = _words(answer), _words(query.answer)
    total = len(given) + len(right)
    shared = [(_shared_runs(given, right, n), total - 2 * (n - 1)) for n in (1, 2)]
    shared.append((_longest_common(given, right), total))
    return sum(2 * hits / size for hits, size in shared if size > 0) / len(shared)


def _shared_runs(a: Sequence[str], b: Sequence[str], n: int) -> int:
    """Return how many runs of `n` words two texts share."""
    return (_count_runs(a, n) & _count_runs(b, n)).total()


def _count_runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        above, row = row, [0]
        for j, other in enumerate(b, 1):
            row.append(above[j - 1] + 1 if word == other else max(above[j], row[j - 1]))
    return row[-1]


def _relative_accuracy(answer: Extracted, query: Query) -> float:
    """Return 1 less the relative error."""
    given, right = Decimal(str(answer)), Decimal(query.answer)
    if not right:
        return float(given == right)
    return max(0.0, 1 - float(abs(given - right) / abs(right)))


# Scores of answers that are seldom given word by word, by `native["graded"]`.
GRADES: Mapping[str, Callable[[Extracted, Query], float]] = {
    "word error rate": _word_accuracy,
    "rouge": _rouge,
    "relative error": _relative_accuracy,
}


def judge_reply(reply: str, query: Query, profile: Profile) -> Outcome:
    """Return whether a reply is right."""
    return judge(reply, query, profile.style)[1]


def compute_reward(reply: str, truncated: bool, query: Query, profile: Profile) -> Reward:
    """Score a reply; one that was truncated by its length limit has no answer."""
    answer = None if truncated else read_answer(reply, query, profile.style)
    if answer is None:
        return Reward(Outcome.no_answer, 0.0, 0.0)
    outcome = judge_reply(reply, query, profile)
    right = float(outcome is Outcome.correct)
    grade = GRADES.get(query.native.get("graded", ""))
    if grade:
        return Reward(outcome, right or grade(answer, query), 1.0, graded=True)
    partial_credit = PARTIAL_CREDIT.get(query.answer_kind)
    return Reward(outcome, partial_credit(answer, query) if partial_credit else right, 1.0)


class RandomReward:
    """The control arm's reward: 0 or 1 at random, whatever the reply.

    It is seeded, so an arm can be repeated.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"coin-{seed}")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        version, numbers, spare = self._rng.getstate()
        return {"version": version, "numbers": list(numbers), "spare": spare}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rng.setstate((state["version"], tuple(state["numbers"]), state["spare"]))

    def draw(self) -> float:
        """Draw the next reward."""
        return float(self._rng.random() < 0.5)
