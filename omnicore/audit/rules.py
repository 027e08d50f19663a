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

k is the smallest with null_k * N / (queries with k right draws or more) <= max_fdr and null_k <= max_lost. The first bounds
the share of unsolvable queries among the removed; the second the share of the unsolvable queries that is lost, which the
first leaves open where nearly everything is solvable. Where no k does both, nothing is removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnicore import stats
from omnicore.audit.draws import Audited, Bools, Floats, Hits
from omnicore.config import CleanConfig

PRIOR = 500  # weight of the pooled null, in unsolvable queries


@dataclass(frozen=True)
class Rule:
    """What holds for the `rows` [N] of one benchmark with K `options`: remove at `hits` of `draws` (None: remove nothing).
    Rows of which a request failed are not judged by it.

    `null` [n + 1] is the measured chance that an unsolvable query is hit k times or more, `binomial` [n + 1] the textbook
    one, `fdr` [n + 1] the estimated share of unsolvable queries among those hit k times or more.
    """

    benchmark: str
    options: int
    rows: Bools
    hits: int | None
    draws: int
    null: Floats
    binomial: Floats
    fdr: Floats

    def record(self) -> dict[str, int | float | None]:
        """Its entry in `audit.json`; where nothing is removed, the figures of the strictest k, which did not do either."""
        at = self.draws if self.hits is None else self.hits
        figures = {"fdr": self.fdr, "null": self.null, "binomial": self.binomial}
        measured = {name: round(float(values[at]), 6) for name, values in figures.items()}
        return {"hits": self.hits, "draws": self.draws, "options": self.options, **measured}


def rules(audited: Audited, hits: Hits, config: CleanConfig) -> list[Rule]:
    """One rule for each benchmark and number of options. Queries that are kept whole get a rule without `hits`."""
    found = []
    n = hits.draws
    groups = audited.groups()
    for options in np.unique(audited.options[audited.options > 0]).tolist():
        binomial = np.array([stats.binomial_tail(n, k, 1 / options) for k in range(n + 1)])
        for filtered in (True, False):
            pool = (audited.options == options) & (audited.filtered == filtered)
            one_more = 1 / (options - 1)
            pooled = _false_hits(hits, pool, options) + one_more
            pooled /= pooled[0]
            for benchmark, own in groups.items():
                rows = own & pool
                if not rows.any():
                    continue
                counted = _false_hits(hits, rows, options)
                null = (counted + PRIOR * pooled) / (counted[0] + PRIOR)
                reached = (hits.right[rows & hits.complete, None] >= np.arange(n + 1)).sum(axis=0)
                fdr = np.minimum(1.0, null * counted[0] / np.maximum(1, reached))
                fit = [k for k in range(n // 2 + 1, n + 1) if fdr[k] <= config.max_fdr and null[k] <= config.max_lost]
                threshold = fit[0] if filtered and fit else None
                found.append(Rule(benchmark, options, rows, threshold, n, null, binomial, fdr))
    return found


def _false_hits(hits: Hits, rows: Bools, options: int) -> Floats:
    """W_k / (K - 1) for k = 1..n over the rows, for k <= n/2 over the unsolved alone; at k = 0 the unsolvable, N."""
    wrong = hits.wrong[rows & hits.unsolved]
    counts = np.array([(wrong >= k).sum() for k in range(hits.draws + 1)]) / (options - 1)
    counts[0] += counts[hits.draws // 2 + 1]  # guessers with a right majority, who are not among the unsolved
    return counts
