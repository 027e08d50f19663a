"""Verdicts from draws: which queries a probe solves with the audio withheld. Arrays in, records out; no files.

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

The rule `single_pass` is the paper's (arXiv 2605.12034): draw 0 right, query removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from omnicore import stats
from omnicore.config import CleanConfig, digest
from omnicore.schema import Estimate, Label, Manifest, Query, Verdict, View

PRIOR = 500  # weight of the pooled null, in unsolvable queries
NONE = -1  # in answers: no single option; in `Hits.wrong`: no such wrong option

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Policy = Literal["single_pass", "repeated"]


class Audited:
    """N queries as arrays: `benchmark`, `cluster` [N] names, `options` [N] their number K, `right` [N] index of the right
    one, `filtered` [N] whether the benchmark may lose queries."""

    def __init__(self, queries: Sequence[Query], filtered: frozenset[str]) -> None:
        self.queries = queries
        self.benchmark = np.array([q.benchmark for q in queries])
        self.cluster = np.array([q.cluster for q in queries])
        self.options: Ints = np.array([len(q.options) for q in queries])
        self.right: Ints = np.array([q.options.index(q.answer) for q in queries])
        self.filtered: Bools = np.array([q.benchmark in filtered for q in queries])

    def groups(self) -> dict[str, Bools]:
        """Rows of each benchmark."""
        return {str(name): self.benchmark == name for name in np.unique(self.benchmark)}


@dataclass(frozen=True)
class Hits:
    """Of n `draws` a query: how many gave the right option [N], how many each wrong one [N, K], NONE where there is none."""

    right: Ints
    wrong: Ints
    draws: int

    @property
    def unsolved(self) -> Bools:
        return 2 * self.right <= self.draws


def count(audited: Audited, answers: Ints) -> Hits:
    """`answers` [N, n]: index of the option that each draw gave, NONE for no answer."""
    places = np.arange(audited.options.max())
    given = (answers[:, :, None] == places).sum(axis=1)
    wrong = (places < audited.options[:, None]) & (places != audited.right[:, None])
    return Hits(given[np.arange(len(given)), audited.right], np.where(wrong, given, NONE), answers.shape[1])


@dataclass(frozen=True)
class Rule:
    """What holds for the `rows` [N] of one benchmark with K `options`: remove at `hits` of `draws` (None: remove nothing).

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
    """One rule for each benchmark and number of options. A benchmark that is kept whole gets no `hits`."""
    found = []
    n = hits.draws
    for options in np.unique(audited.options).tolist():
        binomial = np.array([stats.binomial_tail(n, k, 1 / options) for k in range(n + 1)])
        for filtered in (True, False):
            pool = (audited.options == options) & (audited.filtered == filtered)
            one_more = 1 / (options - 1)
            pooled = _false_hits(hits, pool, options) + one_more
            pooled /= pooled[0]
            for benchmark, own in audited.groups().items():
                rows = own & pool
                if not rows.any():
                    continue
                counted = _false_hits(hits, rows, options)
                null = (counted + PRIOR * pooled) / (counted[0] + PRIOR)
                reached = (hits.right[rows, None] >= np.arange(n + 1)).sum(axis=0)
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


def repeated(audited: Audited, hits: Hits, found: Sequence[Rule], config: CleanConfig) -> list[Verdict]:
    """Verdicts by k of n; a query short of k that guessing rarely reaches is undecided: kept, and flagged."""
    verdicts = []
    for rule in found:
        for row in np.flatnonzero(rule.rows).tolist():
            got = int(hits.right[row])
            null = float(rule.null[got])
            if not audited.filtered[row]:
                label = Label.kept_whole
            elif rule.hits is not None and got >= rule.hits:
                label = Label.solvable
            else:
                label = Label.undecided if null <= config.undecided else Label.not_solvable
            verdicts.append(_verdict(audited.queries[row], label, got, rule.draws, null, float(rule.binomial[got])))
    return verdicts


def single_pass(audited: Audited, answers: Ints, found: Sequence[Rule]) -> list[Verdict]:
    """Verdicts by draw 0 alone. Its null is the measured chance that one draw of an unsolvable query is right."""
    right = answers[:, 0] == audited.right
    verdicts = []
    for rule in found:
        chance = float(rule.null[1:].sum()) / rule.draws  # the sum of a tail is the mean count
        for row in np.flatnonzero(rule.rows).tolist():
            hit = bool(right[row])
            label = Label.kept_whole if not audited.filtered[row] else Label.solvable if hit else Label.not_solvable
            null, binomial = (chance, 1 / rule.options) if hit else (1.0, 1.0)
            verdicts.append(_verdict(audited.queries[row], label, int(hit), 1, null, binomial))
    return verdicts


def _verdict(query: Query, label: Label, hits: int, draws: int, null: float, binomial: float) -> Verdict:
    # Six digits: the content hash must not hang on the last bit of a machine's arithmetic.
    null, binomial = round(null, 6), round(binomial, 6)
    return Verdict(benchmark=query.benchmark, id=query.id, label=label, hits=hits, draws=draws, null=null, binomial=binomial)


def manifest(policy: Policy, probe: str, profile_hash: str, verdicts: Sequence[Verdict]) -> Manifest:
    """Verdicts in the order of their keys, with the hash of policy and verdicts."""
    ordered = tuple(sorted(verdicts, key=lambda v: (v.benchmark, v.id)))
    content = digest({"policy": policy, "verdicts": [v.model_dump(mode="json") for v in ordered]})
    return Manifest(policy=policy, probe=probe, profile_hash=profile_hash, verdicts=ordered, content_hash=content)


def leakage(audited: Audited, by_view: Mapping[View, Hits]) -> dict[str, dict[str, dict[str, Estimate | float]]]:
    """By benchmark and view: the mean hit rate over draws, the chance level (mean of 1/K), and the hit rate corrected for it."""
    table: dict[str, dict[str, dict[str, Estimate | float]]] = {}
    for benchmark, rows in audited.groups().items():
        cluster = audited.cluster[rows].tolist()
        chance = float((1 / audited.options[rows]).mean())
        for view, hits in by_view.items():
            rate = hits.right[rows] / hits.draws
            table.setdefault(benchmark, {})[view.value] = {
                "solved": stats.mean(rate, cluster),
                "chance": chance,
                "corrected": stats.chance_corrected({benchmark: (rate, cluster)}, {benchmark: chance}),
            }
    return table


def null_shares(audited: Audited, hits: Hits) -> dict[str, list[float]]:
    """Shares [n + 1] of the pairs (unsolved query of a filtered benchmark, wrong option) drawn exactly k times, and what
    independent guesses among the options would give."""
    rows = audited.filtered & hits.unsolved
    wrong = hits.wrong[rows]
    pairs = np.bincount(wrong[wrong != NONE], minlength=hits.draws + 1)
    binomial = np.zeros(hits.draws + 1)
    for options, queries in zip(*np.unique(audited.options[rows], return_counts=True), strict=True):
        tail = [stats.binomial_tail(hits.draws, k, 1 / int(options)) for k in range(hits.draws + 2)]
        binomial -= np.diff(tail) * queries * (options - 1)
    total = max(1, int(pairs.sum()))
    return {"hits": (pairs / total).tolist(), "binomial": (binomial / total).tolist()}


def residual(audited: Audited, second: Hits, kept: Bools) -> dict[str, Estimate] | None:
    """What a second probe still hits on the `kept` [N] queries, its measured baseline, and the paired excess; None where
    nothing was kept.

    The baseline is the hit rate of a wrong option of the same queries, not 1/K: many answers are none of the options.
    """
    if not kept.any():
        return None
    cluster = audited.cluster[kept].tolist()
    hit = second.right[kept] / second.draws
    wrong = np.maximum(0, second.wrong[kept]).sum(axis=1)
    baseline = wrong / (second.draws * (audited.options[kept] - 1))
    return {
        "hit": stats.mean(hit, cluster),
        "baseline": stats.mean(baseline, cluster),
        "excess": stats.paired(hit, baseline, cluster),
    }
