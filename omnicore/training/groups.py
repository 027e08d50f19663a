"""Groups of rollouts: which have an advantage, and the statistics of what was generated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from omnicore.models.processor import Prompt
from omnicore.schema import Outcome
from omnicore.training.mixture import modality
from omnicore.training.rewards import Reward
from omnicore.training.rollouts import Sample
from omnicore.training.rows import TrainingRow

RolloutRecords = Sequence[dict[str, Any]]


@dataclass
class Rollout:
    """One reply of the policy to a row.

    Attributes:
        row: The row that was asked.
        prompt: Its tokens and media.
        sample: The tokens that were generated.
        text: The reply as text.
        judged: Score and format reward of the reply.
        reward: What TRL computes the advantage from.
        right: What groups are filtered on: 1 or 0, or the score of a graded answer.
        used: Whether the policy is trained on it.
        advantage: Its advantage, 0 if it is not used.
    """

    row: TrainingRow
    prompt: Prompt
    sample: Sample
    text: str
    judged: Reward
    reward: float
    right: float
    used: bool = False
    advantage: float = 0.0

    def record(self, step: int) -> dict[str, Any]:
        """Return its line of `rollouts.jsonl`."""
        return {
            "step": step,
            "id": self.row.query.id,
            "type": self.row.query.type,
            "modality": modality(self.row.query),
            "reply": self.text,
            "tokens": list(self.sample.ids),
            "outcome": self.judged.outcome,
            "truncated": self.sample.truncated,
            "score": round(self.judged.score, 5),
            "format": self.judged.format,
            "reward": round(self.reward, 5),
            "advantage": round(self.advantage, 5),
            "used": self.used,
        }


Group = list[Rollout]


def has_advantage(group: Group) -> bool:
    """Return whether the rollouts differ in correctness, or in the score of a graded answer.

    Others have no advantage and teach nothing (DAPO, arXiv 2503.14476, section 3.2).
    """
    return len({rollout.right for rollout in group}) > 1


def collect_groups(
    first: Sequence[int],
    rounds: int,
    generate: Callable[[Sequence[int], int], list[Group]],
    resample_prompts: Callable[[int, int], Sequence[int] | None],
) -> list[Group]:
    """Generate groups for rows, and for other rows in place of groups without an advantage.

    Args:
        first: Rows to begin with, as indices.
        rounds: How often at most other rows are drawn.
        generate: Generates the groups of rows in a turn, counted from 0.
        resample_prompts: Draws so many rows for a turn; None if no process misses any.

    Returns:
        All groups; at most as many as `first` are marked `used`.
    """
    groups = generate(first, 0)
    for turn in range(1, rounds + 1):
        missing = len(first) - sum(map(has_advantage, groups))
        indices = resample_prompts(missing, turn)
        if indices is None:
            break
        groups += generate(indices, turn)
    useful = [group for group in groups if has_advantage(group)]
    for group in useful[: len(first)]:
        for rollout in group:
            rollout.used = True
    return groups


class Measurement(NamedTuple):
    """Sums over the tokens of one rollout, such as its entropy in nats."""

    modality: str
    sums: dict[str, float]
    tokens: int


class RolloutStats:
    """Statistics of the rollouts of a step.

    Attributes:
        measured: What the trainer measured since the last logged step, on this process.
    """

    def __init__(self, num_generations: int, prompts_per_step: int) -> None:
        self._num_generations, self._prompts_per_step = num_generations, prompts_per_step
        self._groups: list[RolloutRecords] = []
        self.measured: list[Measurement] = []

    def generated(self, records: RolloutRecords) -> None:
        """Replace the rollouts by those that all processes have generated last."""
        n = self._num_generations
        self._groups = [records[start : start + n] for start in range(0, len(records), n)]

    def summarize(self, measured: Iterable[Measurement]) -> dict[str, Any]:
        """Return the fields of `curves.jsonl`.

        Those of rollouts cover all that were generated, before any group was left out; `measured`
        covers the rollouts that were trained on.
        """
        by_modality = self._shares_by("modality")
        by_kind: defaultdict[str, list[Measurement]] = defaultdict(list)
        for one in measured:
            by_kind[one.modality].append(one)
        for kind, each in by_kind.items():
            tokens = max(1, sum(one.tokens for one in each))
            for name in each[0].sums:
                total = sum(one.sums[name] for one in each)
                by_modality[kind][name] = round(total / tokens, 5)
        used = sum(group[0]["used"] for group in self._groups)
        return {
            **_shares(self._groups),
            "useful": round(used / self._prompts_per_step, 5),
            "by_type": self._shares_by("type"),
            "by_modality": by_modality,
        }

    def _shares_by(self, field: str) -> dict[str, dict[str, float]]:
        """Return the statistics of the groups of each value of a field."""
        groups = defaultdict(list)
        for group in self._groups:
            groups[group[0][field]].append(group)
        return {name: _shares(groups[name]) for name in sorted(groups)}


def _shares(groups: Sequence[RolloutRecords]) -> dict[str, float]:
    records = [record for group in groups for record in group]
    outcomes = [record["outcome"] for record in records]
    rewards = [record["reward"] for record in records]
    all_right = all_wrong = 0
    for group in groups:
        right = sum(record["outcome"] is Outcome.correct for record in group)
        all_right += right == len(group)
        all_wrong += right == 0
    correct = outcomes.count(Outcome.correct)
    return {
        "groups": len(groups),
        "reward": round(fmean(rewards), 5),
        "reward_std": round(pstdev(rewards), 5),
        "length": round(fmean(len(record["tokens"]) for record in records), 5),
        "correct": round(correct / len(records), 5),
        "no_answer": round(outcomes.count(Outcome.no_answer) / len(records), 5),
        "truncated": round(fmean(record["truncated"] for record in records), 5),
        "all_right": round(all_right / len(groups), 5),
        "all_wrong": round(all_wrong / len(groups), 5),
    }
