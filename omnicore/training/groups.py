"""Groups of rollouts: which teach something, and the book of what they were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from omnicore.models.processor import Prompt
from omnicore.schema import Outcome
from omnicore.training.mixture import modality
from omnicore.training.rewards import Reward
from omnicore.training.rollouts import Sample
from omnicore.training.rows import TrainingRow

Records = Sequence[dict[str, Any]]


@dataclass
class Rollout:
    """One reply.

    `right` is what groups are filtered on: 1 or 0, or the worth of an answer that is graded. `used`
    ones are trained on, with their advantage.
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
        """What `rollouts.jsonl` holds of it."""
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
Draw = Callable[[int, int], Sequence[int] | None]


def has_advantage(group: Group) -> bool:
    """A group that is all right or all wrong teaches nothing (DAPO, arXiv 2503.14476, section 3.2),
    nor does one graded alike."""
    return len({rollout.right for rollout in group}) > 1


def collect_groups(
    first: Sequence[int], refill: int, roll: Callable[[Sequence[int], int], list[Group]], draw: Draw
) -> list[Group]:
    """Groups for the rows `first`, and for as many further ones as useful groups are missing, up to
    `refill` times.

    `roll(indices, turn)` generates; `draw(missing, turn)` names as many further rows, or says by
    None that no process misses any. All groups come back, those to train on marked `used`: as many
    as `first` at most.
    """
    groups = roll(first, 0)
    for turn in range(1, refill + 1):
        further = draw(len(first) - sum(map(has_advantage, groups)), turn)
        if further is None:
            break
        groups += roll(further, turn)
    for group in [group for group in groups if has_advantage(group)][: len(first)]:
        for rollout in group:
            rollout.used = True
    return groups


class RolloutStats:
    """What was generated last, and what the trainer has measured on it since the last logged
    step."""

    def __init__(self, group: int, prompts: int) -> None:
        self._group, self._prompts = group, prompts
        self._groups: list[Records] = []
        self.measured: list[
            tuple[str, dict[str, float], int]
        ] = []  # modality, sums over tokens, tokens

    def generated(self, records: Records) -> None:
        self._groups = [records[i : i + self._group] for i in range(0, len(records), self._group)]

    def figures(self, measured: Iterable[tuple[str, dict[str, float], int]]) -> dict[str, Any]:
        """The fields of `curves.jsonl`; those of the rollouts before any group was dropped."""
        by_modality = {name: _shares(part) for name, part in self._by("modality")}
        found: defaultdict[str, list[tuple[dict[str, float], int]]] = defaultdict(list)
        for kind, sums, tokens in measured:
            found[kind].append((sums, tokens))
        for kind, parts in found.items():
            total = max(1, sum(tokens for _, tokens in parts))
            for name in parts[0][0]:
                by_modality[kind][name] = round(sum(sums[name] for sums, _ in parts) / total, 5)
        used = sum(group[0]["used"] for group in self._groups)
        return {
            **_shares(self._groups),
            "useful": round(used / self._prompts, 5),
            "by_type": {name: _shares(part) for name, part in self._by("type")},
            "by_modality": by_modality,
        }

    def _by(self, field: str) -> list[tuple[str, list[Records]]]:
        found = defaultdict(list)
        for group in self._groups:
            found[group[0][field]].append(group)
        return sorted(found.items())


def _shares(groups: Sequence[Records]) -> dict[str, float]:
    every = [record for group in groups for record in group]
    right = [sum(record["outcome"] is Outcome.correct for record in group) for group in groups]
    rewards, count = [record["reward"] for record in every], len(groups)
    return {
        "groups": count,
        "reward": round(fmean(rewards), 5),
        "reward_std": round(pstdev(rewards), 5),
        "length": round(fmean(len(record["tokens"]) for record in every), 5),
        "correct": round(sum(right) / len(every), 5),
        "no_answer": round(fmean(record["outcome"] is Outcome.no_answer for record in every), 5),
        "truncated": round(fmean(record["truncated"] for record in every), 5),
        "all_right": round(sum(r == len(g) for r, g in zip(right, groups, strict=True)) / count, 5),
        "all_wrong": round(sum(r == 0 for r in right) / count, 5),
    }
