"""Choose the threshold k of n draws, from the wrong-option null of the same draws.

The rule `repeated` removes a query when at least k of its n draws are right. k is chosen for each
benchmark, and within it for each number of options K, from what the same draws show of guessing:

- A probe repeats its own guess even when options are re-shuffled, so draws are not independent and
  the binomial tail is too small. But where the probe cannot see the answer, right and wrong options
  are exchangeable: its guess falls on the right one as often as on any given wrong one. With W_k
  the pairs (query, wrong option) drawn k times or more, W_k / (K - 1) estimates the unsolvable
  queries whose right option is drawn k times or more (target and decoy: Elias & Gygi, Nature
  Methods 4, 2007). For k > n/2 only one option of a query can reach k, so a solved query adds
  nothing to W_k, and it need not be known which queries are solved; other k are not candidates. A
  query that is misread the same way every time adds to W_k: that error is on the safe side.
- null_k, the chance that an unsolvable query reaches k, is W_k / (K - 1) over N: the queries
  without a right majority, plus as many more as W predicts lucky guesses among the others. N also
  contains solvable queries that the probe failed. It only serves to share W_k / (K - 1) out among
  benchmarks: false removals are estimated as null_k * N, from which an error of N cancels.
- A benchmark of a hundred queries has a W_k of a few, often 0. So null_k is pooled over the
  benchmarks of the same K and filter policy, with one pair more than was counted (an empty tail
  does not prove that there is none). A benchmark's own null is the pooled one, weighted as
  `PRIOR` queries, plus its own counts: small benchmarks borrow, large ones use their own counts.
- Where nearly everything is solvable, few queries are left to measure on: with N unsolvable ones of
  K options in the whole run, null_k is never below 1 / ((K - 1) N + 1). Below `MIN_UNSOLVABLE` of
  them the pooled null is borrowed: a beta-binomial whose mean and spread are those of the same
  probe's guesses where it cannot tell the answer, first under visual_only over every K, then under
  the views that withhold more. `spread`, the correlation of two draws of one wrong option, carries
  over from K to K, and so does the share of guesses that fall on an option at all, which makes the
  mean 1 / K of it. Here also one pair more than was counted is taken as drawn every time. A
  benchmark's own counts are added as above, so that a few queries which are misread the same way
  every time do not decide alone. `ThresholdRule.source` names the origin of the null: `measured`,
  `borrowed`, or `few` where nothing could be borrowed and only the few were counted.

k is the smallest with null_k * N / (queries with k right draws or more) <= max_fdr and
null_k <= max_lost. The first bounds the share of unsolvable queries among the removed. The second
bounds the share of the unsolvable queries that is lost, which the first leaves open where nearly
everything is solvable. Where no k meets both, nothing is removed.

A draw that was truncated or cannot be read is neither a hit of the right option nor of a wrong one,
so both are counted alike. A query whose majority such draws could change is not among N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omnicore.audit.draws import NONE, Bools, Floats, HitCounts, QueryArrays
from omnicore.config import CleanConfig
from omnicore.scoring import stats

PRIOR = 500  # weight of the pooled null, in unsolvable queries
# Unsolvable queries that measure a null. One pair more or less moves the null of K = 2 by 0.01, a
# third of `max_lost`'s default.
MIN_UNSOLVABLE = 100
# Unsolvable queries that measure two numbers, mean and spread, to which every pair adds.
MIN_FOR_GUESS_MODEL = 60

Source = Literal["measured", "borrowed", "few"]


@dataclass(frozen=True)
class ThresholdRule:
    """The rule for the queries of one benchmark with K options.

    Rows of which a request failed are not judged by it.

    Attributes:
        benchmark: Name of the benchmark.
        options: K.
        rows: Its queries, [N].
        hits: Remove a query at this many right draws; None removes nothing.
        draws: n.
        null: Measured chance that an unsolvable query is hit k times or more, [n + 1].
        binomial: The same for independent guesses among K options, [n + 1].
        fdr: Estimated share of unsolvable queries among those hit k times or more, [n + 1].
        source: Where the null comes from.
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

    def too_rare(self, share: float) -> Bools:
        """Return for each hit count k whether guessing reaches it too rarely for `not_solvable`.

        Hits in all draws are always too rare. Where the group did not measure its own null and no
        k was found, a small binomial tail is enough.

        Args:
            share: Largest chance that counts as rare.

        Returns:
            Flags [n + 1].
        """
        flags = self.null <= share
        if self.hits is None and self.source != "measured":
            flags |= self.binomial <= share
        flags[self.draws] = True
        return flags

    def to_record(self) -> dict[str, int | float | str | None]:
        """Return its entry in `audit.json`.

        Where nothing is removed, the figures are those of k = n, which did not meet the bounds.
        """
        k = self.draws if self.hits is None else self.hits
        return {
            "hits": self.hits,
            "draws": self.draws,
            "options": self.options,
            "fdr": round(float(self.fdr[k]), 6),
            "null": round(float(self.null[k]), 6),
            "binomial": round(float(self.binomial[k]), 6),
            "source": self.source,
        }


def fit_rules(
    arrays: QueryArrays,
    hits: HitCounts,
    config: CleanConfig,
    other_views: Sequence[HitCounts] = (),
) -> list[ThresholdRule]:
    """Fit one rule for each benchmark and number of options.

    Queries that are kept whole get a rule without `hits`.

    Args:
        arrays: The N queries.
        hits: Their hits under visual_only.
        config: Bounds on false removals.
        other_views: Hits of the same queries under other views, from which a null may be borrowed.
    """
    rules = []
    benchmarks = arrays.rows_by_benchmark()
    guesses = _first_guess_model(arrays, [hits, *other_views])
    for options in np.unique(arrays.options[arrays.options > 0]).tolist():
        for filtered in (True, False):
            pool = (arrays.options == options) & (arrays.filtered == filtered)
            pooled, source = _pooled_null(hits, pool, options, guesses)
            for benchmark, members in benchmarks.items():
                rows = members & pool
                if not rows.any():
                    continue
                null, fdr = _null_and_fdr(hits, rows, options, pooled)
                threshold = _smallest_threshold(null, fdr, config) if filtered else None
                rules.append(
                    ThresholdRule(
                        benchmark=benchmark,
                        options=options,
                        rows=rows,
                        hits=threshold,
                        draws=hits.draws,
                        null=null,
                        binomial=_binomial_tails(hits.draws, options),
                        fdr=fdr,
                        source=source,
                    )
                )
    return rules


def _binomial_tails(draws: int, options: int) -> Floats:
    return np.array([stats.binomial_tail(draws, k, 1 / options) for k in range(draws + 1)])


def _null_and_fdr(
    hits: HitCounts, rows: Bools, options: int, pooled: Floats
) -> tuple[Floats, Floats]:
    """Return a benchmark's null and estimated false discovery rate, both [n + 1]."""
    counted = _false_hits(hits, rows, options)
    null = (counted + PRIOR * pooled) / (counted[0] + PRIOR)
    counts = np.arange(hits.draws + 1)
    reached = (hits.right[rows & hits.complete, None] >= counts).sum(axis=0)
    fdr = np.minimum(1.0, null * counted[0] / np.maximum(1, reached))
    return null, fdr


def _smallest_threshold(null: Floats, fdr: Floats, config: CleanConfig) -> int | None:
    """Return the smallest k above n/2 within both bounds; None where there is none."""
    draws = len(null) - 1
    for k in range(draws // 2 + 1, draws + 1):
        if fdr[k] <= config.max_fdr and null[k] <= config.max_lost:
            return k
    return None


def _false_hits(hits: HitCounts, rows: Bools, options: int) -> Floats:
    """Count false hits: W_k / (K - 1) for k = 1..n, and the unsolvable queries N at k = 0.

    For k <= n/2 only unsolved queries are counted.
    """
    wrong = hits.wrong[rows & hits.unsolved]
    counts = np.array([(wrong >= k).sum() for k in range(hits.draws + 1)]) / (options - 1)
    # Guessed queries with a right majority are unsolvable but not among the unsolved.
    counts[0] += counts[hits.draws // 2 + 1]
    return counts


def _pooled_null(
    hits: HitCounts, pool: Bools, options: int, guesses: GuessModel | None
) -> tuple[Floats, Source]:
    """Return the null [n + 1] over all benchmarks with these options, and its source."""
    counted = _false_hits(hits, pool, options)
    enough = counted[0] >= MIN_UNSOLVABLE
    if enough or guesses is None:
        counted += 1 / (options - 1)  # one pair more than was counted
        return counted / counted[0], "measured" if enough else "few"
    mean = guesses.inside / options
    tails = [
        stats.beta_binomial_tail(hits.draws, k, mean, guesses.spread) for k in range(hits.draws + 1)
    ]
    return np.array(tails), "borrowed"


@dataclass(frozen=True)
class GuessModel:
    """How a probe guesses.

    Attributes:
        inside: Share of its guesses that fall on an option.
        spread: Correlation of two draws of one wrong option.
    """

    inside: float
    spread: float


def _first_guess_model(arrays: QueryArrays, by_view: Sequence[HitCounts]) -> GuessModel | None:
    for hits in by_view:
        model = _fit_guess_model(arrays, hits)
        if model is not None:
            return model
    return None


def _fit_guess_model(arrays: QueryArrays, hits: HitCounts) -> GuessModel | None:
    """Measure how a probe guesses on the unsolved queries of filtered benchmarks.

    Returns:
        None where these queries are too few or were drawn once.
    """
    rows = arrays.filtered & hits.unsolved & (hits.unreadable == 0)
    if hits.draws < 2 or rows.sum() < MIN_FOR_GUESS_MODEL:
        return None
    wrong, options = hits.wrong[rows], arrays.options[rows, None]
    shown = wrong != NONE
    counts, pairs = np.maximum(wrong, 0), int(shown.sum())
    inside = min(1.0, float((counts * options / hits.draws).sum() / pairs))
    if inside <= 0:
        return None
    mean = np.where(shown, inside / options, 0.0)
    # The mean of `together` is the mean chance that two draws both hit the option.
    together = counts * (counts - 1) / (hits.draws * (hits.draws - 1))
    spread = float((together.sum() + 1 - (mean**2).sum()) / (mean * (1 - mean)).sum())
    return GuessModel(inside, min(1.0, max(0.0, spread)))
