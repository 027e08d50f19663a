"""What is lost of a benchmark or source when some of its items cannot be read, in words: why, how
much, and whether of one kind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from omnicore.data.benchmarks.base import AnnotationSource, Problem
from omnicore.scoring import stats

Losses = Mapping[tuple[str, str], tuple[int, int]]  # by field and value: items, and those lost
COLUMNS = 30
REASONS = 8  # shown on the terminal; problems.jsonl has all
UNLIKELY = 0.001  # chance of a loss of this size within one value, if the lost were any items
# What tells two messages of one reason apart: names in quotes, files, ids and numbers.
_SPECIFIC = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\S*[/\d]\S*|\b[A-Z]\b")


def reason_lines(problems: Sequence[Problem], columns: Iterable[str]) -> list[str]:
    """A line for each reason with its count and the first item that it was found in, the most
    frequent first; where a field is missing, the columns that were found."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        found.setdefault((problem.field, _SPECIFIC.sub("...", problem.message)), []).append(problem)
    groups = sorted(found.values(), key=len, reverse=True)
    lines = [_line(group) for group in groups[:REASONS]]
    rest = sum(map(len, groups[REASONS:]))
    if any(problem.message == "is missing" for problem in problems):
        lines.append(f"  the items have {', '.join(list(columns)[:COLUMNS]) or 'no fields'}")
    return [*lines, *([f"  {rest:>5} for {len(groups) - REASONS} other reasons"] if rest else [])]


def _line(group: Sequence[Problem]) -> str:
    first = group[0]
    where = f"{first.file}:{first.line}" + (f" ({first.id})" if first.id else "")
    return f"  {len(group):>5} {first.field}: {first.message}; first in {where}"


def skew_lines(losses: Losses) -> list[str]:
    """A line for each value of a type or length of which more is lost than of the others.

    It is when at least half as much again is lost of its items as of all, and so many lost ones
    would be seen by luck in less than one case of a thousand (binomial tail, over the number of
    values). What is left of such a benchmark is another mixture.
    """
    found = []
    for field in dict.fromkeys(field for field, _ in losses):
        values = {value: pair for (of, value), pair in losses.items() if of == field}
        items, lost = (sum(pair[i] for pair in values.values()) for i in (0, 1))
        for value, (count, gone) in sorted(values.items()):
            share = lost / max(1, items)
            if (
                gone > 1.5 * share * count
                and stats.binomial_tail(count, gone, share) * len(values) < UNLIKELY
            ):
                found.append(
                    f"  the loss is skewed: {gone} of {count} with {field} {value!r}, and {lost} of"
                    f" {items} in all"
                )
    return found


def refusal_message(
    title: str, problems: Sequence[Problem], count: int, limit: float, source: AnnotationSource
) -> str:
    """Why a benchmark or source is not taken, and what would take it."""
    head = (
        f"{title}: {len(problems)} of {count} items cannot be read, more than the {limit:.1%} that"
        " prepare.max_refused allows:"
    )
    steps = math.ceil(1000 * len(problems) / count)
    # By the comparison that it has to pass: 0.58 * 50 is less than 29.
    enough = steps / 1000 if len(problems) <= steps / 1000 * count else (steps + 1) / 1000
    remedy = "complete the local copy"
    if enough < 1:
        remedy += f", or continue without these items: --set prepare.max_refused={enough:g}"
    return "\n".join(
        [
            head,
            *reason_lines(problems, source.columns),
            *skew_lines(source.losses),
            f"problems.jsonl lists each; {remedy}",
        ]
    )
