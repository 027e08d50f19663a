"""Rewards: thin functions over `answers.py`, one a kind of answer. A failure to judge raises; it never scores 0.

A reward is the worth of the answer, in 0..1, and a small term for its form. Whether a rollout is right is told apart from both:
groups are filtered on that alone, since a term for the form on an all-wrong group would become a gradient of full size.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from omnicore.answers import judge, overlap, read
from omnicore.config import Profile
from omnicore.schema import AnswerKind, Outcome, Query

Named = str | frozenset[str]


@dataclass(frozen=True)
class Reward:
    """`worth` of the answer and `form`, 1 where there is an answer that can be read; both in 0..1."""

    outcome: Outcome
    worth: float
    form: float

    @property
    def right(self) -> bool:
        return self.outcome is Outcome.correct


def _f1(named: Named, query: Query) -> float:
    right = {query.answer, *query.also}
    return 2 * len(right & set(named)) / (len(right) + len(named))


def _near(named: Named, query: Query) -> float:
    """Of whole numbers, which are mostly counts, half for the next one."""
    off, given = abs(Decimal(str(named)) - Decimal(query.answer)), Decimal(str(named))
    return 1.0 if off == 0 else 0.5 if off == 1 and given == int(given) else 0.0


# What an answer is worth that may be partly right. Any other is right or wrong.
WORTH: Mapping[AnswerKind, Callable[[Named, Query], float]] = {
    AnswerKind.set: _f1,
    AnswerKind.number: _near,
    AnswerKind.interval: lambda named, query: overlap(str(named), query.answer),
}


def outcome(reply: str, query: Query, profile: Profile) -> Outcome:
    return judge(reply, query, profile.style)[1]


def reward(reply: str, truncated: bool, query: Query, profile: Profile) -> Reward:
    """A reply that was cut by its length limit has no answer."""
    named = None if truncated else read(reply, query, profile.style)
    if named is None:
        return Reward(Outcome.no_answer, 0.0, 0.0)
    found = outcome(reply, query, profile)
    worth = WORTH.get(query.answer_kind)
    return Reward(found, worth(named, query) if worth else float(found is Outcome.correct), 1.0)


class Coin:
    """The control arm's reward: a coin flip, whatever was said. Seeded, so that an arm can be repeated."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"coin-{seed}")

    def state_dict(self) -> dict[str, Any]:
        version, numbers, spare = self._rng.getstate()
        return {"version": version, "numbers": list(numbers), "spare": spare}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.setstate((state["version"], tuple(state["numbers"]), state["spare"]))

    def flip(self) -> float:
        return float(self._rng.random() < 0.5)
