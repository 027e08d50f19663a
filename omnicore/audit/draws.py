"""Hold queries and their draws as arrays: N queries, n draws each, K options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnicore.schema import AnswerKind, Query

# Codes in answers [N, n], where a draw gave none of the query's options. A query without a single
# right option has 0 where the draw was right and NONE where it was wrong.

# The answer is none of the options, and so wrong. In `HitCounts.wrong`: no such wrong option.
NONE = -1
TRUNCATED = -2  # no answer, because the reply reached its length limit
FAILED = -3  # no reply, because the request failed permanently
UNREADABLE = -4  # no answer that can be read

SINGLE_ANSWER = frozenset({AnswerKind.choice, AnswerKind.yes_no})

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class QueryArrays:
    """N queries as arrays.

    A number, a text or a set of options has no single right option to compare with wrong ones, so
    no null can be measured for it. Such a query has K = 0 and is never removed, even in a filtered
    benchmark.

    Attributes:
        queries: The N queries.
        benchmark: Name of each query's benchmark, [N].
        type: Name of each query's type, [N].
        cluster: Name of each query's cluster, [N].
        options: Number K of each query's options, [N].
        right: Index of each query's right option, [N].
        chance: Expected hit rate of a guess, [N]: 1 / K for one of K options, 1 / (2**K - 1) for a
            set of them, and 0 without options, where the hit rate is not corrected.
        filtered: Whether the audit may remove the query, [N].
    """

    def __init__(self, queries: Sequence[Query], filtered: frozenset[str]) -> None:
        """Build the arrays.

        Args:
            queries: The N queries.
            filtered: Names of the benchmarks from which the audit may remove queries.
        """
        self.queries = queries
        self.benchmark = np.array([q.benchmark for q in queries])
        self.type = np.array([q.type for q in queries])
        self.cluster = np.array([q.cluster for q in queries])
        single = np.array([q.answer_kind in SINGLE_ANSWER for q in queries])
        counts = np.array([len(q.options) for q in queries])
        self.options: Ints = np.where(single, counts, 0)
        self.right: Ints = np.array([_right_option(q) for q in queries])
        self.chance: Floats = np.array([_chance(q) for q in queries])
        self.filtered: Bools = single & np.array([q.benchmark in filtered for q in queries])

    def select(self, rows: Bools) -> QueryArrays:
        """Return the queries where `rows` [N] is true."""
        selected = QueryArrays.__new__(QueryArrays)
        selected.queries = [self.queries[row] for row in np.flatnonzero(rows).tolist()]
        for name in ("benchmark", "type", "cluster", "options", "right", "chance", "filtered"):
            setattr(selected, name, getattr(self, name)[rows])
        return selected

    def rows_by_benchmark(self) -> dict[str, Bools]:
        """Return the rows [N] of each benchmark."""
        return {str(name): self.benchmark == name for name in np.unique(self.benchmark)}


def _right_option(query: Query) -> int:
    if query.answer_kind not in SINGLE_ANSWER:
        return 0
    return query.options.index(query.answer)


def _chance(query: Query) -> float:
    if not query.options:
        return 0.0
    if query.answer_kind is AnswerKind.set:
        return float(1 / (2 ** len(query.options) - 1))
    return 1 / len(query.options)


@dataclass(frozen=True)
class HitCounts:
    """Counts over each query's draws.

    An unreadable draw is not evidence: it is neither a hit nor a miss.

    Attributes:
        right: Draws that gave the right option, [N].
        wrong: Draws that gave each wrong option, [N, K]; NONE where there is no such option.
        answered: Draws that hold an answer, [N].
        unreadable: Draws that were truncated or cannot be read, [N]. All other draws failed.
        draws: Number n of draws of each query.
    """

    right: Ints
    wrong: Ints
    answered: Ints
    unreadable: Ints
    draws: int

    @property
    def complete(self) -> Bools:
        """Queries [N] of which no request failed: the others enter no rule and no null."""
        return np.equal(self.answered, self.draws - self.unreadable)

    @property
    def unsolved(self) -> Bools:
        """Queries [N] without a right majority, even if every unreadable draw had been right."""
        return self.complete & (2 * (self.right + self.unreadable) <= self.draws)


def count_hits(arrays: QueryArrays, answers: Ints) -> HitCounts:
    """Count right, wrong, answered and unreadable draws.

    Args:
        arrays: The N queries.
        answers: Index of the option that each draw gave, [N, n], or one of NONE, TRUNCATED,
            UNREADABLE and FAILED.
    """
    places = np.arange(max(1, arrays.options.max()))
    given = np.stack([(answers == place).sum(axis=1) for place in places], axis=1)
    is_wrong = (places < arrays.options[:, None]) & (places != arrays.right[:, None])
    unreadable = ((answers == TRUNCATED) | (answers == UNREADABLE)).sum(axis=1)
    answered = (answers != FAILED).sum(axis=1) - unreadable
    return HitCounts(
        right=given[np.arange(len(given)), arrays.right],
        wrong=np.where(is_wrong, given, NONE),
        answered=answered,
        unreadable=unreadable,
        draws=answers.shape[1],
    )


@dataclass(frozen=True)
class OptionOrders:
    """The order in which each draw showed the options; NONE where there is no draw.

    Attributes:
        cycle: Number of the order up to rotation, [N, n].
        rotation: Place of the query's first option, [N, n], which identifies the rotation within
            its cycle.
    """

    cycle: Ints
    rotation: Ints


def full_rotations(arrays: QueryArrays, orders: OptionOrders) -> Ints:
    """Find for each query the draws that showed its options in every rotation of one order.

    Returns:
        Indices of these draws, [N, largest K]; NONE beyond a query's K, and where its draws do not
        cover all rotations of any order. Where several orders are covered, the one that starts
        first is taken.
    """
    size, draws = orders.cycle.shape
    indices = np.full((size, max(1, arrays.options.max())), NONE, dtype=np.int64)
    for options in np.unique(arrays.options[arrays.options > 0]).tolist():
        open_rows = arrays.options == options
        for first in range(draws):
            rows = np.flatnonzero(open_rows & (orders.cycle[:, first] != NONE))
            same_cycle = orders.cycle[rows] == orders.cycle[rows, first, None]
            shown = [same_cycle & (orders.rotation[rows] == place) for place in range(options)]
            full = np.all([draw.any(axis=1) for draw in shown], axis=0)
            firsts = [draw[full].argmax(axis=1) for draw in shown]
            indices[rows[full], :options] = np.stack(firsts, axis=1)
            open_rows[rows[full]] = False
    return indices
