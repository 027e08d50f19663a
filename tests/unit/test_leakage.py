"""Figures over benchmarks: leakage, replies, the null, the residual and its random-removal
control."""

import numpy as np
import pytest

from omnicore import audit
from omnicore.schema import View
from omnicore.scoring.stats import binomial_tail
from tests.unit.audit_fixture import N, make_queries, simulate


def test_leakage():
    queries = [*make_queries("a", 200), *make_queries("b", 200, options=2)]
    audited = audit.QueryArrays(queries, frozenset({"a", "b"}))
    rng = np.random.default_rng(0)
    seen = np.vstack([simulate(rng, np.arange(200) < 120, None), np.full((200, N), audit.NONE)])
    table = audit.measure_leakage(
        audited, {View.visual_only: audit.count_hits(audited, seen)}, audited.rows_by_benchmark()
    )
    a, b = table["a"]["visual_only"], table["b"]["visual_only"]
    assert a["chance"] == 0.25
    assert b["chance"] == 0.5
    assert a["solved"].value == pytest.approx((seen[:200] == 0).mean())
    assert a["solved"].n == 200
    assert a["corrected"].value == pytest.approx((a["solved"].value - 0.25) / 0.75)
    assert a["solved"].low < a["solved"].value < a["solved"].high
    assert (b["solved"].value, b["corrected"].value) == (
        0,
        -1,
    ), "answers outside the options are no chance hits"


def test_null_shares():
    queries = make_queries("b", 3000)
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    answers = simulate(np.random.default_rng(0), np.arange(3000) < 1500, 0.8)
    shares = audit.null_shares(audited, audit.count_hits(audited, answers))
    assert len(shares["hits"]) == len(shares["binomial"]) == N + 1
    assert sum(shares["hits"]) == pytest.approx(1)
    assert shares["binomial"] == pytest.approx(
        [binomial_tail(N, k, 0.25) - binomial_tail(N, k + 1, 0.25) for k in range(N + 1)]
    )
    # Far more often than by chance the same wrong option again and again, and far more often never.
    assert sum(shares["hits"][6:]) > 5 * sum(shares["binomial"][6:])


def test_residual_has_its_own_baseline():
    """A second probe that guesses, a third of the time outside the options, is not a leak, though it
    is far from 1/K."""
    queries = make_queries("b", 2000)
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    leaky = np.arange(2000) < 200
    second = audit.count_hits(audited, simulate(np.random.default_rng(0), leaky, 0.6, draws=4))
    clean = audit.residual_leakage(audited, second, ~leaky)
    assert clean["hit"].value == pytest.approx(1 / 6, abs=0.02)
    assert clean["baseline"].value == pytest.approx(1 / 6, abs=0.01)
    assert clean["excess"].low < 0 < clean["excess"].high
    everything = audit.residual_leakage(audited, second, np.ones(2000, bool))
    assert everything["excess"].low > 0.05
    assert everything["excess"].n == 2000
    assert audit.residual_leakage(audited, second, np.zeros(2000, bool)) is None


def test_random_removal_controls_the_residual():
    """Removing the leaky ones leaves less than removing as many at random, which leaves as much as
    was there; within each benchmark, so that a benchmark that leaks all over is not blamed on the
    removal."""
    queries = [*make_queries("a", 1000), *make_queries("b", 1000), *make_queries("whole", 200)]
    audited = audit.QueryArrays(queries, frozenset({"a", "b"}))
    leaky = np.concatenate([np.arange(1000) < 600, np.arange(1000) < 50, np.ones(200, bool)])
    second = audit.count_hits(audited, simulate(np.random.default_rng(0), leaky, 0.6, draws=4))
    kept = ~leaky | (audited.benchmark == "whole")
    found = audit.random_removal(audited, second, kept, seed=0)
    assert (found["removed"], found["repeats"]) == (650, 200)
    rate = second.right / 4
    expected = (rate[:1000].mean() * 400 + rate[1000:2000].mean() * 950 + rate[2000:].sum()) / 1550
    assert found["hit"]["mean"] == pytest.approx(expected, abs=0.003)
    assert 0.005 < found["hit"]["high"] - found["hit"]["low"] < 0.05
    residual = audit.residual_leakage(audited, second, kept)
    assert residual["hit"].value < found["hit"]["low"]
    assert residual["excess"].value < found["excess"]["low"]
    assert audit.random_removal(audited, second, kept, seed=0) == found
    assert audit.random_removal(audited, second, kept, seed=1) != found
    nothing = audit.random_removal(audited, second, np.ones(2200, bool), seed=0)
    assert nothing["hit"]["mean"] == pytest.approx(rate.mean())
    assert nothing["hit"]["low"] == pytest.approx(nothing["hit"]["high"])
    assert (
        audit.random_removal(
            audited.select(audited.filtered),
            audit.count_hits(audited.select(audited.filtered), np.zeros((2000, 4), int)),
            np.zeros(2000, bool),
            0,
        )
        is None
    )


def test_replies_are_counted_by_what_became_of_them():
    audited = audit.QueryArrays([*make_queries("a", 2), *make_queries("b", 1)], frozenset({"a"}))
    answers = np.array(
        [
            [0, audit.TRUNCATED, audit.NONE],
            [audit.FAILED, audit.TRUNCATED, 2],
            [1, audit.UNREADABLE, audit.NONE],
        ]
    )
    assert audit.count_replies(audited, {View.text_only: answers}) == {
        "a": {"text_only": {"draws": 6, "failed": 1, "truncated": 2, "no_answer": 0, "outside": 1}},
        "b": {"text_only": {"draws": 3, "failed": 0, "truncated": 0, "no_answer": 1, "outside": 1}},
    }
    assert audit.count_hits(audited, answers).right.tolist() == [1, 0, 0]


def test_leakage_is_over_what_was_answered():
    audited = audit.QueryArrays(make_queries("a", 3), frozenset({"a"}))
    answers = np.array([[0, audit.FAILED, 0, 0], [0, 1, 0, 1], [audit.FAILED] * 4])
    hits = {
        View.visual_only: audit.count_hits(audited, answers),
        View.text_only: audit.count_hits(audited, answers[[2, 2, 2]]),
    }
    found = audit.measure_leakage(
        audited, hits, {"first": np.array([True, False, False]), "all": np.ones(3, bool)}
    )
    assert found["first"]["visual_only"]["solved"].value == 1
    assert (
        found["all"]["visual_only"]["solved"].value,
        found["all"]["visual_only"]["solved"].n,
    ) == (0.75, 2)
    assert set(found["all"]) == {"visual_only"}
