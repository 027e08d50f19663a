"""The rule: what it removes of planted solvable queries, and whether its null is true."""

import numpy as np
import pytest

from omnicore import audit
from omnicore.schema import Label
from omnicore.scoring.stats import binomial_tail
from tests.cases import slow
from tests.unit.audit_fixture import N, judge, make_queries, quality, simulate

# Shares of solvable queries and the probe that guesses at the rest: anew each time among the options; or repeating itself, so
# that it is right 6 times of 8 on 1.25 % of what nobody can solve, three times the binomial.
GUESSERS = {"independent": (None, 0.0), "repeating": (0.6, 1 / 3)}
PLANTED = [
    *[("independent", share) for share in (0.3, 0.5, 0.7, 0.9)],
    *[("repeating", share) for share in (0.5, 0.7, 0.9)],
]


def planted(guesser, share, seed, draws=N, size=2000):
    """A benchmark with planted solvable queries and the probe's answers to it."""
    favourite, outside = GUESSERS[guesser]
    solvable = np.arange(size) < share * size
    return (
        make_queries("b", size),
        solvable,
        simulate(np.random.default_rng(seed), solvable, favourite, draws=draws, outside=outside),
    )


@pytest.mark.parametrize(("guesser", "share"), PLANTED)
@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 10))])
def test_planted_truth(guesser, share, seed):
    """The default bounds at n = 8, K = 4 and 95 % accuracy on what can be seen; a single pass beside it."""
    queries, solvable, answers = planted(guesser, share, seed)
    _, repeated, single = judge(queries, answers)
    precision, recall, lost = quality(queries, solvable, repeated)
    assert precision >= 0.98
    assert recall >= 0.95
    assert lost <= 0.05
    single_precision, _, single_lost = quality(queries, solvable, single)
    assert single_precision < precision
    assert single_lost > max(0.1, 3 * lost)


@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 3))])
def test_repeating_probe_needs_more_draws_where_few_are_solvable(seed):
    """At a share of 0.3 no k of 8 gives both precision and recall, and the rule gives up recall; 12
    draws give both."""
    queries, solvable, answers = planted("repeating", 0.3, seed)
    precision, recall, _ = quality(queries, solvable, judge(queries, answers)[1])
    assert precision >= 0.98
    assert 0.9 < recall < 0.95, "0.95 ** 8 + 8 * 0.95 ** 7 * 0.05 reach 7 of 8"
    queries, solvable, answers = planted("repeating", 0.3, seed, draws=12)
    precision, recall, _ = quality(queries, solvable, judge(queries, answers)[1])
    assert precision >= 0.98
    assert recall >= 0.95


@pytest.mark.parametrize("favourite", [None, 0.6])
@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 5))])
def test_small_benchmarks(favourite, seed):
    queries, solvable = [], []
    for share in (0, 0.1, 0.5, 0.9):
        queries += make_queries(f"b{share}", 120)
        solvable += [i < share * 120 for i in range(120)]
    rules, repeated, _ = judge(queries, simulate(np.random.default_rng(seed), solvable, favourite))
    precision, recall, lost = quality(queries, solvable, repeated)
    assert precision >= 0.96
    assert recall >= 0.9
    assert lost <= 0.03
    assert {r.benchmark: r.hits for r in rules}["b0"] is None, (
        "a benchmark that nobody can solve loses nothing"
    )


@pytest.mark.parametrize("favourite", [None, 0.4, 0.6, 0.9])
def test_measured_null_is_true_where_the_binomial_is_not(favourite):
    queries, solvable = make_queries("b", 6000), np.arange(6000) < 2000
    answers = simulate(np.random.default_rng(5), solvable, favourite)
    (rule,), _, _ = judge(queries, answers)
    often, rarely = (
        (1 / 6, 1 / 6) if favourite is None else (favourite * 2 / 3, (1 - favourite) * 2 / 9)
    )
    true = [
        binomial_tail(N, k, often) / 4 + binomial_tail(N, k, rarely) * 3 / 4 for k in range(N + 1)
    ]
    assert rule.null == pytest.approx(true, rel=0.1, abs=0.003)
    assert rule.binomial[6] == pytest.approx(0.00423, abs=1e-5)
    if favourite and favourite > 0.5:
        assert rule.null[6] > 2 * rule.binomial[6]


@pytest.mark.parametrize("share", [slow(0.1), 0.3, slow(0.6)])
def test_false_removals_stay_below_the_bound_on_average(share):
    """Over many small audits of a probe that repeats itself, unsolvable queries are at most max_fdr
    of the removed."""
    out = wrong = 0
    for seed in range(40):
        queries, solvable = [], []
        for i in range(4):
            queries += make_queries(f"b{i}", 100)
            solvable += [j < share * 100 for j in range(100)]
        _, verdicts, _ = judge(
            queries, simulate(np.random.default_rng(seed), solvable, 0.8), max_fdr=0.05
        )
        labels = {(v.benchmark, v.id): v.label for v in verdicts}
        removed = np.array([labels[q.key] is Label.solvable for q in queries])
        out += removed.sum()
        wrong += (removed & ~np.array(solvable)).sum()
    assert out > 0
    assert wrong / out <= 0.05


def test_lost_clean_queries_are_bounded_at_high_solvable_share():
    """Among 95 % solvable queries any k keeps the false discovery rate low; the second bound still
    protects the rest."""
    queries, solvable = make_queries("b", 4000), np.arange(4000) < 3800
    (rule,), verdicts, _ = judge(
        queries, simulate(np.random.default_rng(0), solvable, 0.8), max_fdr=0.04
    )
    lowest = next(k for k in range(5, N + 1) if rule.fdr[k] <= 0.04)
    assert rule.hits is not None
    assert rule.hits > lowest
    assert quality(queries, solvable, verdicts)[2] <= 0.06


def test_a_small_benchmark_borrows_the_null_of_the_others():
    """Ten solved and ten unsolved queries with no wrong option drawn often: alone that looks like a
    probe that never repeats a guess."""
    small, large = make_queries("small", 20), make_queries("large", 2000)
    rng = np.random.default_rng(0)
    quiet = np.tile(np.arange(N) % 4, (10, 1))
    answers = np.vstack([np.zeros((10, N), int), quiet, simulate(rng, np.zeros(2000, bool), 0.9)])
    rules, _, _ = judge([*small, *large], answers)
    borrowed = next(r for r in rules if r.benchmark == "small")
    alone = judge(small, answers[:20])[0][0]
    assert borrowed.null[6] > 0.8 * next(r for r in rules if r.benchmark == "large").null[6]
    assert alone.null[6] < 0.5 * borrowed.null[6]


def test_an_empty_tail_is_no_proof_of_none():
    (rule,), _, _ = judge(make_queries("b", 40), np.tile(np.arange(N) % 4, (40, 1)))
    # A bound for none among 120 wrong options, far above the binomial's 1.5e-5.
    assert rule.null[N] == pytest.approx(0.00765, rel=1e-3)


def test_thresholds_are_of_one_number_of_options():
    """Two-option queries of the same benchmark get a rule of their own: a guesser there is right
    half the time."""
    two, six = make_queries("b", 300, options=2), make_queries("b", 300, options=6)
    two = [q.model_copy(update={"id": f"two-{q.id}"}) for q in two]
    rng = np.random.default_rng(2)
    solvable = np.arange(300) < 150
    answers = np.vstack(
        [simulate(rng, solvable, 0.7, options=2), simulate(rng, solvable, 0.7, options=6)]
    )
    rules, verdicts, _ = judge([*two, *six], answers, max_fdr=0.05)
    found = {r.options: r for r in rules}
    assert found[2].null[6] > 2 * found[6].null[6]
    assert found[2].hits is None or found[2].hits > found[6].hits
    assert found[6].binomial[1] == pytest.approx(binomial_tail(N, 1, 1 / 6))
    assert quality([*two, *six], np.concatenate([solvable, solvable]), verdicts)[0] >= 0.96


def test_where_the_right_option_stands_does_not_matter():
    """The null counts options by what they are, not by place."""
    rng = np.random.default_rng(4)
    solvable = np.arange(400) < 200
    answers = simulate(rng, solvable, 0.6)
    first = judge(make_queries("b", 400, right=0), answers)
    moved = judge(
        make_queries("b", 400, right=2), np.where(answers == audit.NONE, answers, (answers + 2) % 4)
    )
    assert [v.label for v in first[1]] == [v.label for v in moved[1]]
    assert first[0][0].null == pytest.approx(moved[0][0].null)


def test_without_a_threshold_lucky_queries_are_undecided():
    queries = make_queries("b", 300)
    answers = simulate(np.random.default_rng(3), np.zeros(300, bool), 0.95)
    (rule,), verdicts, _ = judge(queries, answers)
    assert rule.hits is None
    assert rule.to_record()["hits"] is None
    assert rule.to_record()["fdr"] > 0.03
    assert {v.label for v in verdicts} <= {Label.undecided, Label.not_solvable}
    assert all(v.label is Label.undecided for v in verdicts if v.hits == N)


@pytest.mark.parametrize("draws", [1, 2, 3, 12])
def test_any_number_of_draws(draws):
    queries, solvable = make_queries("b", 1000), np.arange(1000) < 500
    (rule,), verdicts, _ = judge(
        queries, simulate(np.random.default_rng(0), solvable, None, draws=draws)
    )
    assert len(rule.null) == draws + 1
    assert (np.diff(rule.null) <= 1e-12).all()
    assert rule.hits is None or rule.hits > draws / 2
    if draws >= 3:
        assert quality(queries, solvable, verdicts)[0] >= 0.96
    if draws == 1:
        assert rule.hits is None, "one draw cannot tell a guess from sight"
