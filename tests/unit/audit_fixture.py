"""Simulated probes on generated benchmarks with planted solvable queries, and what the audit makes
of them."""

import numpy as np

from omnicore import audit
from omnicore.config import CleanConfig
from omnicore.schema import Label, Query

N = 8


def make_queries(benchmark, count, options=4, right=0):
    texts = tuple(f"o{i}" for i in range(options))
    shared = {
        "benchmark": benchmark,
        "type": "t",
        "question": "?",
        "options": texts,
        "answer": texts[right],
    }
    return [Query(id=f"{i:05d}", cluster=f"{benchmark}-{i // 2}", **shared) for i in range(count)]


def simulate(rng, solvable, favourite, options=4, draws=N, accuracy=0.95, outside=1 / 3):
    """Answers [N, n] of a probe to queries whose right option is 0.

    What it cannot see it guesses: `outside` of its guesses are none of the options; of the others `favourite` fall on the one option that it prefers in this query, the rest elsewhere
    (None: every guess is anew).
    """
    shape = (len(solvable), draws)
    preferred = rng.integers(options, size=(len(solvable), 1))
    guess = (preferred + rng.integers(1, options, shape)) % options
    guess = (
        rng.integers(options, size=shape)
        if favourite is None
        else np.where(rng.random(shape) < favourite, preferred, guess)
    )
    guess = np.where(rng.random(shape) < outside, audit.NONE, guess)
    seen = np.where(rng.random(shape) < accuracy, 0, rng.integers(1, options, shape))
    return np.where(np.asarray(solvable)[:, None], seen, guess)


def judge(queries, answers, filtered=None, **config):
    """The rules and the verdicts of both policies."""
    config = CleanConfig(**config)
    audited = audit.QueryArrays(
        queries, frozenset({q.benchmark for q in queries} if filtered is None else filtered)
    )
    hits = audit.count_hits(audited, answers)
    rules = audit.fit_rules(audited, hits, config)
    return (
        rules,
        audit.repeated_verdicts(audited, hits, rules, config),
        audit.single_pass_verdicts(audited, answers, rules),
    )


def quality(queries, solvable, verdicts):
    """(precision, recall, share of clean queries lost)."""
    removed = {(v.benchmark, v.id) for v in verdicts if v.label is Label.solvable}
    out, true = np.array([q.key in removed for q in queries]), np.asarray(solvable)
    return (
        (out & true).sum() / out.sum(),
        (out & true).sum() / true.sum(),
        (out & ~true).sum() / (~true).sum(),
    )
