"""Selection of own rollouts: each rule by itself, their order, balance, and the step that writes
what became of each."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from omnicore.config import DistillConfig
from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError, TrainingError
from omnicore.schema import AnswerKind, Outcome, Query, RejectionReason
from omnicore.training.selection import DistilledRollout, select_rollouts
from tests.errors import refused

RIGHT = {
    AnswerKind.choice: "3",
    AnswerKind.number: "12",
    AnswerKind.interval: "10-20",
    AnswerKind.set: "1, 3",
}


def query(
    name: str = "q", kind: AnswerKind = AnswerKind.choice, source: str = "s", type_: str = "t"
) -> Query:
    options = ("1", "2", "3", "4") if kind in (AnswerKind.choice, AnswerKind.set) else ()
    answer, *also = RIGHT[kind].split(", ")
    made = {"answer": answer, "also": tuple(also), "answer_kind": kind, "options": options}
    return Query.model_validate(
        {"benchmark": source, "id": name, "type": type_, "question": "?", "cluster": "c", **made}
    )


def rollout(
    sample: int = 0, answer: str | None = "3", asked: Query | None = None, **given: Any
) -> DistilledRollout:
    asked = asked or query()
    right = {RIGHT[asked.answer_kind], "11-21"}  # what judge would call right of the answers below
    worth = (
        Outcome.no_answer
        if answer is None
        else Outcome.correct
        if answer in right
        else Outcome.incorrect
    )
    return DistilledRollout(
        asked, sample, f"so {answer}", given.pop("tokens", 10), answer, worth, **given
    )


def group(*answers: str | None, asked: Query | None = None) -> list[DistilledRollout]:
    return [rollout(i, answer, asked) for i, answer in enumerate(answers)]


def chosen(
    rollouts: Sequence[DistilledRollout],
    solvable: frozenset[tuple[str, str]] = frozenset(),
    seed: int = 0,
    **config: Any,
) -> list[str]:
    """The reasons, `kept` where there is none."""
    settings = DistillConfig.model_validate({"per_query": 99, **config})
    return [reason or "kept" for reason in select_rollouts(rollouts, settings, solvable, seed)]


NUMBER, INTERVAL, SET = (
    query(kind=kind) for kind in (AnswerKind.number, AnswerKind.interval, AnswerKind.set)
)


@pytest.mark.parametrize(
    ("rollouts", "config", "expected"),
    [
        pytest.param([rollout()], {}, ["kept"], id="right"),
        pytest.param([rollout(answer=None, failed=True)], {}, ["failed"], id="failed"),
        pytest.param([rollout(answer=None, truncated=True)], {}, ["cut"], id="cut"),
        pytest.param([rollout(answer=None)], {}, ["no_answer"], id="no answer"),
        pytest.param([rollout(answer="2")], {}, ["incorrect"], id="wrong"),
        pytest.param(group("3", "2"), {}, ["kept", "incorrect"], id="half is enough"),
        pytest.param(
            group("3", "2", "2"), {}, ["minority", "incorrect", "incorrect"], id="outvoted"
        ),
        pytest.param(
            group("3", "1", "2"),
            {},
            ["minority", "incorrect", "incorrect"],
            id="a guess among many",
        ),
        pytest.param(
            group("3", "3", "2"),
            {"agreement": 0.7},
            ["minority", "minority", "incorrect"],
            id="a stricter share",
        ),
        pytest.param(
            group(*["3"] * 11, *["2"] * 9),
            {"agreement": 0.55},
            ["kept"] * 11 + ["incorrect"] * 9,
            id="the share exactly",
        ),
        pytest.param(
            group("3", "2", "2"), {"agreement": 0}, ["kept", "incorrect", "incorrect"], id="off"
        ),
        pytest.param(
            group("3", None, None),
            {},
            ["minority", "no_answer", "no_answer"],
            id="no answer agrees with nobody",
        ),
        pytest.param(
            [rollout(0), *(rollout(i, None, failed=True) for i in (1, 2))],
            {},
            ["kept", "failed", "failed"],
            id="failed do not count",
        ),
        pytest.param(
            [rollout(0), *(rollout(i, None, truncated=True) for i in (1, 2))],
            {},
            ["minority", "cut", "cut"],
            id="cut ones do count",
        ),
        pytest.param(
            group("12", "12", "13", asked=NUMBER), {}, ["kept", "kept", "incorrect"], id="numbers"
        ),
        pytest.param(
            group("1, 3", "1", "1, 3", asked=SET), {}, ["kept", "incorrect", "kept"], id="sets"
        ),
        pytest.param(
            group("10-20", "11-21", "90-95", asked=INTERVAL),
            {},
            ["kept", "kept", "incorrect"],
            id="intervals that overlap",
        ),
        pytest.param(
            [rollout(tokens=4), rollout(1, tokens=5)],
            {"min_tokens": 5},
            ["short", "kept"],
            id="short",
        ),
        pytest.param(
            [rollout(tokens=6), rollout(1, tokens=5)],
            {"max_tokens": 5},
            ["long", "kept"],
            id="long",
        ),
        pytest.param(
            [rollout(0), rollout(0, asked=query("r"))],
            {"per_query": 1},
            ["kept", "kept"],
            id="one of each query",
        ),
        pytest.param(
            [rollout(0), rollout(0, asked=query(source="other"))],
            {"per_query": 1},
            ["kept", "kept"],
            id="ids of two sources",
        ),
    ],
)
def test_each_rule(
    rollouts: list[DistilledRollout], config: dict[str, Any], expected: list[str]
) -> None:
    assert chosen(rollouts, **config) == expected


def test_what_a_probe_solves_is_left_out() -> None:
    rollouts = [rollout(), rollout(asked=query(source="other"))]
    assert chosen(rollouts, frozenset({("s", "q")})) == ["solvable", "kept"]


def test_first_broken_rule_is_the_reason() -> None:
    """A rollout that breaks every rule from one on is told by that one; each mends one rule
    more."""
    worst = {"tokens": 1, "answer": None, "failed": True, "truncated": True}
    mended: list[tuple[dict[str, Any], str]] = [
        ({}, "failed"),
        ({"failed": False}, "cut"),
        ({"truncated": False}, "no_answer"),
        ({"answer": "2"}, "incorrect"),
        ({"answer": "3"}, "minority"),
    ]
    others = [rollout(i, "4") for i in (1, 2, 3)]
    config: dict[str, Any] = {"min_tokens": 5, "solvable": frozenset({("s", "q")})}
    told = []
    for change, expected in mended:
        worst |= change
        told.append(chosen([rollout(0, **worst), *others], **config)[0])
        assert told[-1] == expected
    told.append(chosen([rollout(0, tokens=1)], **config)[0])
    told.append(chosen([rollout(0, tokens=1)], min_tokens=5)[0])
    told.append(chosen([rollout(0, tokens=9)], max_tokens=5)[0])
    # Three rollouts of one query, one of another: one a query, then half of each source, then half of each type.
    many = [
        *group("3", "3"),
        rollout(asked=query("r")),
        rollout(asked=query("x", source="other", type_="u")),
    ]
    told += sorted(set(chosen(many, per_query=1)) - {"kept"})
    told += sorted(
        set(chosen(many, per_query=1, max_source=0.5, max_type=0.5)) - {"kept", "per_query"}
    )
    one_source = [rollout(asked=query(str(i), type_="u" if i == 0 else "t")) for i in range(3)]
    told += sorted(set(chosen(one_source, max_type=0.5)) - {"kept"})
    assert told == list(RejectionReason)


@pytest.mark.parametrize("seed", range(4))
def test_at_most_k_rows_of_a_query_drawn_by_the_seed(seed: int) -> None:
    reasons = chosen(group(*["3"] * 8), per_query=3, seed=seed)
    assert Counter(reasons) == {"kept": 3, "per_query": 5}
    assert chosen(group(*["3"] * 8), per_query=3, seed=seed) == reasons
    others = {tuple(chosen(group(*["3"] * 8), per_query=3, seed=other)) for other in range(8)}
    assert len(others) > 1


def rows(**counts: int) -> list[DistilledRollout]:
    """Right rollouts by "source_type" and number of queries, two of each query."""
    made = [
        rollout(
            sample, asked=query(f"{name}{i}", source=name.split("_")[0], type_=name.split("_")[1])
        )
        for name, count in counts.items()
        for i in range(count)
        for sample in (0, 1)
    ]
    random.Random(0).shuffle(made)
    return made


@pytest.mark.parametrize(
    ("counts", "config", "kept"),
    [
        ({"a_t": 30, "b_t": 10}, {}, {"a": 60, "b": 20}),
        ({"a_t": 30, "b_t": 10}, {"max_source": 0.5}, {"a": 20, "b": 20}),
        ({"a_t": 30, "b_t": 10}, {"max_source": 0.6}, {"a": 30, "b": 20}),
        ({"a_t": 30, "b_t": 10, "c_t": 5}, {"max_source": 0.5}, {"a": 30, "b": 20, "c": 10}),
        ({"a_t": 30, "b_t": 10, "c_t": 5}, {"max_source": 0.4}, {"a": 20, "b": 20, "c": 10}),
        ({"a_t": 10, "b_t": 10}, {"max_source": 0.5}, {"a": 20, "b": 20}),
        ({"a_t": 30, "a_u": 10}, {"max_type": 0.5}, {"a": 40}),
        (
            {"a_t": 30, "b_u": 15, "c_v": 5},
            {"max_source": 0.5, "max_type": 0.45},
            {"a": 32, "b": 30, "c": 10},
        ),
    ],
)
def test_caps_hold_and_reject_no_more_than_needed(
    counts: dict[str, int], config: dict[str, float], kept: dict[str, int]
) -> None:
    rollouts = rows(**counts)
    reasons = chosen(rollouts, **config)
    left = [one for one, reason in zip(rollouts, reasons, strict=True) if reason == "kept"]
    assert Counter(one.query.benchmark for one in left) == kept
    for name, share in (
        ("benchmark", config.get("max_source", 1)),
        ("type", config.get("max_type", 1)),
    ):
        assert max(Counter(getattr(one.query, name) for one in left).values()) <= share * len(left)


def test_capped_group_keeps_most_queries() -> None:
    """30 queries with two rows each are cut to 40 rows: every query stays, ten with both."""
    rollouts = rows(a_t=30, b_t=20)
    left = Counter(
        one.query.id
        for one, reason in zip(rollouts, chosen(rollouts, max_source=0.5), strict=True)
        if reason == "kept"
    )
    assert Counter(n for name, n in left.items() if name.startswith("a")) == {1: 20, 2: 10}


def test_rollout_order_changes_no_count() -> None:
    rollouts = group("3", "3", "2", "3")
    for order in itertools.permutations(rollouts):
        assert Counter(chosen(order, per_query=2)) == {"kept": 2, "per_query": 1, "incorrect": 1}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"max_source": 0.4},
            "distill.max_source=0.4 and distill.max_type=1: the rules before leave 6 of a, 8 of b,",
        ),
        (
            {"max_type": 0.5},
            "distill.max_type=0.5: the rules before leave 6 of a, 8 of b, and 14 of t;",
        ),
    ],
)
def test_unsatisfiable_cap_is_refused(config: dict[str, float], message: str) -> None:
    with refused(TrainingError, "distill-caps-unsatisfiable") as caught:
        chosen(rows(a_t=3, b_t=4), **config)
    assert message in str(caught.value)


def test_conflicting_caps_are_refused() -> None:
    """All of source a is of type t: it may have 0.4 of the rows, b 0.5, and nobody the rest."""
    with refused(TrainingError, "distill-caps-unsatisfiable") as caught:
        chosen(rows(a_t=3, b_u=1, b_v=1), max_source=0.5, max_type=0.4)
    assert " 6 of a, 4 of b, and 6 of t, 2 of u, 2 of v;" in str(caught.value)


def test_empty_length_range_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="max_tokens=4 is below min_tokens=5: no rollout is of such a length"
    ):
        load_recipe("tiny", ["distill.min_tokens=5", "distill.max_tokens=4"])
