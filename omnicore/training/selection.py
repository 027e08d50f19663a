"""Which of a model's own rollouts become training rows, and why each other one does not.

The rules in their order; a rollout is rejected by the first that it breaks, so that each has one
reason:

```
failed      the request failed permanently
cut         truncated by the length limit: what it would have ended with is unknown
no_answer   no single answer can be read in it
incorrect   its answer is not the query's
minority    too few of the query's rollouts give its answer (`agreement`): right by luck. Answers
            are compared as they are read; truncated rollouts and those without an answer give
            none, and failed ones do not count
solvable    a probe answers the query without its sound: the row would teach the shortcut
short, long outside of `min_tokens` to `max_tokens`
per_query   the query has `per_query` rows already
source      its benchmark or source has `max_source` of the rows already
type        its type has `max_type` of the rows already
```

A cap is the highest number of rows of a group at which none has more than its share of the
remaining rows; the caps on sources and types are applied in turn until both hold. Where there is a
choice, the seed decides; from a group above its cap the second rows of queries go before the first
ones, so that as many queries as possible stay.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omnicore.config import DistillConfig
from omnicore.errors import TrainingError
from omnicore.schema import Outcome, Query, RejectionReason
from omnicore.scoring.verify import answers_agree

Key = tuple[str, str]
ROUNDING = 1e-9  # 0.55 * 20 is a little more than 11 in binary, and 11 of 20 are 0.55


@dataclass(frozen=True)
class DistilledRollout:
    """The `sample`-th reply to a query.

    Attributes:
        query: The query.
        sample: Number of the reply, from 0.
        reply: Text of the reply, or the error of a failed request.
        tokens: Length of the reply.
        answer: What `judge` reads in it; None without an answer, or if the reply was truncated.
        outcome: Whether the answer is right.
        truncated: Whether the reply ran into the length limit.
        failed: Whether the request failed permanently.
    """

    query: Query
    sample: int
    reply: str
    tokens: int
    answer: str | None
    outcome: Outcome
    truncated: bool = False
    failed: bool = False


class _Cap(NamedTuple):
    """The share of rows that one group may have, with the group of each rollout."""

    reason: RejectionReason
    share: float
    groups: Mapping[int, str]


def select_rollouts(
    rollouts: Sequence[DistilledRollout],
    config: DistillConfig,
    solvable: Collection[Key],
    seed: int,
) -> list[RejectionReason | None]:
    """Return why each rollout is rejected, None for those that are chosen.

    Args:
        rollouts: All rollouts of all queries.
        config: The section `distill`.
        solvable: Keys of the queries that a probe answers without the sound.
        seed: Decides where there is a choice.

    Raises:
        TrainingError: No number of rows satisfies the caps.
    """
    reasons = _judge_each(rollouts, config, solvable)
    accepted = [place for place, reason in enumerate(reasons) if reason is None]
    ranks = _rank_in_query(rollouts, accepted, seed)
    for place, rank in ranks.items():
        if rank >= config.per_query:
            reasons[place] = RejectionReason.per_query
    order = [place for place in sorted(ranks, key=ranks.__getitem__) if reasons[place] is None]
    sources = {place: rollouts[place].query.benchmark for place in order}
    types = {place: rollouts[place].query.type for place in order}
    caps = (
        _Cap(RejectionReason.source, config.max_source, sources),
        _Cap(RejectionReason.type, config.max_type, types),
    )
    before = -1
    while len(order) != before:
        before = len(order)
        for cap in caps:
            most = _largest_count(Counter(cap.groups[place] for place in order), cap.share)
            if order and not most:
                raise TrainingError(
                    f"no number of rows satisfies distill.max_source={config.max_source:g} and"
                    f" distill.max_type={config.max_type:g}: the rules before leave"
                    f" {_list_counts(sources)}, and {_list_counts(types)}; raise one of the two, or"
                    " add rows of other sources or types",
                    code="distill-caps-unsatisfiable",
                    field="distill.max_source",
                )
            order = _reject_beyond(cap, most, order, reasons)
    return reasons


def _judge_each(
    rollouts: Sequence[DistilledRollout], config: DistillConfig, solvable: Collection[Key]
) -> list[RejectionReason | None]:
    answers: defaultdict[Key, list[str | None]] = defaultdict(list)
    for rollout in rollouts:
        if not rollout.failed:
            answers[rollout.query.key].append(rollout.answer)
    reasons = []
    for rollout in rollouts:
        key = rollout.query.key
        reasons.append(_reject_content(rollout, answers[key], config, key in solvable))
    return reasons


def _reject_content(
    rollout: DistilledRollout,
    answers: Sequence[str | None],
    config: DistillConfig,
    solvable: bool,
) -> RejectionReason | None:
    """Return what is wrong with a rollout and its query's `answers`; None if nothing is."""
    if rollout.failed:
        return RejectionReason.failed
    if rollout.truncated:
        return RejectionReason.cut
    if rollout.answer is None:
        return RejectionReason.no_answer
    if rollout.outcome is not Outcome.correct:
        return RejectionReason.incorrect
    kind, agreeing = rollout.query.answer_kind, 0
    for answer in answers:
        agreeing += answer is not None and answers_agree(rollout.answer, answer, kind)
    if agreeing < config.agreement * len(answers) - ROUNDING:
        return RejectionReason.minority
    if solvable:
        return RejectionReason.solvable
    return _reject_length(rollout.tokens, config)


def _reject_length(tokens: int, config: DistillConfig) -> RejectionReason | None:
    if tokens < config.min_tokens:
        return RejectionReason.short
    if config.max_tokens and tokens > config.max_tokens:
        return RejectionReason.long
    return None


def _rank_in_query(
    rollouts: Sequence[DistilledRollout], places: Sequence[int], seed: int
) -> dict[int, int]:
    """Return the places in a seeded order, each with its rank among those of its query."""
    order = list(places)
    random.Random(f"{seed}|selection").shuffle(order)
    counted: Counter[Key] = Counter()
    ranks = {}
    for place in order:
        key = rollouts[place].query.key
        ranks[place] = counted[key]
        counted[key] += 1
    return ranks


def _reject_beyond(
    cap: _Cap, most: int, order: Sequence[int], reasons: list[RejectionReason | None]
) -> list[int]:
    """Reject the rollouts beyond the first `most` of each group; return the others in order."""
    counted: Counter[str] = Counter()
    kept = []
    for place in order:
        group = cap.groups[place]
        counted[group] += 1
        if counted[group] > most:
            reasons[place] = cap.reason
        else:
            kept.append(place)
    return kept


def _largest_count(counts: Mapping[str, int], share: float) -> int:
    """Return the most rows of a group so that none has more than `share` of the remaining rows.

    Returns 0 if there is no such number.
    """
    for most in range(max(counts.values(), default=0), 0, -1):
        remaining = sum(min(count, most) for count in counts.values())
        if most <= share * remaining + ROUNDING:
            return most
    return 0


def _list_counts(groups: Mapping[int, str]) -> str:
    counts = sorted(Counter(groups.values()).items())
    return ", ".join(f"{count} of {name}" for name, count in counts)
