"""The audit on simulated benchmarks with planted truth: what it removes, and that it denies nothing
that is always right."""

import numpy as np
import pytest

from omnicore import audit
from omnicore.config import CleanConfig
from omnicore.schema import Label
from omnicore.scoring.stats import beta_binomial_tail, binomial_tail
from perf.verdicts import PROBES, Plan, measure, questions, verdicts
from tests.cases import slow
from tests.unit.audit_fixture import judge

SEEDS = range(10)


@pytest.mark.parametrize("probe", ["independent", "repeating"])
@pytest.mark.parametrize("share", [slow(0.5), slow(0.9), 0.97, slow(1.0)])
@pytest.mark.parametrize(("size", "beside"), [(300, False), (30, True), (300, True)])
def test_nearly_all_solvable(probe, share, size, beside):
    """A group that cannot measure its own null borrows one, and keeps both bounds."""
    tally = measure(Plan(probe, size, share, beside=beside), SEEDS)
    assert tally.precision >= 0.98
    assert tally.recall >= 0.95
    assert tally.lost <= 0.05


def test_misreading_costs_recall_and_never_precision():
    for share in (0.5, 0.9, 1.0):
        tally = measure(Plan("misreading", 300, share), SEEDS)
        assert tally.precision >= 0.98
        assert tally.recall >= 0.9


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("options", [slow(2), slow(3), 4, slow(10)])
@pytest.mark.parametrize("draws", [slow(1), slow(2), slow(3), 5, slow(8), slow(16)])
def test_what_is_right_in_every_draw_is_never_not_solvable(probe, options, draws):
    for size, share in ((10, 1.0), (10, 0.5), (100, 0.9), (300, 0.0)):
        for beside in (False, True):
            tally = measure(Plan(probe, size, share, options, draws, beside, withheld=2), range(2))
            assert tally.denied == 0


@pytest.mark.parametrize("options", [slow(2), slow(3), 4, slow(10)])
def test_bounds_hold_for_any_number_of_options(options):
    for share in (0.3, 0.7, 1.0):
        tally = measure(Plan("repeating", 400, share, options, beside=True), SEEDS)
        assert (tally.precision or 1) >= 0.97
        assert tally.lost <= 0.05


@pytest.mark.parametrize(
    ("size", "share", "beside", "source"),
    [
        (300, 0.5, False, "measured"),
        (300, 0.97, False, "borrowed"),
        (12, 0.5, False, "few"),
        (12, 0.5, True, "borrowed"),
    ],
)
def test_the_record_says_where_the_null_comes_from(size, share, beside, source):
    rules = verdicts(Plan("repeating", size, share, beside=beside), 0)[1]
    record = next(rule for rule in rules if rule.benchmark == "b").to_record()
    assert record["source"] == source


@pytest.mark.parametrize("options", [2, 4])
@pytest.mark.parametrize("size", [1, 5, 11])
def test_a_group_without_anything_to_measure_on_is_undecided(options, size):
    """Eight of eight in a run of one small benchmark with the sound withheld alone."""
    (rule,), repeated, _ = judge(questions("b", size, options), np.zeros((size, 8), int))
    assert (rule.hits, rule.source) == (None, "few")
    assert {v.label for v in repeated} == {Label.undecided}
    assert all(v.kept for v in repeated)


def test_a_null_is_not_borrowed_from_benchmarks_kept_whole():
    asked = [*questions("b", 20, 4), *questions("whole", 500, 3)]
    rng = np.random.default_rng(0)
    answers = np.vstack([np.zeros((20, 8), int), rng.integers(3, size=(500, 8))])
    audited = audit.QueryArrays(asked, frozenset({"b"}))
    found = audit.fit_rules(audited, audit.count_hits(audited, answers), CleanConfig())
    assert {rule.benchmark: rule.source for rule in found}["b"] == "few"


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.1, 0.5, 0.9, 1.0])
def test_beta_binomial_tail(spread):
    tail = [beta_binomial_tail(8, k, 0.25, spread) for k in range(9)]
    assert tail[0] == 1
    assert sum(tail[1:]) == pytest.approx(2.0, rel=1e-4), "the mean count"
    assert tail == sorted(tail, reverse=True)
    if spread < 1e-6:
        assert tail == pytest.approx([binomial_tail(8, k, 0.25) for k in range(9)], rel=1e-4)
    counts = np.random.default_rng(0).binomial(
        8, np.random.default_rng(1).beta(2.25, 6.75, 400_000)
    )
    assert beta_binomial_tail(8, 6, 0.25, 0.1) == pytest.approx((counts >= 6).mean(), rel=0.03)
