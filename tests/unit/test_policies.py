"""Verdicts: labels, draws that failed, queries without one right option, rotations, and the
manifest's hash."""

import numpy as np
import pytest

from omnicore import audit
from omnicore.audit.files import _Permutations
from omnicore.config import CleanConfig
from omnicore.data.prompts import draw_permutation
from omnicore.schema import AnswerKind, Label, Query, View
from omnicore.scoring.stats import binomial_tail
from tests.unit.audit_fixture import N, judge, make_queries, quality, simulate


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
        assert v.label is (
            Label.solvable
            if v.hits >= rule.hits
            else Label.undecided
            if rare
            else Label.not_solvable
        )
        assert v.kept == (v.label is not Label.solvable)
    for v, given in zip(single, answers, strict=True):
        assert (v.hits, v.draws) == (int(given[0] == 0), 1)
        assert v.label is (Label.solvable if given[0] == 0 else Label.not_solvable)
    hit = next(v for v in single if v.hits)
    # A guess is right 1 in 4 times, and a third of them are none of the options.
    assert hit.null == pytest.approx(1 / 6, abs=0.02)
    assert hit.binomial == 0.25


def test_kept_whole_loses_nothing_and_stays_out_of_the_pool():
    """A benchmark kept whole has a probe that always repeats itself: the others' null must not come
    from it."""
    queries = [*make_queries("a", 500), *make_queries("whole", 500)]
    rng = np.random.default_rng(6)
    solvable = np.arange(500) < 250
    answers = np.vstack(
        [simulate(rng, solvable, None), np.repeat(rng.integers(4, size=(500, 1)), N, axis=1)]
    )
    rules, repeated, single = judge(queries, answers, filtered={"a"})
    by_name = {r.benchmark: r for r in rules}
    assert by_name["whole"].hits is None
    assert by_name["whole"].null[N] > 0.2
    assert by_name["a"].null[6] < 0.01
    for verdicts in (repeated, single):
        assert {v.label for v in verdicts if v.benchmark == "whole"} == {Label.kept_whole}
        assert sum(v.label is Label.solvable for v in verdicts) > 200


def test_failed_draws_leave_query_undecided_and_out_of_rules():
    queries, solvable = make_queries("b", 1000), np.arange(1000) < 500
    answers = simulate(np.random.default_rng(1), solvable, 0.6)
    holed = answers.copy()
    holed[:100, 3] = holed[500:600, 0] = audit.FAILED
    left = np.ones(1000, bool)
    left[:100] = left[500:600] = False
    (rule,), repeated, single = judge(queries, holed)
    (alone,), _, _ = judge(
        [q for q, keep in zip(queries, left, strict=True) if keep], answers[left]
    )
    assert rule.hits == alone.hits
    assert rule.null == pytest.approx(alone.null)
    assert rule.fdr == pytest.approx(alone.fdr)
    for v, keep, row in zip(repeated, left, holed, strict=True):
        if not keep:
            assert (v.label, v.draws, v.hits, v.null) == (Label.undecided, 7, (row == 0).sum(), 1)
    # A single pass looks at draw 0 alone.
    assert {v.label for v in single[500:600]} == {Label.undecided}
    assert {v.draws for v in single[500:600]} == {0}
    assert sum(v.label is Label.solvable for v in single[:100]) > 80


@pytest.mark.parametrize("lost", [audit.TRUNCATED, audit.UNREADABLE])
def test_draws_that_could_change_a_verdict_leave_it_open(lost):
    """Right and lost draws of eight, and the verdict where 6 hits decide."""
    cases = {
        (8, 0): "solvable",
        (6, 2): "solvable",
        (5, 3): "undecided",
        (0, 8): "undecided",
        (1, 5): "undecided",
        (0, 2): "not_solvable",
    }
    queries, solvable = make_queries("b", 1000), np.arange(1000) < 500
    answers = simulate(np.random.default_rng(1), solvable, 0.6)
    for row, (right, gone) in enumerate(cases, 600):
        answers[row] = (
            [0] * right + [lost] * gone + [1, 2, 3, audit.NONE, 1, 2, 3, 1][: N - right - gone]
        )
    (rule,), repeated, single = judge(queries, answers)
    assert rule.hits == 6
    found = repeated[600 : 600 + len(cases)]
    assert [v.label for v in found] == list(cases.values())
    assert [(v.hits, v.draws) for v in found] == [(right, N - gone) for right, gone in cases]
    assert [v.label for v in single[600 : 600 + len(cases)]] == [
        *["solvable"] * 3,
        "undecided",
        "solvable",
        "undecided",
    ]


def test_lost_draw_leaves_rotation_undecided_if_decisive():
    queries = make_queries("b", 4)
    answers = np.array(
        [
            [0, 0, 0, 0],
            [0, 0, 0, audit.TRUNCATED],
            [0, 1, 0, audit.TRUNCATED],
            [audit.UNREADABLE] * 4,
        ]
    )
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    verdicts = audit.circular_verdicts(
        audited, answers, audit.full_rotations(audited, orders_of(queries, 4)), CleanConfig()
    )
    assert [v.label for v in verdicts] == ["solvable", "undecided", "not_solvable", "undecided"]
    assert [v.draws for v in verdicts] == [4, 3, 3, 0]


def test_lost_draws_do_not_widen_the_null():
    """Of queries nobody can solve, as many right as wrong options reach a count whatever is lost:
    the null stays true."""
    queries, solvable = make_queries("b", 4000), np.arange(4000) < 2000
    rng = np.random.default_rng(2)
    answers = simulate(rng, solvable, 0.8)
    answers = np.where(rng.random(answers.shape) < 0.15, audit.TRUNCATED, answers)
    (rule,), verdicts, _ = judge(queries, answers)
    precision, _, lost = quality(queries, solvable, verdicts)
    assert precision >= 0.98
    assert lost <= 0.03
    for k in (5, 6, 7):
        assert (answers[2000:] == 0).sum(axis=1).__ge__(k).mean() <= rule.null[k] + 0.005


def test_every_draw_failed():
    rules, repeated, single = judge(make_queries("b", 10), np.full((10, N), audit.FAILED))
    assert rules[0].hits is None
    assert {v.label for v in (*repeated, *single)} == {Label.undecided}


def open_query(name, kind, answer, **more):
    return Query(
        benchmark="b",
        id=name,
        type="t",
        question="?",
        answer=answer,
        answer_kind=kind,
        cluster=name,
        **more,
    )


def test_queries_without_single_answer_are_kept_whole():
    """In a benchmark that is filtered, too: nothing wrong can be counted against a number, a text
    or a set."""
    odd = [
        open_query("n", AnswerKind.number, "3"),
        open_query("t", AnswerKind.text, "drum"),
        open_query("s", AnswerKind.set, "1", also=("2",), options=("1", "2", "3")),
    ]
    queries, solvable = make_queries("b", 400), np.arange(400) < 200
    answers = simulate(np.random.default_rng(0), solvable, 0.6)
    hits = np.where(np.arange(N) < 6, 0, audit.NONE)
    rules, repeated, single = judge([*queries, *odd], np.vstack([answers, *[hits] * 3]))
    alone, before, _ = judge(queries, answers)
    assert repeated[:400] == before
    assert [r.hits for r in rules] == [r.hits for r in alone]
    for v in (*repeated[400:], *single[400:]):
        assert (v.label, v.null, v.binomial) == (Label.kept_whole, 1, 1)
    assert [(v.hits, v.draws) for v in repeated[400:]] == [(6, 8)] * 3
    audited = audit.QueryArrays(odd, frozenset({"b"}))
    assert audited.chance.tolist() == [0, 0, 1 / 7]
    found = audit.count_hits(audited, np.stack([hits] * 3))
    leak = audit.measure_leakage(audited, {View.visual_only: found}, audited.rows_by_benchmark())[
        "b"
    ]["visual_only"]
    assert leak["solved"].value == 0.75
    assert leak["chance"] == pytest.approx(1 / 21)
    assert audit.residual_leakage(audited, found, np.ones(3, bool)) is None, (
        "no wrong option, no baseline"
    )
    assert audit.null_shares(audited, found)["hits"] == [0] * (N + 1)
    assert judge(odd, np.stack([hits] * 3))[0] == []


def orders_of(queries, draws, seed=0):
    """The orders that a probe shows, as clean reads them."""
    turns, cycle, turn = _Permutations(), [], []
    for q in queries:
        shown = [
            turns(draw_permutation(q, View.visual_only, i, seed), len(q.options))
            for i in range(draws)
        ]
        cycle.append([c for c, _ in shown])
        turn.append([t for _, t in shown])
    return audit.OptionOrders(np.array(cycle), np.array(turn))


@pytest.mark.parametrize(
    ("options", "draws", "full"),
    [(4, 8, True), (4, 4, True), (4, 3, False), (6, 8, True), (2, 2, True), (5, 4, False)],
)
def test_enough_draws_cover_all_rotations(options, draws, full):
    queries = make_queries("b", 50, options=options)
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    orders = orders_of(queries, draws)
    found = audit.full_rotations(audited, orders)
    if not full:
        assert (found == audit.NONE).all()
        return
    assert np.sort(found, axis=1).tolist() == [list(range(options))] * 50, (
        "the first of the circles"
    )
    for row, circle in enumerate(found.tolist()):
        shown = [draw_permutation(queries[row], View.visual_only, i, 0) for i in circle]
        assert all(sorted(places) == list(range(options)) for places in zip(*shown, strict=True)), (
            "each option at each place"
        )


def test_full_rotations_skip_failed_draws_and_mirrored_orders():
    audited = audit.QueryArrays(make_queries("b", 3, options=3), frozenset({"b"}))
    turns = _Permutations()
    whole = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    mirrored = [(0, 2, 1), (2, 1, 0), (1, 0, 2)]
    rows = [
        [*whole, *mirrored],
        [whole[0], *mirrored[:2], whole[1], mirrored[2], whole[2]],
        [*whole[:2], *whole[:2], *mirrored[:2]],
    ]
    cycle, turn = (
        np.array([[turns(order, 3)[i] for order in row] for row in rows]) for i in (0, 1)
    )
    cycle[0, 1] = turn[0, 1] = audit.NONE  # failed
    found = audit.full_rotations(audited, audit.OptionOrders(cycle, turn))
    assert sorted(found[0].tolist()) == [3, 4, 5]
    assert sorted(found[1].tolist()) == [0, 3, 5]
    assert found[2].tolist() == [audit.NONE] * 3


def test_circular():
    """All K of the circle right, query removed; its null measured on wrong options, its binomial
    K**-K."""
    queries, solvable = make_queries("b", 4000), np.arange(4000) < 2000
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    answers = simulate(np.random.default_rng(0), solvable, 0.6)
    circles = audit.full_rotations(audited, orders_of(queries, N))
    verdicts = audit.circular_verdicts(audited, answers, circles, CleanConfig())
    for v, given in zip(verdicts, answers, strict=True):
        assert (v.hits, v.draws) == ((given[:4] == 0).sum(), 4)
        assert v.label is (Label.solvable if v.hits == 4 else Label.not_solvable)
    hit = next(v for v in verdicts if v.hits == 4)
    assert hit.binomial == pytest.approx(1 / 256, abs=1e-6)
    assert hit.null == pytest.approx(0.4**4 / 4, rel=0.25), "the favourite, four times of four"
    assert quality(queries, solvable, verdicts)[1] == pytest.approx(0.95**4, abs=0.02)


def test_circular_without_a_full_circle_is_undecided():
    queries = [
        *make_queries("b", 100),
        *[q.model_copy(update={"id": f"six-{q.id}"}) for q in make_queries("b", 100, options=6)],
    ]
    audited = audit.QueryArrays(queries, frozenset({"b"}))
    answers = np.zeros((200, 5), int)
    answers[0, 2] = audit.FAILED
    orders = orders_of(queries, 5)
    orders.cycle[0, 2] = audit.NONE
    verdicts = audit.circular_verdicts(
        audited, answers, audit.full_rotations(audited, orders), CleanConfig()
    )
    assert verdicts[0].label is Label.undecided
    assert {v.label for v in verdicts[1:100]} == {Label.solvable}
    assert {(v.label, v.draws) for v in verdicts[100:]} == {(Label.undecided, 0)}
    none = np.full((200, 6), audit.NONE)
    assert audit.circular_verdicts(audited, answers, none, CleanConfig()) is None
    assert (
        audit.circular_verdicts(
            audit.QueryArrays(queries, frozenset()),
            answers,
            audit.full_rotations(audited, orders),
            CleanConfig(),
        )
        is None
    )


@pytest.mark.parametrize("favourite_place", [0, 2])
def test_rotations_cancel_a_preference_for_a_place(favourite_place):
    """A probe that always says A is right on each query exactly n / K times; with orders drawn anew
    it would be by luck more often on some.

    Right and wrong options fare alike.
    """
    queries = [q for right in range(4) for q in make_queries(f"b{right}", 500, right=right)]
    answers = np.array(
        [
            [draw_permutation(q, View.visual_only, i, 0)[favourite_place] for i in range(N)]
            for q in queries
        ]
    )
    audited = audit.QueryArrays(queries, frozenset({"b0"}))
    hits = audit.count_hits(audited, answers)
    assert set(hits.right.tolist()) == {2}
    assert set(hits.wrong.ravel().tolist()) == {2, audit.NONE}
    # Five draws: one more circle is begun, and its place falls on right and wrong options alike.
    part = audit.count_hits(audited, answers[:, :5])
    assert (part.right == 2).mean() == pytest.approx(0.25, abs=0.03)
    assert (part.wrong == 2).sum() / (3 * len(queries)) == pytest.approx(0.25, abs=0.03)


def test_content_hash():
    queries = make_queries("b", 200)
    _, verdicts, single = judge(
        queries, simulate(np.random.default_rng(0), np.arange(200) < 100, None)
    )
    one = audit.build_manifest("repeated", "probe", "p" * 64, verdicts)
    assert audit.build_manifest("repeated", "probe", "p" * 64, verdicts[::-1]) == one
    assert (
        audit.build_manifest("repeated", "other name", "q" * 64, verdicts).content_hash
        == one.content_hash
    )
    assert (
        audit.build_manifest("single_pass", "probe", "p" * 64, verdicts).content_hash
        != one.content_hash
    )
    changed = [verdicts[0].model_copy(update={"label": Label.kept_whole}), *verdicts[1:]]
    assert (
        audit.build_manifest("repeated", "probe", "p" * 64, changed).content_hash
        != one.content_hash
    )
    assert len(one.kept()) == sum(v.label is not Label.solvable for v in verdicts)
    assert len(single) == 200
