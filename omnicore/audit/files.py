"""What prepare and probe wrote, read and checked: queries and draws as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from omnicore.audit.draws import CUT, FAILED, NONE, SINGLE, UNREAD, Audited, Ints, Orders
from omnicore.errors import DataError
from omnicore.schema import BenchmarkInfo, Outcome, Query, View
from omnicore.storage.files import read_json, read_jsonl

BENCHMARKS = "queries.jsonl"
FIELDS = itemgetter("benchmark", "id", "view", "draw", "answer", "outcome", "permutation")
MISSING = -5  # in a grid of answers: no draw seen


class Probe(BaseModel):
    """`probe.json`: who drew, from which file, under which profile, and how many draws a query has
    under each view."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    profile_hash: str
    draws: dict[View, int]
    data: str = BENCHMARKS
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """By view, answers [N, n]; and the orders in which the options were shown under visual_only.

    `file` held them.
    """

    file: Path
    answers: dict[View, Ints]
    orders: Orders


def read_queries(folder: Path, data: str = BENCHMARKS) -> Audited:
    """The queries of one file of prepare, with what the audit may do to them.

    Of the benchmarks, `benchmarks.json` says it. Any other file holds training items, which are
    filtered like a benchmark: those with sound. Without sound a query has nothing withheld, and a
    probe that solves it shows no shortcut.
    """
    path = folder / data
    queries = read_jsonl(path, Query)
    if not queries:
        raise DataError(f"{path} holds no query: run prepare again")
    if len({q.key for q in queries}) < len(queries):
        twice = next(key for key, n in Counter(q.key for q in queries).items() if n > 1)
        raise DataError(f"{path} holds {'/'.join(twice)} more than once: run prepare again")
    names = {q.benchmark for q in queries}
    if data != BENCHMARKS:
        audited = Audited(queries, frozenset(names))
        audited.filtered &= np.array([any(m.kind == "audio" for m in q.media) for q in queries])
        return audited
    path = folder / "benchmarks.json"
    try:
        infos = {
            info.name: info
            for info in TypeAdapter(list[BenchmarkInfo]).validate_python(read_json(path))
        }
    except ValidationError as error:
        raise _misfit(path, error, "prepare") from error
    if unknown := sorted(names - infos.keys()):
        raise DataError(f"{path} says nothing of {', '.join(unknown)}: run prepare again")
    return Audited(
        queries, frozenset(name for name, info in infos.items() if info.filter_policy == "filtered")
    )


def read_probe(folder: Path) -> Probe:
    path = folder / "probe.json"
    try:
        probe = Probe.model_validate(read_json(path))
    except ValidationError as error:
        raise _misfit(path, error, "probe") from error
    if not probe.draws.get(View.visual_only):
        raise DataError(
            f"{path}: no draws under visual_only, the ground of verdicts; set draws.visual_only in"
            " the probe's section"
        )
    return probe


def _misfit(path: Path, error: ValidationError, step: str) -> DataError:
    first = error.errors()[0]
    return DataError(
        f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}; run {step} again"
    )


def read_draws(folder: Path, probe: Probe, audited: Audited) -> Drawn:
    """The draws of every query, FAILED where `errors.jsonl` lists the request as failed for good.

    Raises DataError on a line that is no draw of these queries, and on queries that lack draws which are not listed. A full
    audit has some hundred thousand lines: plain JSON and a check of each field that is used, in place of pydantic.
    """
    path = folder / "draws.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run probe again")
    rows = {q.key: row for row, q in enumerate(audited.queries)}
    grids = {
        view.value: np.full((len(rows), n), MISSING, dtype=np.int64)
        for view, n in probe.draws.items()
        if n
    }
    visual = grids[View.visual_only.value]
    orders = Orders(np.full_like(visual, NONE), np.full_like(visual, NONE))
    turns = _Turns()
    unknown: list[str] = []

    def place(benchmark: str, name: str, view: str, nth: object) -> tuple[Ints, int, int] | None:
        """Grid, row and draw of a line; None for an unknown query.

        Raises ValueError where the draw cannot be.
        """
        if (row := rows.get((benchmark, name))) is None:
            unknown.append(f"{benchmark}/{name}")
            return None
        grid = grids.get(view)
        if grid is None or type(nth) is not int or not 0 <= nth < grid.shape[1]:
            raise ValueError(
                f"draw {nth!r} under {view!r} is not among those of probe.json, {probe.draws}"
            )
        if grid[row, nth] != MISSING:
            raise ValueError(f"{benchmark}/{name} has draw {nth} under {view} twice")
        return grid, row, nth

    def draw(line: dict[str, Any]) -> None:
        benchmark, name, view, nth, given, outcome, order = FIELDS(line)
        if found := place(benchmark, name, view, nth):
            grid, row, nth = found
            query = audited.queries[row]
            grid[row, nth] = _column(query, given, outcome, bool(line.get("truncated")))
            if grid is visual:
                orders.cycle[row, nth], orders.turn[row, nth] = turns(order, len(query.options))

    def failure(line: dict[str, Any]) -> None:
        if found := place(line["benchmark"], line["id"], line["view"], line["draw"]):
            grid, row, nth = found
            grid[row, nth] = FAILED

    errors = folder / "errors.jsonl"
    for file, take in ((path, draw), *([(errors, failure)] if errors.is_file() else [])):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    take(from_json(line))
                except KeyError as error:
                    raise DataError(
                        f"{file}:{number}: field {error} is missing; run probe again"
                    ) from error
                except (ValueError, TypeError) as error:
                    raise DataError(f"{file}:{number}: {error}; run probe again") from error
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} draws are of queries that prepare's output does not hold"
            f" ({unknown[0]} first): probe these queries, or give the prepare output that was"
            " probed"
        )
    for view, grid in grids.items():
        lacking = np.flatnonzero((grid == MISSING).any(axis=1))
        if lacking.size:
            key, has = (
                "/".join(audited.queries[lacking[0]].key),
                int((grid[lacking[0]] != MISSING).sum()),
            )
            raise DataError(
                f"{path}: {lacking.size} of {len(rows)} queries lack draws under {view} ({key}"
                f" first, with {has} of {grid.shape[1]}): probe again on these queries"
            )
    return Drawn(path, {View(view): grid for view, grid in grids.items()}, orders)


class _Turns:
    """Permutations as (number of the order up to rotation, place of the query's first option), each
    worked out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}
        self._cycles: dict[tuple[int, ...], int] = {}

    def __call__(self, permutation: Sequence[int], options: int) -> tuple[int, int]:
        order = tuple(permutation)
        found = self._known.get(order)
        if found is None or len(order) != options:
            if sorted(order) != list(range(options)):
                raise ValueError(f"permutation {list(order)} is not one of {options} options")
            turn = order.index(0) if order else 0
            cycle = self._cycles.setdefault(order[turn:] + order[:turn], len(self._cycles))
            found = self._known[order] = cycle, turn
        return found


def _column(query: Query, given: str | None, outcome: str, cut: bool) -> int:
    """Index of the option given, or NONE, CUT or UNREAD.

    An outcome `incorrect` without an answer names none of the options.     Raises ValueError on
    another query's answer, which would be counted as a miss.
    """
    if cut and outcome != Outcome.no_answer:
        raise ValueError(
            f"outcome {outcome!r} of a reply that was cut by its length limit: what it would have"
            " said is not known"
        )
    if query.answer_kind not in SINGLE:
        return (
            CUT
            if cut
            else {Outcome.correct: 0, Outcome.incorrect: NONE, Outcome.no_answer: UNREAD}[
                Outcome(outcome)
            ]
        )
    fit = {None: (Outcome.no_answer, Outcome.incorrect), query.answer: (Outcome.correct,)}.get(
        given, (Outcome.incorrect,)
    )
    if outcome not in fit:
        raise ValueError(
            f"outcome {outcome!r} of answer {given!r} does not fit the query, whose answer is"
            f" {query.answer!r}"
        )
    if given is None:
        return CUT if cut else UNREAD if outcome == Outcome.no_answer else NONE
    if given not in query.options:
        raise ValueError(f"answer {given!r} is not among the query's options {list(query.options)}")
    return query.options.index(given)
