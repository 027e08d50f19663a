"""Measure whole benchmarks: leakage, the null, and what a second probe hits after cleaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from omnicore.audit.draws import (
    FAILED,
    NONE,
    TRUNCATED,
    UNREADABLE,
    Bools,
    Floats,
    HitCounts,
    Ints,
    QueryArrays,
)
from omnicore.schema import Estimate, View
from omnicore.scoring import stats

REPEATS = 200  # random removals that the control averages over

LeakageByView = dict[str, dict[str, Estimate | float]]


def measure_leakage(
    arrays: QueryArrays, by_view: Mapping[View, HitCounts], groups: Mapping[str, Bools]
) -> dict[str, LeakageByView]:
    """Measure the hit rate by group and view: raw, the chance level, and corrected for it.

    Draws that failed, were truncated or could not be read are not misses: a query's rate is over
    its answered draws. A query without any is left out, and so is a view without any.

    Args:
        arrays: The N queries.
        by_view: Hits under each view.
        groups: Rows [N] of each named group.

    Returns:
        By group and view: `solved`, the mean hit rate over draws; `chance`, the mean over queries;
        `corrected`, the hit rate corrected for chance.
    """
    table: dict[str, LeakageByView] = {}
    for name, members in groups.items():
        table[name] = {}
        for view, hits in by_view.items():
            rows = members & (hits.answered > 0)
            if not rows.any():
                continue
            clusters = arrays.cluster[rows].tolist()
            chance = float(arrays.chance[rows].mean())
            rate = hits.right[rows] / hits.answered[rows]
            table[name][view.value] = {
                "solved": stats.mean(rate, clusters),
                "chance": chance,
                "corrected": stats.chance_corrected({name: (rate, clusters)}, {name: chance}),
            }
    return table


def count_replies(
    arrays: QueryArrays, by_view: Mapping[View, Ints]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count draws and their fates by benchmark and view.

    Args:
        arrays: The N queries.
        by_view: Answers [N, n] under each view.

    Returns:
        By benchmark and view: `draws` in all; `failed` permanently; `truncated` by their length
        limit; `no_answer` that can be read; and, for queries with options, an answer `outside`
        them, which is wrong.
    """
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, rows in arrays.rows_by_benchmark().items():
        counts[name] = {
            view.value: _count_fates(arrays, answers, rows) for view, answers in by_view.items()
        }
    return counts


def _count_fates(arrays: QueryArrays, answers: Ints, rows: Bools) -> dict[str, int]:
    counts = {"draws": int(rows.sum()) * answers.shape[1]}
    codes = {"failed": FAILED, "truncated": TRUNCATED, "no_answer": UNREADABLE}
    for name, code in codes.items():
        counts[name] = int((answers[rows] == code).sum())
    counts["outside"] = int((answers[rows & (arrays.options > 0)] == NONE).sum())
    return counts


def unreadable_shares(arrays: QueryArrays, visual: HitCounts) -> dict[str, float]:
    """Return the share of each filtered benchmark's replies that were truncated or unreadable."""
    shares = {}
    for name, members in arrays.rows_by_benchmark().items():
        rows = members & arrays.filtered
        replies = int((visual.answered + visual.unreadable)[rows].sum())
        if replies:
            shares[name] = round(int(visual.unreadable[rows].sum()) / replies, 6)
    return shares


def null_shares(arrays: QueryArrays, hits: HitCounts) -> dict[str, list[float]]:
    """Measure how often a wrong option is drawn exactly k times, k = 0..n.

    Returns:
        `hits`, shares [n + 1] of the pairs (unsolved query of a filtered benchmark, wrong option),
        and `binomial`, the shares that independent guesses among the options would give.
    """
    rows = arrays.filtered & hits.unsolved
    wrong = hits.wrong[rows]
    pairs = np.bincount(wrong[wrong != NONE], minlength=hits.draws + 1)
    binomial = np.zeros(hits.draws + 1)
    for options, queries in zip(*np.unique(arrays.options[rows], return_counts=True), strict=True):
        tail = [stats.binomial_tail(hits.draws, k, 1 / int(options)) for k in range(hits.draws + 2)]
        binomial -= np.diff(tail) * queries * (options - 1)
    total = max(1, int(pairs.sum()))
    return {"hits": (pairs / total).tolist(), "binomial": (binomial / total).tolist()}


def _hit_rates(arrays: QueryArrays, second: HitCounts) -> tuple[Floats, Floats, Bools]:
    """Return the hit rate, its baseline and whether both are known, each [N].

    The baseline is the hit rate of a wrong option of the same query. 1/K would be too high, since
    many answers are none of the options.
    """
    known = second.complete & (second.answered > 0) & (arrays.options > 0)
    wrong = np.maximum(0, second.wrong).sum(axis=1)
    draws = np.maximum(1, second.answered)
    return second.right / draws, wrong / (draws * np.maximum(1, arrays.options - 1)), known


def residual_leakage(
    arrays: QueryArrays, second: HitCounts, kept: Bools
) -> dict[str, Estimate] | None:
    """Measure what a second probe still hits on the `kept` [N] queries.

    Queries without a single right option have no baseline and are left out.

    Returns:
        `hit`, the hit rate; `baseline`, that of a wrong option; `excess`, their paired difference.
        None where nothing was kept.
    """
    hit, baseline, known = _hit_rates(arrays, second)
    rows = kept & known
    if not rows.any():
        return None
    clusters = arrays.cluster[rows].tolist()
    return {
        "hit": stats.mean(hit[rows], clusters),
        "baseline": stats.mean(baseline[rows], clusters),
        "excess": stats.paired_difference(hit[rows], baseline[rows], clusters),
    }


def random_removal(
    arrays: QueryArrays, second: HitCounts, kept: Bools, seed: int
) -> dict[str, Any] | None:
    """Measure the residual had as many queries of each benchmark been removed at random.

    A residual that is not lower than this shows that the audit removed no better than chance.

    Returns:
        `hit` and `excess`, each the mean over `REPEATS` random removals and the range of 95 % of
        them. None where random removal would also leave nothing to measure.
    """
    hit, baseline, known = _hit_rates(arrays, second)
    measured = np.stack([known * hit, known * (hit - baseline), known.astype(float)])
    left = np.repeat(measured.sum(axis=1)[:, None], REPEATS, axis=1)
    rng = np.random.default_rng(seed)
    for rows in arrays.rows_by_benchmark().values():
        candidates = np.flatnonzero(rows & arrays.filtered)
        removed = int((rows & ~kept).sum())
        if removed:
            shuffled = rng.random((REPEATS, candidates.size)).argpartition(removed - 1, axis=1)
            chosen = candidates[shuffled[:, :removed]]
            left -= measured[:, chosen].sum(axis=2)
    if (left[2] < 1).any():
        return None
    return {
        "hit": _range_of(left[0] / left[2]),
        "excess": _range_of(left[1] / left[2]),
        "removed": int((~kept).sum()),
        "repeats": REPEATS,
    }


def _range_of(values: Floats) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return {"mean": float(values.mean()), "low": low, "high": high}
