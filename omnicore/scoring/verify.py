"""Judge the answer of a reply; probe, reward and evaluation all call `judge`.

When a reply is right depends on the query's kind:

- choice, yes_no: it names the query's answer.
- set: it names exactly the right options; a part of them is incorrect.
- number: it is equal as a number: 12 and 12.0 are.
- interval: it shares half or more of the union (R@1 at IoU 0.5, as temporal grounding is scored;
  Gao et al. 2017, TALL).
- text: it is equal, ignoring case, marks around it and "_" for a space. A word from zero to twenty
  equals its digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.extract import Answer, Style, names_no_option, read_answer
from omnicore.scoring.open_text import normalize_open_text

MIN_IOU = 0.5  # intersection over union from which two intervals agree


def judge(
    reply: str,
    query: Query,
    style: Style,
    permutation: Sequence[int] | None = None,
    *,
    truncated: bool = False,
) -> tuple[str | None, Outcome]:
    """Extract the answer of a reply and judge it.

    Args:
        reply: The reply's text.
        query: The query that it answers.
        style: Whether options are named by their text or by letters.
        permutation: Index, in the query's own options, of the option shown at each place; None
            where they were shown in their own order.
        truncated: The reply reached its length limit. It may still hold text that looks like an
            answer, but how it would have ended is unknown: it has none.

    Returns:
        The answer and its outcome. A set comes back as its members in the order of the query's
        options, joined by ", "; a number in its shortest digits; an interval as seconds, "3.5-7";
        an open text in small letters. The answer is None, and incorrect, where the reply names
        something that is none of the options; it is None, with no_answer, where it cannot be read.
    """
    if truncated:
        return None, Outcome.no_answer
    answer = read_answer(reply, query, style, permutation)
    if answer is None:
        foreign = names_no_option(reply, query, style)
        return None, Outcome.incorrect if foreign else Outcome.no_answer
    outcome = Outcome.correct if _is_right(answer, query) else Outcome.incorrect
    if isinstance(answer, frozenset):
        return ", ".join(o for o in query.options if o in answer), outcome
    return answer, outcome


def _is_right(answer: Answer, query: Query) -> bool:
    match query.answer_kind:
        case AnswerKind.set:
            return answer == frozenset({query.answer, *query.also})
        case AnswerKind.number:
            return Decimal(str(answer)) == Decimal(query.answer)
        case AnswerKind.interval:
            return interval_iou(str(answer), query.answer) >= MIN_IOU
        case AnswerKind.text:
            return answer == normalize_open_text(query.answer)
        case _:
            return answer == query.answer


def answers_agree(a: str, b: str, kind: AnswerKind) -> bool:
    """Return whether two answers of `judge` are the same.

    Two intervals are the same where one would be right if the other were the query's answer.
    """
    if kind is AnswerKind.interval:
        return interval_iou(a, b) >= MIN_IOU
    return a == b


def interval_iou(a: str, b: str) -> float:
    """Return the intersection over union of two intervals in time, each as "3.5-7" in seconds."""
    (start, end), (other_start, other_end) = _interval_ends(a), _interval_ends(b)
    union = max(end, other_end) - min(start, other_start)
    shared = min(end, other_end) - max(start, other_start)
    return float(max(Decimal(0), shared) / union)


def _interval_ends(text: str) -> tuple[Decimal, Decimal]:
    start, end = text.split("-")
    return Decimal(start), Decimal(end)
