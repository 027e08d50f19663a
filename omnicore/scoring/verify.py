"""Judge what a reply names: probe, reward and evaluation all call `judge`.

choice, yes_no  the query's answer itself set             exactly the right options: a part of them
is incorrect number          equal as numbers: 12 and 12.0 interval        half or more of the union
shared (R@1 at IoU 0.5, as temporal grounding is scored; Gao et al. 2017, TALL) text            the
answer, case, marks around and "_" for a space aside; a word from zero to twenty and its digits are
the same
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.extract import Named, Style, foreign, open_text, read

ENOUGH = 0.5  # of the union of two intervals


def judge(
    reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None
) -> tuple[str | None, Outcome]:
    """What the reply names and what that is worth.

    `permutation[i]` is the index of the option shown at place i.     None and incorrect where it
    names something that is none of the options; None and no_answer where it cannot be read.

    A set comes back as its members in the order of the query's options, joined by ", "; a number in
    its shortest digits; an interval as seconds, "3.5-7"; an open text in small letters.
    """
    named = read(reply, query, style, permutation)
    if named is None:
        return None, Outcome.incorrect if foreign(reply, query, style) else Outcome.no_answer
    given = (
        ", ".join(o for o in query.options if o in named) if isinstance(named, frozenset) else named
    )
    return given, Outcome.correct if _right(named, query) else Outcome.incorrect


def _right(named: Named, query: Query) -> bool:
    match query.answer_kind:
        case AnswerKind.set:
            return named == frozenset({query.answer, *query.also})
        case AnswerKind.number:
            return Decimal(str(named)) == Decimal(query.answer)
        case AnswerKind.interval:
            return overlap(str(named), query.answer) >= ENOUGH
        case AnswerKind.text:
            return named == open_text(query.answer)
        case _:
            return named == query.answer


def agree(a: str, b: str, kind: AnswerKind) -> bool:
    """Whether two answers, as `judge` gives them, are the same; of intervals, whether one would be
    right if the other were."""
    return overlap(a, b) >= ENOUGH if kind is AnswerKind.interval else a == b


def overlap(a: str, b: str) -> float:
    """Intersection over union of two intervals in time, as `read` gives them or a query's answer
    has them."""
    (start, end), (other, last) = (_ends(text) for text in (a, b))
    union = max(end, last) - min(start, other)
    return float(max(Decimal(0), min(end, last) - max(start, other)) / union)


def _ends(text: str) -> tuple[Decimal, Decimal]:
    start, end = text.split("-")
    return Decimal(start), Decimal(end)
