"""Which of a model's own rollouts become training rows, and for which reason each of the others does not.

The rules in their order; a rollout is rejected by the first that it breaks, so that each has one reason:

  failed      the request failed for good
  cut         it ran into the length limit: what it would have ended with is not known
  no_answer   no single answer can be read in it
  incorrect   its answer is not the query's
  minority    too few of the query's rollouts name its answer (`agreement`): right by luck. Answers are compared as they are read,
              not as they are written; cut ones and those without an answer name none, and failed ones do not count
  solvable    a probe answers the query without its sound: the row would teach the shortcut
  short, long outside of `min_tokens` to `max_tokens`
  per_query   the query has `per_query` rows already
  source      its benchmark or source has `max_source` of the rows already
  type        its type has `max_type` of the rows already

A cap is the highest number of rows of a group at which none has more than its share of what is left; those on sources and types
are taken in turn until both hold. Where there is a choice, it is drawn by the seed; from a group above its cap the second rows of
queries go before the first ones, so that as many queries as possible stay.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from omnicore.config import DistillConfig
from omnicore.errors import TrainingError
from omnicore.schema import Outcome, Query, RejectionReason
from omnicore.scoring.verify import answers_agree

Key = tuple[str, str]
ROUNDING = 1e-9  # 0.55 * 20 is a little more than 11 in binary, and 11 of 20 are 0.55


@dataclass(frozen=True)
class DistilledRollout:
    """The `sample`-th reply to a query.

    `answer` is as `judge` reads it, None where there is none or it was `cut`.
    """

    query: Query
    sample: int
    reply: str
    tokens: int
    answer: str | None
    outcome: Outcome
    cut: bool = False
    failed: bool = False


def select_rollouts(
    rollouts: Sequence[DistilledRollout],
    config: DistillConfig,
    solvable: Collection[Key],
    seed: int,
) -> list[RejectionReason | None]:
    """For each rollout why it is rejected, None for those that are chosen.

    `solvable` holds the keys of queries that a probe answers without the sound.

    Raises TrainingError where the caps leave nothing.
    """
    said: defaultdict[Key, list[str | None]] = defaultdict(list)
    for one in rollouts:
        if not one.failed:
            said[one.query.key].append(one.answer)
    found = [_judged(one, said[one.query.key], config, solvable) for one in rollouts]
    nth = _numbered(rollouts, [i for i, reason in enumerate(found) if reason is None], seed)
    for i, number in nth.items():
        if number >= config.per_query:
            found[i] = RejectionReason.per_query
    order = [i for i, _ in sorted(nth.items(), key=lambda one: one[1]) if found[i] is None]
    caps = (
        (
            RejectionReason.source,
            config.max_source,
            {i: rollouts[i].query.benchmark for i in order},
        ),
        (RejectionReason.type, config.max_type, {i: rollouts[i].query.type for i in order}),
    )
    before = -1
    while len(order) != before:
        before = len(order)
        for reason, share, group in caps:
            most = _cap(Counter(group[i] for i in order), share)
            if order and not most:
                raise TrainingError(
                    f"no number of rows holds distill.max_source={config.max_source:g} and"
                    f" distill.max_type={config.max_type:g}: the rules before leave"
                    f" {_told(caps[0][2])}, and {_told(caps[1][2])}; raise one, or bring rows of"
                    " others"
                )
            seen: Counter[str] = Counter()
            for i in order:
                seen[group[i]] += 1
                if seen[group[i]] > most:
                    found[i] = reason
            order = [i for i in order if found[i] is None]
    return found


def _told(group: Mapping[int, str]) -> str:
    return ", ".join(
        f"{count} of {name}" for name, count in sorted(Counter(group.values()).items())
    )


def _judged(
    one: DistilledRollout,
    said: Sequence[str | None],
    config: DistillConfig,
    solvable: Collection[Key],
) -> RejectionReason | None:
    """What is wrong with a rollout by itself; `said` are the answers of all of its query's."""
    if one.failed:
        return RejectionReason.failed
    if one.cut:
        return RejectionReason.cut
    if one.answer is None:
        return RejectionReason.no_answer
    if one.outcome is not Outcome.correct:
        return RejectionReason.incorrect
    alike = sum(
        other is not None and answers_agree(one.answer, other, one.query.answer_kind)
        for other in said
    )
    if alike < config.agreement * len(said) - ROUNDING:
        return RejectionReason.minority
    if one.query.key in solvable:
        return RejectionReason.solvable
    if one.tokens < config.min_tokens:
        return RejectionReason.short
    if config.max_tokens and one.tokens > config.max_tokens:
        return RejectionReason.long
    return None


def _numbered(
    rollouts: Sequence[DistilledRollout], rows: Sequence[int], seed: int
) -> dict[int, int]:
    """Rows in an order drawn by the seed, each with its place among those of its query."""
    drawn = list(rows)
    random.Random(f"{seed}|selection").shuffle(drawn)
    seen: Counter[Key] = Counter()
    nth = {}
    for i in drawn:
        nth[i] = seen[rollouts[i].query.key]
        seen[rollouts[i].query.key] += 1
    return nth


def _cap(counts: Mapping[str, int], share: float) -> int:
    """The most rows that a group may have so that none has more than `share` of all that are left;
    0 where there is none."""
    largest = max(counts.values(), default=0)
    fits = (
        c
        for c in range(largest, 0, -1)
        if c <= share * sum(min(n, c) for n in counts.values()) + ROUNDING
    )
    return next(fits, 0)
