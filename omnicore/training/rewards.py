"""Rewards: thin functions over `answers.py`. A failure to judge raises; it never scores 0."""

from __future__ import annotations

import random
from typing import Any

from omnicore.answers import judge
from omnicore.config import Profile
from omnicore.schema import Outcome, Query


def outcome(reply: str, query: Query, profile: Profile) -> Outcome:
    return judge(reply, query, profile.style)[1]


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
