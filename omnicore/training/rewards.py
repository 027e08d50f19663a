"""Rewards: thin functions over `scoring`, one a kind of answer.

A failure to judge raises; it never scores 0. A reward is the worth of the answer, in 0..1, and a
small term for its form. Whether a rollout is right is told apart from both: groups are filtered on
that alone, since a term for the form on an all-wrong group would become a gradient of full size.

Answers whose `native["graded"]` names one of `GRADES` are seldom given word by word, so their worth
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

Named = str | frozenset[str]


@dataclass(frozen=True)
class Reward:
    """`score` of the answer and `format`, 1 where there is an answer that can be read; both in
    0..1."""

    outcome: Outcome
    score: float
    format: float
    graded: bool = False

    @property
    def right(self) -> float:
        """What groups are filtered on: 1 or 0, or the worth of an answer that is graded."""
        return self.score if self.graded else float(self.outcome is Outcome.correct)


def _f1(named: Named, query: Query) -> float:
    right = {query.answer, *query.also}
    return 2 * len(right & set(named)) / (len(right) + len(named))


def _near(named: Named, query: Query) -> float:
    """Of whole numbers, which are mostly counts, half for the next one."""
    off, given = abs(Decimal(str(named)) - Decimal(query.answer)), Decimal(str(named))
    return 1.0 if off == 0 else 0.5 if off == 1 and given == int(given) else 0.0


# What an answer is worth that may be partly right. Any other is right or wrong.
PARTIAL_CREDIT: Mapping[AnswerKind, Callable[[Named, Query], float]] = {
    AnswerKind.set: _f1,
    AnswerKind.number: _near,
    AnswerKind.interval: lambda named, query: interval_iou(str(named), query.answer),
}


def _words(text: object) -> list[str]:
    """Without case and punctuation."""
    return re.findall(r"\w+", str(text).casefold())


def _words_right(named: Named, query: Query) -> float:
    """1 less the word error rate.

    Case and punctuation make no difference, which they do to Video-R1.
    """
    given, right = _words(named), _words(query.answer)
    if not right:
        return 0.0
    row = list(range(len(given) + 1))
    for i, word in enumerate(right, 1):
        above, row = row, [i]
        for j, other in enumerate(given, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return max(0.0, 1 - row[-1] / len(right))


def _rouge(named: Named, query: Query) -> float:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, as rouge-score 0.1.2 has it without its stemmer,
    which Video-R1 uses."""
    given, right = _words(named), _words(query.answer)
    shared = [
        (_shared_runs(given, right, n), len(given) + len(right) - 2 * (n - 1)) for n in (1, 2)
    ]
    shared.append((_longest_shared(given, right), len(given) + len(right)))
    return sum(2 * hits / size for hits, size in shared if size > 0) / len(shared)


def _shared_runs(a: Sequence[str], b: Sequence[str], n: int) -> int:
    runs = [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (a, b)]
    return (runs[0] & runs[1]).total()


def _longest_shared(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        above, row = row, [0]
        for j, other in enumerate(b, 1):
            row.append(above[j - 1] + 1 if word == other else max(above[j], row[j - 1]))
    return row[-1]


def _relative(named: Named, query: Query) -> float:
    """1 less the relative error."""
    given, right = Decimal(str(named)), Decimal(query.answer)
    return max(0.0, 1 - float(abs(given - right) / abs(right))) if right else float(given == right)


# What an answer is worth that is seldom given word by word, by `native["graded"]`.
GRADES: Mapping[str, Callable[[Named, Query], float]] = {
    "word error rate": _words_right,
    "rouge": _rouge,
    "relative error": _relative,
}


def judge_reply(reply: str, query: Query, profile: Profile) -> Outcome:
    return judge(reply, query, profile.style)[1]


def compute_reward(reply: str, truncated: bool, query: Query, profile: Profile) -> Reward:
    """A reply that was cut by its length limit has no answer."""
    named = None if truncated else read_answer(reply, query, profile.style)
    if named is None:
        return Reward(Outcome.no_answer, 0.0, 0.0)
    found = judge_reply(reply, query, profile)
    right = float(found is Outcome.correct)
    if graded := GRADES.get(query.native.get("graded", "")):
        return Reward(found, right or graded(named, query), 1.0, graded=True)
    worth = PARTIAL_CREDIT.get(query.answer_kind)
    return Reward(found, worth(named, query) if worth else right, 1.0)


class RandomReward:
    """The control arm's reward: a coin flip, whatever was said.

    Seeded, so that an arm can be repeated.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"coin-{seed}")

    def state_dict(self) -> dict[str, Any]:
        version, numbers, spare = self._rng.getstate()
        return {"version": version, "numbers": list(numbers), "spare": spare}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.setstate((state["version"], tuple(state["numbers"]), state["spare"]))

    def draw(self) -> float:
        return float(self._rng.random() < 0.5)
