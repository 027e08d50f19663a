"""The threshold k of n draws, from the wrong-option null of the same draws.

The rule `repeated` removes a query when at least k of its n draws are right. k is chosen for each benchmark, and within it
for each number of options K, from what the same draws say of guessing:

- A probe repeats its own guess even when options are re-shuffled, so draws are not independent and the binomial tail is too
  small. But where the probe cannot see the answer, right and wrong options are exchangeable: its guess falls on the right
  one as often as on any given wrong one. With W_k the pairs (query, wrong option) drawn k times or more, W_k / (K - 1)
  estimates the unsolvable queries whose right option is drawn k times or more (target and decoy: Elias & Gygi, Nature
  Methods 4, 2007). For k > n/2 only one option of a query can reach k, so a solved query adds nothing to W_k and nobody
  need know which are solved; other k are no candidates. A query that is misread the same way every time adds to W_k: that
  error is on the safe side.
- null_k, the chance that an unsolvable query reaches k, is W_k / (K - 1) over N, the queries without a right majority and
  as many more as W says that lucky guesses put among the others. N holds solvable queries that the probe failed, too. But
  it serves to share W_k / (K - 1) out among benchmarks: false removals are estimated as null_k * N, from which an error
  of N cancels.
- A benchmark of a hundred queries has a W_k of a few, often 0. So null_k is pooled over the benchmarks of the same K and
  filter policy, with one pair more than was counted (an empty tail is no proof of none); a benchmark's own null is the
  pooled one, taken as `PRIOR` queries, and its own counts on top: small ones borrow, large ones speak for themselves.
- Where nearly everything is solvable, few queries are left to measure on: with N unsolvable ones of K options in the whole
  run, null_k is never below 1 / ((K - 1) N + 1). Below `ENOUGH` of them the pooled null is borrowed: a beta-binomial whose mean
  and spread are those of the same probe's guesses where it cannot tell the answer, first under visual_only over every K, then
  under the views that withhold more. `spread`, the correlation of two draws of one wrong option, carries over from K to K, and so
  does the share of guesses that fall on an option at all, which makes the mean 1 / K of it. Here, too, one pair more than was
  counted is drawn every time. A benchmark's own counts come on top as above, so that a few queries which are misread the same
  way every time do not decide alone. `Rule.source` says where the null comes from: `measured`, `borrowed`, or `few` where
  nothing could be borrowed and the few count alone.

k is the smallest with null_k * N / (queries with k right draws or more) <= max_fdr and null_k <= max_lost. The first bounds
the share of unsolvable queries among the removed; the second the share of the unsolvable queries that is lost, which the
first leaves open where nearly everything is solvable. Where no k does both, nothing is removed.

A draw that was cut or cannot be read is neither a hit of the right option nor of a wrong one, so both are counted alike. A query
whose majority such draws could change is not among N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omnicore.audit.draws import NONE, Audited, Bools, Floats, Hits
from omnicore.config import CleanConfig
from omnicore.scoring import stats

PRIOR = 500  # weight of the pooled null, in unsolvable queries
# Unsolvable queries that measure a null. One pair more or less moves that of K = 2 by 0.01, a third of `max_lost`'s default.
ENOUGH = 100
HABIT = 60  # unsolvable queries that measure two numbers, mean and spread, to which every pair adds

Source = Literal["measured", "borrowed", "few"]


@dataclass(frozen=True)
class Rule:
    """What holds for the `rows` [N] of one benchmark with K `options`: remove at `hits` of `draws`
    (None: remove nothing). Rows of which a request failed are not judged by it.

    `null` [n + 1] is the measured chance that an unsolvable query is hit k times or more,
    `binomial` [n + 1] the textbook one, `fdr` [n + 1] the estimated share of unsolvable queries
    among those hit k times or more. `source` says what the null was measured on.
    """

    benchmark: str
    options: int
    rows: Bools
    hits: int | None
    draws: int
    null: Floats
    binomial: Floats
    fdr: Floats
    source: Source

    def rare(self, share: float) -> Bools:
        """Return [n + 1] whether so many hits are too rare under guessing for `not_solvable`.

        All hits of all draws always are; where the group did not measure its own null and no k was
        found, the textbook's word is enough.
        """
        flagged = self.null <= share
        if self.hits is None and self.source != "measured":
            flagged |= self.binomial <= share
        flagged[self.draws] = True
        return flagged

    def record(self) -> dict[str, int | float | str | None]:
        """Its entry in `audit.json`; where nothing is removed, the figures of the strictest k,
        which did not do either."""
        at = self.draws if self.hits is None else self.hits
        figures = {"fdr": self.fdr, "null": self.null, "binomial": self.binomial}
        measured = {name: round(float(values[at]), 6) for name, values in figures.items()}
        return {
            "hits": self.hits,
            "draws": self.draws,
            "options": self.options,
            **measured,
            "source": self.source,
        }


def rules(
    audited: Audited, hits: Hits, config: CleanConfig, elsewhere: Sequence[Hits] = ()
) -> list[Rule]:
    """One rule for each benchmark and number of options.

    Queries that are kept whole get a rule without `hits`.     `elsewhere` holds the same queries'
    draws under other views, from which a null may be borrowed.
    """
    found = []
    n = hits.draws
    groups = audited.groups()
    habits = next((habit for seen in (hits, *elsewhere) if (habit := _habit(audited, seen))), None)
    for options in np.unique(audited.options[audited.options > 0]).tolist():
        binomial = np.array([stats.binomial_tail(n, k, 1 / options) for k in range(n + 1)])
        for filtered in (True, False):
            pool = (audited.options == options) & (audited.filtered == filtered)
            pooled, source = _pooled(hits, pool, options, habits)
            for benchmark, own in groups.items():
                rows = own & pool
                if not rows.any():
                    continue
                counted = _false_hits(hits, rows, options)
                null = (counted + PRIOR * pooled) / (counted[0] + PRIOR)
                reached = (hits.right[rows & hits.complete, None] >= np.arange(n + 1)).sum(axis=0)
                fdr = np.minimum(1.0, null * counted[0] / np.maximum(1, reached))
                fit = [
                    k
                    for k in range(n // 2 + 1, n + 1)
                    if fdr[k] <= config.max_fdr and null[k] <= config.max_lost
                ]
                threshold = fit[0] if filtered and fit else None
                found.append(
                    Rule(benchmark, options, rows, threshold, n, null, binomial, fdr, source)
                )
    return found


def _false_hits(hits: Hits, rows: Bools, options: int) -> Floats:
    """W_k / (K - 1) for k = 1..n over the rows, for k <= n/2 over the unsolved alone; at k = 0 the unsolvable, N."""
    wrong = hits.wrong[rows & hits.unsolved]
    counts = np.array([(wrong >= k).sum() for k in range(hits.draws + 1)]) / (options - 1)
    counts[0] += counts[
        hits.draws // 2 + 1
    ]  # guessers with a right majority, who are not among the unsolved
    return counts


def _pooled(hits: Hits, pool: Bools, options: int, habits: Habit | None) -> tuple[Floats, Source]:
    """The null [n + 1] of all benchmarks with these options: measured where they have unsolvable
    queries enough."""
    counted = _false_hits(hits, pool, options)
    enough = counted[0] >= ENOUGH
    if enough or habits is None:
        counted += 1 / (options - 1)  # one pair more than was counted
        return counted / counted[0], "measured" if enough else "few"
    tail = [
        stats.beta_binomial_tail(hits.draws, k, habits.inside / options, habits.spread)
        for k in range(hits.draws + 1)
    ]
    return np.array(tail), "borrowed"


@dataclass(frozen=True)
class Habit:
    """How a probe guesses: the share of guesses `inside` the options, and the `spread` of a wrong
    option's chance."""

    inside: float
    spread: float


def _habit(audited: Audited, hits: Hits) -> Habit | None:
    """Measure a probe's habit on the unsolved queries of filtered benchmarks; None where they are
    too few or drawn once."""
    rows = audited.filtered & hits.unsolved & (hits.unread == 0)
    if hits.draws < 2 or rows.sum() < HABIT:
        return None
    wrong, options = hits.wrong[rows], audited.options[rows, None]
    shown = wrong != NONE
    counts, pairs = np.maximum(wrong, 0), int(shown.sum())
    inside = min(1.0, float((counts * options / hits.draws).sum() / pairs))
    if inside <= 0:
        return None
    mean = np.where(shown, inside / options, 0.0)
    together = (
        counts * (counts - 1) / (hits.draws * (hits.draws - 1))
    )  # its mean is the mean chance of a pair of hits
    spread = float((together.sum() + 1 - (mean**2).sum()) / (mean * (1 - mean)).sum())
    return Habit(inside, min(1.0, max(0.0, spread)))
