"""Simulated probes on generated benchmarks with planted solvable queries: what each rule removes, and whether its null is true."""

import numpy as np
import pytest

from omnicore import audit
from omnicore.config import CleanConfig
from omnicore.schema import Label, Query, View
from omnicore.stats import binomial_tail

N = 8


def make_queries(benchmark, count, options=4, right=0):
    texts = tuple(f"o{i}" for i in range(options))
    shared = {"benchmark": benchmark, "type": "t", "question": "?", "options": texts, "answer": texts[right]}
    return [Query(id=f"{i:05d}", cluster=f"{benchmark}-{i // 2}", **shared) for i in range(count)]


def simulate(rng, solvable, favourite, options=4, draws=N, accuracy=0.95):
    """Answers [N, n] of a probe to queries whose right option is 0. What it cannot see it guesses: a third of its guesses are
    none of the options; of the others `favourite` fall on the one option that it prefers in this query, the rest elsewhere
    (None: every guess is anew)."""
    shape = (len(solvable), draws)
    preferred = rng.integers(options, size=(len(solvable), 1))
    guess = (preferred + rng.integers(1, options, shape)) % options
    guess = rng.integers(options, size=shape) if favourite is None else np.where(rng.random(shape) < favourite, preferred, guess)
    guess = np.where(rng.random(shape) < 1 / 3, audit.NONE, guess)
    seen = np.where(rng.random(shape) < accuracy, 0, rng.integers(1, options, shape))
    return np.where(np.asarray(solvable)[:, None], seen, guess)


def judge(queries, answers, filtered=None, **config):
    """The rules and the verdicts of both policies."""
    config = CleanConfig(**config)
    audited = audit.Audited(queries, frozenset({q.benchmark for q in queries} if filtered is None else filtered))
    hits = audit.count(audited, answers)
    rules = audit.rules(audited, hits, config)
    return rules, audit.repeated(audited, hits, rules, config), audit.single_pass(audited, answers, rules)


def quality(queries, solvable, verdicts):
    """(precision, recall, share of clean queries lost)."""
    removed = {(v.benchmark, v.id) for v in verdicts if v.label is Label.solvable}
    out, true = np.array([q.key in removed for q in queries]), np.asarray(solvable)
    return (out & true).sum() / out.sum(), (out & true).sum() / true.sum(), (out & ~true).sum() / (~true).sum()


@pytest.mark.parametrize("favourite", [None, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_large_benchmark(favourite, seed):
    queries, solvable = make_queries("b", 2000), np.arange(2000) < 1000
    _, repeated, single = judge(queries, simulate(np.random.default_rng(seed), solvable, favourite))
    precision, recall, lost = quality(queries, solvable, repeated)
    assert precision >= 0.98
    assert recall >= 0.95
    assert lost <= 0.02
    precision, _, lost = quality(queries, solvable, single)
    assert precision < 0.9
    assert lost > 0.1


@pytest.mark.parametrize("favourite", [None, 0.6])
@pytest.mark.parametrize("seed", range(5))
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
    assert {r.benchmark: r.hits for r in rules}["b0"] is None, "a benchmark that nobody can solve loses nothing"


@pytest.mark.parametrize("favourite", [None, 0.4, 0.6, 0.9])
def test_measured_null_is_true_where_the_binomial_is_not(favourite):
    queries, solvable = make_queries("b", 6000), np.arange(6000) < 2000
    answers = simulate(np.random.default_rng(5), solvable, favourite)
    (rule,), _, _ = judge(queries, answers)
    often, rarely = (1 / 6, 1 / 6) if favourite is None else (favourite * 2 / 3, (1 - favourite) * 2 / 9)
    true = [binomial_tail(N, k, often) / 4 + binomial_tail(N, k, rarely) * 3 / 4 for k in range(N + 1)]
    assert rule.null == pytest.approx(true, rel=0.1, abs=0.003)
    assert rule.binomial[6] == pytest.approx(0.00423, abs=1e-5)
    if favourite and favourite > 0.5:
        assert rule.null[6] > 2 * rule.binomial[6]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_false_removals_stay_below_the_bound_on_average(share):
    """Over many small audits of a probe that repeats itself, unsolvable queries are at most max_fdr of the removed."""
    out = wrong = 0
    for seed in range(40):
        queries, solvable = [], []
        for i in range(4):
            queries += make_queries(f"b{i}", 100)
            solvable += [j < share * 100 for j in range(100)]
        _, verdicts, _ = judge(queries, simulate(np.random.default_rng(seed), solvable, 0.8), max_fdr=0.05)
        labels = {(v.benchmark, v.id): v.label for v in verdicts}
        removed = np.array([labels[q.key] is Label.solvable for q in queries])
        out += removed.sum()
        wrong += (removed & ~np.array(solvable)).sum()
    assert out > 0
    assert wrong / out <= 0.05


def test_clean_queries_lost_are_bounded_where_nearly_all_is_solvable():
    """Among 95 % solvable queries any k keeps the false discovery rate low; the second bound still protects the rest."""
    queries, solvable = make_queries("b", 4000), np.arange(4000) < 3800
    (rule,), verdicts, _ = judge(queries, simulate(np.random.default_rng(0), solvable, 0.8), max_fdr=0.04)
    lowest = next(k for k in range(5, N + 1) if rule.fdr[k] <= 0.04)
    assert rule.hits is not None
    assert rule.hits > lowest
    assert quality(queries, solvable, verdicts)[2] <= 0.06


def test_a_small_benchmark_borrows_the_null_of_the_others():
    """Ten solved and ten unsolved queries with no wrong option drawn often: alone that looks like a probe that never
    repeats a guess."""
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
    assert rule.null[N] > 0


def test_thresholds_are_of_one_number_of_options():
    """Two-option queries of the same benchmark get a rule of their own: a guesser there is right half the time."""
    two, six = make_queries("b", 300, options=2), make_queries("b", 300, options=6)
    two = [q.model_copy(update={"id": f"two-{q.id}"}) for q in two]
    rng = np.random.default_rng(2)
    solvable = np.arange(300) < 150
    answers = np.vstack([simulate(rng, solvable, 0.7, options=2), simulate(rng, solvable, 0.7, options=6)])
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
    moved = judge(make_queries("b", 400, right=2), np.where(answers == audit.NONE, answers, (answers + 2) % 4))
    assert [v.label for v in first[1]] == [v.label for v in moved[1]]
    assert first[0][0].null == pytest.approx(moved[0][0].null)


def test_labels():
    """Below the threshold: rare under the null is undecided, else not solvable."""
    solvable = np.arange(1000) < 500
    answers = simulate(np.random.default_rng(1), solvable, None)
    (rule,), verdicts, single = judge(make_queries("b", 1000), answers)
    assert {v.label for v in verdicts} == {Label.solvable, Label.undecided, Label.not_solvable}
    for v, given in zip(verdicts, answers, strict=True):
        assert v.hits == (given == 0).sum()
        assert v.draws == N
        assert v.null == pytest.approx(rule.null[v.hits], abs=1e-6)
        assert v.binomial == pytest.approx(binomial_tail(N, v.hits, 0.25), abs=1e-6)
        rare = v.null <= 0.1
        assert v.label is (Label.solvable if v.hits >= rule.hits else Label.undecided if rare else Label.not_solvable)
        assert v.kept == (v.label is not Label.solvable)
    for v, given in zip(single, answers, strict=True):
        assert (v.hits, v.draws) == (int(given[0] == 0), 1)
        assert v.label is (Label.solvable if given[0] == 0 else Label.not_solvable)
    hit = next(v for v in single if v.hits)
    # A guess is right 1 in 4 times, and a third of them are none of the options.
    assert hit.null == pytest.approx(1 / 6, abs=0.02)
    assert hit.binomial == 0.25


def test_nothing_is_removed_where_no_k_holds_and_lucky_ones_are_flagged():
    queries = make_queries("b", 300)
    answers = simulate(np.random.default_rng(3), np.zeros(300, bool), 0.95)
    (rule,), verdicts, _ = judge(queries, answers)
    assert rule.hits is None
    assert rule.record()["hits"] is None
    assert rule.record()["fdr"] > 0.03
    assert {v.label for v in verdicts} <= {Label.undecided, Label.not_solvable}
    assert all(v.label is Label.undecided for v in verdicts if v.hits == N)


def test_kept_whole_loses_nothing_and_stays_out_of_the_pool():
    """A benchmark kept whole has a probe that always repeats itself: the others' null must not come from it."""
    queries = [*make_queries("a", 500), *make_queries("whole", 500)]
    rng = np.random.default_rng(6)
    solvable = np.arange(500) < 250
    answers = np.vstack([simulate(rng, solvable, None), np.repeat(rng.integers(4, size=(500, 1)), N, axis=1)])
    rules, repeated, single = judge(queries, answers, filtered={"a"})
    by_name = {r.benchmark: r for r in rules}
    assert by_name["whole"].hits is None
    assert by_name["whole"].null[N] > 0.2
    assert by_name["a"].null[6] < 0.01
    for verdicts in (repeated, single):
        assert {v.label for v in verdicts if v.benchmark == "whole"} == {Label.kept_whole}
        assert sum(v.label is Label.solvable for v in verdicts) > 200


@pytest.mark.parametrize("draws", [1, 2, 3, 12])
def test_any_number_of_draws(draws):
    queries, solvable = make_queries("b", 1000), np.arange(1000) < 500
    (rule,), verdicts, _ = judge(queries, simulate(np.random.default_rng(0), solvable, None, draws=draws))
    assert len(rule.null) == draws + 1
    assert (np.diff(rule.null) <= 1e-12).all()
    assert rule.hits is None or rule.hits > draws / 2
    if draws >= 3:
        assert quality(queries, solvable, verdicts)[0] >= 0.96
    if draws == 1:
        assert rule.hits is None, "one draw cannot tell a guess from sight"


def test_content_hash():
    queries = make_queries("b", 200)
    _, verdicts, single = judge(queries, simulate(np.random.default_rng(0), np.arange(200) < 100, None))
    one = audit.manifest("repeated", "probe", "p" * 64, verdicts)
    assert audit.manifest("repeated", "probe", "p" * 64, verdicts[::-1]) == one
    assert audit.manifest("repeated", "other name", "q" * 64, verdicts).content_hash == one.content_hash
    assert audit.manifest("single_pass", "probe", "p" * 64, verdicts).content_hash != one.content_hash
    changed = [verdicts[0].model_copy(update={"label": Label.kept_whole}), *verdicts[1:]]
    assert audit.manifest("repeated", "probe", "p" * 64, changed).content_hash != one.content_hash
    assert len(one.kept()) == sum(v.label is not Label.solvable for v in verdicts)
    assert len(single) == 200


def test_leakage():
    queries = [*make_queries("a", 200), *make_queries("b", 200, options=2)]
    audited = audit.Audited(queries, frozenset({"a", "b"}))
    rng = np.random.default_rng(0)
    seen = np.vstack([simulate(rng, np.arange(200) < 120, None), np.full((200, N), audit.NONE)])
    table = audit.leakage(audited, {View.visual_only: audit.count(audited, seen)}, audited.groups())
    a, b = table["a"]["visual_only"], table["b"]["visual_only"]
    assert a["chance"] == 0.25
    assert b["chance"] == 0.5
    assert a["solved"].value == pytest.approx((seen[:200] == 0).mean())
    assert a["solved"].n == 200
    assert a["corrected"].value == pytest.approx((a["solved"].value - 0.25) / 0.75)
    assert a["solved"].low < a["solved"].value < a["solved"].high
    assert (b["solved"].value, b["corrected"].value) == (0, -1), "answers outside the options are no chance hits"


def test_null_shares():
    queries = make_queries("b", 3000)
    audited = audit.Audited(queries, frozenset({"b"}))
    answers = simulate(np.random.default_rng(0), np.arange(3000) < 1500, 0.8)
    shares = audit.null_shares(audited, audit.count(audited, answers))
    assert len(shares["hits"]) == len(shares["binomial"]) == N + 1
    assert sum(shares["hits"]) == pytest.approx(1)
    assert shares["binomial"] == pytest.approx([binomial_tail(N, k, 0.25) - binomial_tail(N, k + 1, 0.25) for k in range(N + 1)])
    # Far more often than by chance the same wrong option again and again, and far more often never.
    assert sum(shares["hits"][6:]) > 5 * sum(shares["binomial"][6:])


def test_residual_has_its_own_baseline():
    """A second probe that guesses, a third of the time outside the options, is no leak, though it is far from 1/K."""
    queries = make_queries("b", 2000)
    audited = audit.Audited(queries, frozenset({"b"}))
    leaky = np.arange(2000) < 200
    second = audit.count(audited, simulate(np.random.default_rng(0), leaky, 0.6, draws=4))
    clean = audit.residual(audited, second, ~leaky)
    assert clean["hit"].value == pytest.approx(1 / 6, abs=0.02)
    assert clean["baseline"].value == pytest.approx(1 / 6, abs=0.01)
    assert clean["excess"].low < 0 < clean["excess"].high
    everything = audit.residual(audited, second, np.ones(2000, bool))
    assert everything["excess"].low > 0.05
    assert everything["excess"].n == 2000
    assert audit.residual(audited, second, np.zeros(2000, bool)) is None
