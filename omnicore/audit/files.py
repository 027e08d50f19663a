"""Read and check the outputs of prepare and probe: queries and draws as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from omnicore.audit.draws import (
    FAILED,
    NONE,
    SINGLE_ANSWER,
    TRUNCATED,
    UNREADABLE,
    Ints,
    OptionOrders,
    QueryArrays,
)
from omnicore.errors import DataError
from omnicore.schema import BENCHMARK_QUERIES, BenchmarkInfo, Outcome, Query, QueryKey, View
from omnicore.storage.files import read_json, read_jsonl

FIELDS = itemgetter("benchmark", "id", "view", "draw", "answer", "outcome", "permutation")
FAILURE_FIELDS = itemgetter("benchmark", "id", "view", "draw")
MISSING = -5  # in a grid of answers: no draw read yet


class ProbeRecord(BaseModel):
    """`probe.json`: the probe model, its file of queries, its profile, and the draws per view."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    profile_hash: str
    draws: dict[View, int]
    data: str = BENCHMARK_QUERIES
    seed: int = 0


@dataclass(frozen=True)
class ProbeDraws:
    """All draws of a probe.

    Attributes:
        file: The file that holds the draws.
        answers: Answers [N, n] by view, coded as in `draws`.
        orders: Orders in which the options were shown under visual_only.
    """

    file: Path
    answers: dict[View, Ints]
    orders: OptionOrders


def read_queries(folder: Path, data: str = BENCHMARK_QUERIES) -> QueryArrays:
    """Read one file of queries of a prepare output, with what the audit may remove.

    For the benchmarks, `benchmarks.json` says what may be removed. Any other file holds training
    items, which are filtered like a benchmark where they have sound. Without sound nothing is
    withheld from a probe, so a query that it solves shows no shortcut.

    Args:
        folder: Output of prepare.
        data: Name of the file of queries.

    Raises:
        DataError: The file is empty or repeats a query, or benchmarks.json does not fit it.
    """
    path = folder / data
    queries = read_jsonl(path, Query)
    _check_queries(path, queries)
    names = {q.benchmark for q in queries}
    if data == BENCHMARK_QUERIES:
        return QueryArrays(queries, _filtered_benchmarks(folder / "benchmarks.json", names))
    arrays = QueryArrays(queries, frozenset(names))
    arrays.filtered &= np.array([_has_sound(q) for q in queries])
    return arrays


def _check_queries(path: Path, queries: Sequence[Query]) -> None:
    if not queries:
        raise DataError(
            f"{path} holds no query; run prepare again", code="queries-empty", path=path
        )
    counts = Counter(q.key for q in queries)
    key, most = counts.most_common(1)[0]
    if most > 1:
        raise DataError(
            f"{path} holds {'/'.join(key)} more than once; run prepare again",
            code="queries-duplicate",
            path=path,
            field="id",
        )


def _has_sound(query: Query) -> bool:
    return any(medium.kind == "audio" for medium in query.media)


def _filtered_benchmarks(path: Path, names: set[str]) -> frozenset[str]:
    try:
        infos = TypeAdapter(list[BenchmarkInfo]).validate_python(read_json(path))
    except ValidationError as error:
        raise _invalid_file(path, error, "prepare", code="benchmarks-invalid") from error
    unlisted = sorted(names - {info.name for info in infos})
    if unlisted:
        raise DataError(
            f"{path} does not list {', '.join(unlisted)}; run prepare again",
            code="benchmarks-incomplete",
            path=path,
            field="name",
        )
    return frozenset(info.name for info in infos if info.filter_policy == "filtered")


def read_probe(folder: Path) -> ProbeRecord:
    """Read `probe.json` of a probe output.

    Raises:
        DataError: The file is invalid, or the probe has no draws under visual_only.
    """
    path = folder / "probe.json"
    try:
        probe = ProbeRecord.model_validate(read_json(path))
    except ValidationError as error:
        raise _invalid_file(path, error, "probe", code="probe-invalid") from error
    if not probe.draws.get(View.visual_only):
        raise DataError(
            f"{path}: no draws under visual_only, from which verdicts are made; set"
            " draws.visual_only in the probe's section",
            code="probe-no-visual-draws",
            path=path,
            field="draws.visual_only",
        )
    return probe


def _invalid_file(path: Path, error: ValidationError, step: str, *, code: str) -> DataError:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "content"
    message = f"{path}: {field}: {first['msg']}; run {step} again"
    return DataError(message, code=code, path=path, field=field)


def read_draws(folder: Path, probe: ProbeRecord, arrays: QueryArrays) -> ProbeDraws:
    """Read the draws of every query; FAILED where `errors.jsonl` lists the request.

    A full audit has some hundred thousand lines, so lines are parsed as plain JSON and only the
    fields in use are checked; pydantic would take several times as long.

    Args:
        folder: Output of probe.
        probe: Its `probe.json`.
        arrays: The queries that were probed.

    Raises:
        DataError: A line is not a draw of these queries, or a query lacks draws that
            `errors.jsonl` does not list.
    """
    path = folder / "draws.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run probe again", code="draws-missing", path=path)
    table = DrawTable(probe, arrays)
    _read_lines(path, table.add_draw)
    errors = folder / "errors.jsonl"
    if errors.is_file():
        _read_lines(errors, table.add_failure)
    table.check_complete(path)
    answers = {View(view): grid for view, grid in table.grids.items()}
    return ProbeDraws(path, answers, table.orders)


class _InvalidField(ValueError):
    """A field of a line that does not fit the queries."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _read_lines(path: Path, add: Callable[[dict[str, Any]], None]) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                add(from_json(line))
            except KeyError as error:
                raise DataError(
                    f"{path}:{number}: field {error} is missing; run probe again",
                    code="draws-missing-field",
                    path=path,
                    line=number,
                    field=str(error.args[0]),
                ) from error
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}: {error}; run probe again",
                    code="draws-invalid-line",
                    path=path,
                    line=number,
                    field=error.field if isinstance(error, _InvalidField) else None,
                ) from error


class DrawTable:
    """Grids of answers [N, n] by view, filled line by line."""

    def __init__(self, probe: ProbeRecord, arrays: QueryArrays) -> None:
        self._planned = probe.draws
        self._queries = arrays.queries
        self._rows: dict[QueryKey, int] = {q.key: row for row, q in enumerate(arrays.queries)}
        self._permutations = _Permutations()
        self._unknown: list[str] = []
        self.grids: dict[str, Ints] = {}
        for view, draws in probe.draws.items():
            if draws:
                self.grids[view.value] = np.full((len(self._rows), draws), MISSING, dtype=np.int64)
        visual = self.grids[View.visual_only.value]
        self.orders = OptionOrders(np.full_like(visual, NONE), np.full_like(visual, NONE))

    def add_draw(self, line: dict[str, Any]) -> None:
        """Add a line of draws.jsonl; raise KeyError or ValueError where it is invalid."""
        benchmark, name, view, number, answer, outcome, permutation = FIELDS(line)
        row = self._row(benchmark, name, view, number)
        if row is None:
            return
        query = self._queries[row]
        truncated = bool(line.get("truncated"))
        self.grids[view][row, number] = _answer_code(query, answer, outcome, truncated)
        if view == View.visual_only:
            cycle, rotation = self._permutations(permutation, len(query.options))
            self.orders.cycle[row, number] = cycle
            self.orders.rotation[row, number] = rotation

    def add_failure(self, line: dict[str, Any]) -> None:
        """Add a line of errors.jsonl; raise KeyError or ValueError where it is invalid."""
        benchmark, name, view, number = FAILURE_FIELDS(line)
        row = self._row(benchmark, name, view, number)
        if row is not None:
            self.grids[view][row, number] = FAILED

    def _row(self, benchmark: str, name: str, view: str, number: object) -> int | None:
        """Return the row of a line's query; None for an unknown query.

        Raises:
            ValueError: The draw is not one of the planned ones, or occurs twice.
        """
        row = self._rows.get((benchmark, name))
        if row is None:
            self._unknown.append(f"{benchmark}/{name}")
            return None
        grid = self.grids.get(view)
        if grid is None or type(number) is not int or not 0 <= number < grid.shape[1]:
            raise _InvalidField(
                "draw",
                f"draw {number!r} under {view!r} is not among those of probe.json, {self._planned}",
            )
        if grid[row, number] != MISSING:
            message = f"{benchmark}/{name} has draw {number} under {view} twice"
            raise _InvalidField("draw", message)
        return row

    def check_complete(self, path: Path) -> None:
        """Raise DataError for draws of unknown queries and for queries that lack draws."""
        if self._unknown:
            raise DataError(
                f"{path}: {len(self._unknown)} draws are of queries that prepare's output does not"
                f" hold ({self._unknown[0]} first): probe these queries, or give the prepare output"
                " that was probed",
                code="draws-unknown-query",
                path=path,
                field="id",
            )
        for view, grid in self.grids.items():
            incomplete = np.flatnonzero((grid == MISSING).any(axis=1))
            if not incomplete.size:
                continue
            first = incomplete[0]
            present = int((grid[first] != MISSING).sum())
            raise DataError(
                f"{path}: {incomplete.size} of {len(self._rows)} queries lack draws under {view}"
                f" ({'/'.join(self._queries[first].key)} first, with {present} of"
                f" {grid.shape[1]}): probe again on these queries",
                code="draws-incomplete",
                path=path,
                field=view,
            )


class _Permutations:
    """Identify permutations by cycle number and rotation, each worked out once.

    The cycle number is that of the order up to rotation; the rotation is the place of the query's
    first option.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}
        self._cycles: dict[tuple[int, ...], int] = {}

    def __call__(self, permutation: Sequence[int], options: int) -> tuple[int, int]:
        order = tuple(permutation)
        known = self._known.get(order)
        if known is not None and len(order) == options:
            return known
        if sorted(order) != list(range(options)):
            message = f"permutation {list(order)} is not one of {options} options"
            raise _InvalidField("permutation", message)
        rotation = order.index(0) if order else 0
        cycle = self._cycles.setdefault(order[rotation:] + order[:rotation], len(self._cycles))
        self._known[order] = cycle, rotation
        return cycle, rotation


def _answer_code(query: Query, answer: str | None, outcome: str, truncated: bool) -> int:
    """Return the index of the option given, or NONE, TRUNCATED or UNREADABLE.

    An outcome `incorrect` without an answer names none of the options.

    Raises:
        ValueError: The answer and its outcome do not fit the query. The answer to another query
            would otherwise be counted as a miss.
    """
    if truncated and outcome != Outcome.no_answer:
        raise _InvalidField(
            "truncated",
            f"outcome {outcome!r} of a reply that was truncated by its length limit: its answer is"
            " unknown",
        )
    if query.answer_kind not in SINGLE_ANSWER:
        codes = {Outcome.correct: 0, Outcome.incorrect: NONE, Outcome.no_answer: UNREADABLE}
        code = codes[Outcome(outcome)]
        return TRUNCATED if truncated else code
    if outcome not in _possible_outcomes(query, answer):
        raise _InvalidField(
            "outcome",
            f"outcome {outcome!r} of answer {answer!r} does not fit the query, whose answer is"
            f" {query.answer!r}",
        )
    if answer is not None:
        if answer not in query.options:
            raise _InvalidField(
                "answer",
                f"answer {answer!r} is not among the query's options {list(query.options)}",
            )
        return query.options.index(answer)
    if truncated:
        return TRUNCATED
    return UNREADABLE if outcome == Outcome.no_answer else NONE


def _possible_outcomes(query: Query, answer: str | None) -> tuple[Outcome, ...]:
    if answer is None:
        return Outcome.no_answer, Outcome.incorrect
    return (Outcome.correct if answer == query.answer else Outcome.incorrect,)
