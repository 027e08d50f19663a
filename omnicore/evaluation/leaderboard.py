"""Several evaluations side by side: scores, and paired differences against the first one.

Every difference is that of `compare_evaluations`, with the first model as A, so that what was asked
otherwise is refused by name. `detectable` is the true difference that such a comparison finds with
the chance 0.8 (evaluation/power.py), from the width of its interval.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from omnicore.errors import ConfigError
from omnicore.evaluation.compare import compare_evaluations
from omnicore.evaluation.power import POWER, SIGNIFICANCE
from omnicore.lineage.runs import stage_of_evaluation
from omnicore.schema import Estimate, Record

By = Literal["benchmark", "type", "wording"]


class ModelName(Record):
    """One evaluated model: a short unique label, the model that was asked, and the output."""

    label: str
    model: str
    folder: str


class LeaderboardCell(Record):
    """One model's mean in 0..1 on a group of queries; the rest is None for the first model.

    `difference` is the paired difference to the first model over the `n` queries that both
    answered.
    """

    n: int
    value: float
    difference: Estimate | None = None
    detectable: float | None = None


class LeaderboardRow(Record):
    """A group of queries under a view: `group` is empty for all of them; one cell a model."""

    group: str
    view: Literal["raw", "clean"]
    cells: list[LeaderboardCell]


class Leaderboard(Record):
    """Models in the order given, and rows: all queries first, then group by group."""

    models: list[ModelName]
    profile_hash: str
    manifest_hash: str
    by: By
    rows: list[LeaderboardRow]


def build_leaderboard(
    folders: Sequence[Path], by: By = "benchmark", manifest: Path | None = None
) -> Leaderboard:
    """Compare two or more outputs of evaluate.

    Args:
        folders: Outputs of evaluate; the first is what the others are compared with.
        by: What a group of queries shares.
        manifest: As in `compare_evaluations`.

    Raises:
        ConfigError: Fewer than two outputs, or one that is not of evaluate.
        DataError: As `compare_evaluations`.
    """
    if len(folders) < 2:
        raise ConfigError(
            "a comparison takes two outputs of evaluate or more", code="compare-too-few"
        )
    first, *others = folders
    pairs = [compare_evaluations(first, other, manifest) for other in others]
    indexed = [
        {_key(row): row for row in pair["rows"] if row["rule"] == "strict"} for pair in pairs
    ]
    rows = [
        LeaderboardRow(group=_group(row), view=row["view"], cells=_cells(row, indexed))
        for row in pairs[0]["rows"]
        if row["rule"] == "strict" and _is_shown(row, by)
    ]
    names = [pairs[0]["a"], *(pair["b"] for pair in pairs)]
    return Leaderboard(
        models=_labels(names),
        profile_hash=pairs[0]["profile_hash"],
        manifest_hash=pairs[0]["manifest_hash"],
        by=by,
        rows=rows,
    )


def leaderboard_csv(board: Leaderboard) -> str:
    """Return one line a group, view and model."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = "group view label model n value difference low high detectable"
    writer.writerow(header.split())
    for row in board.rows:
        for name, cell in zip(board.models, row.cells, strict=True):
            found = cell.difference
            interval = [found.value, found.low, found.high] if found else [None, None, None]
            facts = [row.group, row.view, name.label, name.model, cell.n, cell.value]
            writer.writerow([*facts, *interval, cell.detectable])
    return file.getvalue()


def format_leaderboard(board: Leaderboard) -> str:
    """Return a plain table: a line each group and view, a column each model, in per cent."""
    lines = []
    for number, name in enumerate(board.models):
        role = "  (the others are compared with it)" if number == 0 else ""
        lines.append(f"{_letter(number)}  {name.label}  {name.folder}{role}")
    heads = [_letter(0), *(f"{_letter(i)}  vs A" for i in range(1, len(board.models)))]
    lines.append("")
    lines.append(f"{'strict, %':<28}{'view':<6}{'n':>6}  " + "".join(f"{h:>32}" for h in heads))
    for row in board.rows:
        cells = "".join(f"{_format_cell(cell):>32}" for cell in row.cells)
        lines.append(f"{row.group or 'all queries':<28}{row.view:<6}{row.cells[0].n:>6}  {cells}")
    total = next((row for row in board.rows if row.view == "clean"), board.rows[0])
    limits = [cell.detectable for cell in total.cells if cell.detectable is not None]
    if limits:
        lines.append("")
        lines.append(
            f"On the {total.view} view a difference of {100 * max(limits):.1f} points is found with"
            f" a chance of {POWER:.0%}; * marks intervals without 0."
        )
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["benchmark"], row["type"], row["wording"], row["view"]


def _is_shown(row: dict[str, Any], by: By) -> bool:
    total = row["benchmark"] is None and row["wording"] is None
    grouped = row["type"] is not None and row["wording"] is None
    if by == "benchmark":
        return total or (row["benchmark"] is not None and not grouped)
    if by == "type":
        return total or grouped
    return total or row["wording"] is not None


def _group(row: dict[str, Any]) -> str:
    return "/".join(filter(None, (row["benchmark"], row["type"], row["wording"])))


def _cells(
    row: dict[str, Any], indexed: Sequence[dict[tuple[Any, ...], dict[str, Any]]]
) -> list[LeaderboardCell]:
    cells = [LeaderboardCell(n=row["n"], value=row["a"])]
    for pair in indexed:
        own = pair[_key(row)]
        difference = Estimate.model_validate(own["difference"])
        cells.append(
            LeaderboardCell(
                n=own["n"],
                value=own["b"],
                difference=difference,
                detectable=_detectable(difference),
            )
        )
    return cells


def _detectable(difference: Estimate) -> float:
    normal = NormalDist()
    half_width = normal.inv_cdf(1 - SIGNIFICANCE / 2)
    error = (difference.high - difference.low) / 2 / half_width
    return (half_width + normal.inv_cdf(POWER)) * error


def _labels(names: Sequence[dict[str, str]]) -> list[ModelName]:
    """Label models by their stage in their run, else by name; repeats by their folder."""
    labels = [_label(Path(name["folder"]), name["model"]) for name in names]
    return [
        ModelName(
            label=label
            if labels.count(label) == 1
            else f"{label} ({_folder_name(name['folder'])})",
            **name,
        )
        for label, name in zip(labels, names, strict=True)
    ]


def _label(evaluation: Path, model: str) -> str:
    """Return the trained stage of the model, found among the steps beside the evaluation."""
    stage = stage_of_evaluation(evaluation)
    return stage or model.rstrip("/").rpartition("/")[2]


def _folder_name(folder: str) -> str:
    """Return the name of an output; KFP keeps it in a folder `scores` below the task's."""
    path = Path(folder)
    return path.parent.name if path.name == "scores" else path.name


def _format_cell(cell: LeaderboardCell) -> str:
    text = f"{100 * cell.value:.1f}"
    if cell.difference is None:
        return text
    low, high = 100 * cell.difference.low, 100 * cell.difference.high
    mark = "*" if low > 0 or high < 0 else " "
    return f"{text}  {100 * cell.difference.value:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def _letter(number: int) -> str:
    return chr(65 + number)
