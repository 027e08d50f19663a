"""What the draws say of whole benchmarks: leakage, the null in figures, and what a second probe
still hits after cleaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from omnicore.audit.draws import CUT, FAILED, NONE, UNREAD, Audited, Bools, Floats, Hits, Ints
from omnicore.schema import Estimate, View
from omnicore.scoring import stats

REPEATS = 200  # random removals that the control is made of

Leaks = dict[str, dict[str, Estimate | float]]


def leakage(
    audited: Audited, by_view: Mapping[View, Hits], groups: Mapping[str, Bools]
) -> dict[str, Leaks]:
    """By group and view: the mean hit rate over draws, the chance level (mean over queries), and
    the hit rate corrected for it.

    `groups` names rows [N]. Draws that failed, were cut or could not be read are no misses: a
    query's rate is over those with an answer, and a query without one is left out, as is a view
    under which nothing was answered.
    """
    table: dict[str, Leaks] = {}
    for name, members in groups.items():
        table[name] = {}
        for view, hits in by_view.items():
            rows = members & (hits.answered > 0)
            if not rows.any():
                continue
            cluster = audited.cluster[rows].tolist()
            chance = float(audited.chance[rows].mean())
            rate = hits.right[rows] / hits.answered[rows]
            table[name][view.value] = {
                "solved": stats.mean(rate, cluster),
                "chance": chance,
                "corrected": stats.chance_corrected({name: (rate, cluster)}, {name: chance}),
            }
    return table


def replies(audited: Audited, by_view: Mapping[View, Ints]) -> dict[str, dict[str, dict[str, int]]]:
    """Count, by benchmark and view, the draws and what became of them.

    `by_view` holds answers [N, n].     `failed` permanently, `truncated` by their length limit,
    with `no_answer` that can be read, and, of queries with options, with     an answer that is
    `outside` them, which is a wrong one.
    """
    return {
        name: {view.value: _fates(audited, answers, rows) for view, answers in by_view.items()}
        for name, rows in audited.groups().items()
    }


def _fates(audited: Audited, answers: Ints, rows: Bools) -> dict[str, int]:
    codes = {"failed": FAILED, "truncated": CUT, "no_answer": UNREAD}
    counts = {name: int((answers[rows] == code).sum()) for name, code in codes.items()}
    outside = int((answers[rows & (audited.options > 0)] == NONE).sum())
    return {"draws": int(rows.sum()) * answers.shape[1], **counts, "outside": outside}


def unread(audited: Audited, visual: Hits) -> dict[str, float]:
    """Return the share of each filtered benchmark's draws that were cut or cannot be read."""
    shares = {}
    for name, members in audited.groups().items():
        rows = members & audited.filtered
        replies = int((visual.answered + visual.unread)[rows].sum())
        if replies:
            shares[name] = round(int(visual.unread[rows].sum()) / replies, 6)
    return shares


def null_shares(audited: Audited, hits: Hits) -> dict[str, list[float]]:
    """Shares [n + 1] of the pairs (unsolved query of a filtered benchmark, wrong option) drawn
    exactly k times, and what independent guesses among the options would give."""
    rows = audited.filtered & hits.unsolved
    wrong = hits.wrong[rows]
    pairs = np.bincount(wrong[wrong != NONE], minlength=hits.draws + 1)
    binomial = np.zeros(hits.draws + 1)
    for options, queries in zip(*np.unique(audited.options[rows], return_counts=True), strict=True):
        tail = [stats.binomial_tail(hits.draws, k, 1 / int(options)) for k in range(hits.draws + 2)]
        binomial -= np.diff(tail) * queries * (options - 1)
    total = max(1, int(pairs.sum()))
    return {"hits": (pairs / total).tolist(), "binomial": (binomial / total).tolist()}


def _rates(audited: Audited, second: Hits) -> tuple[Floats, Floats, Bools]:
    """Hit rate, its baseline and whether both are known [N].

    The baseline is the hit rate of a wrong option of the same query, not 1/K: many answers are none
    of the options.
    """
    known = second.complete & (second.answered > 0) & (audited.options > 0)
    wrong = np.maximum(0, second.wrong).sum(axis=1)
    draws = np.maximum(1, second.answered)
    return second.right / draws, wrong / (draws * np.maximum(1, audited.options - 1)), known


def residual(audited: Audited, second: Hits, kept: Bools) -> dict[str, Estimate] | None:
    """What a second probe still hits on the `kept` [N] queries, its measured baseline, and the
    paired excess; None where nothing was kept.

    Queries without a single right option have no baseline and stay out.
    """
    hit, baseline, known = _rates(audited, second)
    rows = kept & known
    if not rows.any():
        return None
    cluster = audited.cluster[rows].tolist()
    return {
        "hit": stats.mean(hit[rows], cluster),
        "baseline": stats.mean(baseline[rows], cluster),
        "excess": stats.paired(hit[rows], baseline[rows], cluster),
    }


def control(audited: Audited, second: Hits, kept: Bools, seed: int) -> dict[str, Any] | None:
    """What a second probe would hit had as many queries of each benchmark been removed at random:
    mean over `REPEATS` removals, and the range of 95 % of them. None where random removal, too,
    would leave nothing to measure.

    A residual no lower than this says that the audit removed no better than chance.
    """
    hit, baseline, known = _rates(audited, second)
    measured = np.stack([known * hit, known * (hit - baseline), known.astype(float)])
    left = np.repeat(measured.sum(axis=1)[:, None], REPEATS, axis=1)
    rng = np.random.default_rng(seed)
    for rows in audited.groups().values():
        candidates = np.flatnonzero(rows & audited.filtered)
        if removed := int((rows & ~kept).sum()):
            drawn = rng.random((REPEATS, candidates.size)).argpartition(removed - 1, axis=1)[
                :, :removed
            ]
            left -= measured[:, candidates[drawn]].sum(axis=2)
    if (left[2] < 1).any():
        return None
    figures = {}
    for name, values in (("hit", left[0] / left[2]), ("excess", left[1] / left[2])):
        low, high = np.quantile(values, [0.025, 0.975]).tolist()
        figures[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return {**figures, "removed": int((~kept).sum()), "repeats": REPEATS}
