"""Report the items of a benchmark or source that cannot be read: why, how many, of which kind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from omnicore.data.benchmarks.records import Problem
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.scoring import stats

LostByValue = Mapping[tuple[str, str], tuple[int, int]]  # by field and value: items, lost items
MAX_COLUMNS = 30  # names of columns in a message
MAX_REASONS = 8  # lines on the terminal; problems.jsonl has all
# Probability below which a loss within one value is not chance, if the lost were any items.
UNLIKELY = 0.001
# What tells two messages of one reason apart: names in quotes, files, ids and numbers.
_SPECIFIC = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\S*[/\d]\S*|\b[A-Z]\b")


def reason_lines(problems: Sequence[Problem], columns: Iterable[str]) -> list[str]:
    """Return a line for each reason with its count and its first item, the most frequent first.

    Where a field is missing, a further line names the columns that were found.
    """
    by_reason: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        reason = problem.field, _SPECIFIC.sub("...", problem.message)
        by_reason.setdefault(reason, []).append(problem)
    groups = sorted(by_reason.values(), key=len, reverse=True)
    lines = [_reason_line(group) for group in groups[:MAX_REASONS]]
    if any(problem.message == "is missing" for problem in problems):
        names = ", ".join(list(columns)[:MAX_COLUMNS])
        lines.append(f"  the items have {names or 'no fields'}")
    rest = sum(map(len, groups[MAX_REASONS:]))
    if rest:
        lines.append(f"  {rest:>5} for {len(groups) - MAX_REASONS} other reasons")
    return lines


def _reason_line(group: Sequence[Problem]) -> str:
    first = group[0]
    place = f"{first.file}:{first.line}" + (f" ({first.id})" if first.id else "")
    return f"  {len(group):>5} {first.field}: {first.message}; first in {place}"


def skew_lines(lost_by_value: LostByValue) -> list[str]:
    """Return a line for each value of a type or length of which more is lost than of the others.

    That is when the share of its items that is lost is at least 1.5 times that of all items, and so
    many would be lost by chance in less than one case of a thousand (binomial tail, times the
    number of values). The items that are left of such a benchmark are another mixture.
    """
    lines = []
    for field in dict.fromkeys(field for field, _ in lost_by_value):
        values = {value: pair for (of, value), pair in lost_by_value.items() if of == field}
        items = sum(count for count, _ in values.values())
        lost = sum(count for _, count in values.values())
        share = lost / max(1, items)
        for value, (value_items, value_lost) in sorted(values.items()):
            if value_lost <= 1.5 * share * value_items:
                continue
            chance = stats.binomial_tail(value_items, value_lost, share) * len(values)
            if chance < UNLIKELY:
                lines.append(
                    f"  the loss is skewed: {value_lost} of {value_items} with {field} {value!r},"
                    f" and {lost} of {items} in all"
                )
    return lines


def refusal_message(
    title: str, problems: Sequence[Problem], count: int, limit: float, source: AnnotationSource
) -> str:
    """Return why a benchmark or source is refused, and what would make it accepted.

    Args:
        title: Name of the benchmark or source.
        problems: The items that were refused.
        count: Number of queries and refused items.
        limit: The share that may be refused.
        source: The local copy.
    """
    head = (
        f"{title}: {len(problems)} of {count} items cannot be read, more than the {limit:.1%} that"
        " prepare.max_refused allows:"
    )
    steps = math.ceil(1000 * len(problems) / count)
    # By the comparison that the new limit has to pass: 0.58 * 50 is less than 29.
    enough = steps / 1000 if len(problems) <= steps / 1000 * count else (steps + 1) / 1000
    remedy = "complete the local copy"
    if enough < 1:
        remedy += f", or continue without these items: --set prepare.max_refused={enough:g}"
    reasons = reason_lines(problems, source.columns)
    skew = skew_lines(source.lost_by_value)
    return "\n".join([head, *reasons, *skew, f"problems.jsonl lists each; {remedy}"])
