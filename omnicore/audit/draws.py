"""Queries and their draws as arrays: N queries, n draws each, K options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnicore.schema import AnswerKind, Query

# In answers [N, n], where no option was given. A query without a single right option has 0 there when the draw was right, and
# NONE when it was wrong.
NONE = (
    -1
)  # an answer that is none of the options, which is wrong; in `Hits.wrong`: no such wrong option
CUT = -2  # no answer, because the reply ran into its length limit
FAILED = -3  # no reply: the request failed permanently
UNREAD = -4  # no answer that can be read

SINGLE = frozenset({AnswerKind.choice, AnswerKind.yes_no})

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Audited:
    """N queries as arrays: `benchmark`, `type`, `cluster` [N] names, `options` [N] their number K, `right` [N] index of the
    right one, `chance` [N] what a guesser gets, `filtered` [N] whether the audit may remove the query.

    A number, a text or a set of options has no one right option that could be held against the wrong ones: no null can be
    measured, so such a query has K = 0 and is never removed, in whatever benchmark it stands. Its chance level is that of a
    guess among all sets, 1 / (2**K - 1), and 0 where there are no options: nothing is known of a guess, so its hit rate is
    not corrected.
    """

    def __init__(self, queries: Sequence[Query], filtered: frozenset[str]) -> None:
        self.queries = queries
        self.benchmark = np.array([q.benchmark for q in queries])
        self.type = np.array([q.type for q in queries])
        self.cluster = np.array([q.cluster for q in queries])
        single = [q.answer_kind in SINGLE for q in queries]
        self.options: Ints = np.array(
            [len(q.options) if one else 0 for q, one in zip(queries, single, strict=True)]
        )
        self.right: Ints = np.array(
            [
                q.options.index(q.answer) if one else 0
                for q, one in zip(queries, single, strict=True)
            ]
        )
        self.chance: Floats = np.array([_chance(q) for q in queries])
        self.filtered: Bools = np.array(
            [one and q.benchmark in filtered for q, one in zip(queries, single, strict=True)]
        )

    def part(self, rows: Bools) -> Audited:
        """Some of the queries."""
        part = Audited.__new__(Audited)
        part.queries = [self.queries[row] for row in np.flatnonzero(rows).tolist()]
        for name in ("benchmark", "type", "cluster", "options", "right", "chance", "filtered"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def groups(self) -> dict[str, Bools]:
        """Rows of each benchmark."""
        return {str(name): self.benchmark == name for name in np.unique(self.benchmark)}


def _chance(query: Query) -> float:
    if query.answer_kind is AnswerKind.set:
        return float(1 / (2 ** len(query.options) - 1))
    return 1 / len(query.options) if query.options else 0.0


@dataclass(frozen=True)
class Hits:
    """Counts of a query's n `draws`.

    `answered` [N] hold an answer, `unread` [N] were cut or cannot be read, the others failed.
    `right` [N] gave the right option, `wrong` [N, K] each wrong one, NONE where there is none. A
    draw that is `unread` is no evidence: neither a hit nor a miss.
    """

    right: Ints
    wrong: Ints
    answered: Ints
    unread: Ints
    draws: int

    @property
    def complete(self) -> Bools:
        """Queries of which no request failed: the others enter no rule and no null."""
        return np.equal(self.answered, self.draws - self.unread)

    @property
    def unsolved(self) -> Bools:
        """Queries without a right majority, whatever the unread draws would have said."""
        return self.complete & (2 * (self.right + self.unread) <= self.draws)


def count(audited: Audited, answers: Ints) -> Hits:
    """`answers` [N, n]: index of the option that each draw gave, or one of NONE, CUT, UNREAD and
    FAILED."""
    places = np.arange(max(1, audited.options.max()))
    given = np.stack([(answers == place).sum(axis=1) for place in places], axis=1)
    wrong = (places < audited.options[:, None]) & (places != audited.right[:, None])
    unread = ((answers == CUT) | (answers == UNREAD)).sum(axis=1)
    answered = (answers != FAILED).sum(axis=1) - unread
    return Hits(
        given[np.arange(len(given)), audited.right],
        np.where(wrong, given, NONE),
        answered,
        unread,
        answers.shape[1],
    )


@dataclass(frozen=True)
class Orders:
    """In which order the options of each draw were shown: `cycle` [N, n] a number for the order up
    to rotation, `turn` [N, n] the place of the query's first option, which tells the rotations of a
    cycle apart.

    NONE where a draw is lacking.
    """

    cycle: Ints
    turn: Ints


def circles(audited: Audited, orders: Orders) -> Ints:
    """[N, largest K]: for each query the draws that showed its options in every rotation of one
    order, NONE beyond its K and where the draws hold no full circle.

    Of several the one that starts first.
    """
    size, n = orders.cycle.shape
    found = np.full((size, max(1, audited.options.max())), NONE, dtype=np.int64)
    for options in np.unique(audited.options[audited.options > 0]).tolist():
        open_rows = audited.options == options
        for first in range(n):
            rows = np.flatnonzero(open_rows & (orders.cycle[:, first] != NONE))
            same = orders.cycle[rows] == orders.cycle[rows, first, None]
            turns = [same & (orders.turn[rows] == turn) for turn in range(options)]
            full = np.all([turn.any(axis=1) for turn in turns], axis=0)
            found[rows[full], :options] = np.stack(
                [turn[full].argmax(axis=1) for turn in turns], axis=1
            )
            open_rows[rows[full]] = False
    return found
