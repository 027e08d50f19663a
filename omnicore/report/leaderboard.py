"""A comparison of several models as one self-contained HTML page."""

from __future__ import annotations

from typing import NamedTuple

from omnicore.evaluation.leaderboard import Leaderboard
from omnicore.report.page import create_environment, read_source

WIDTH = 200  # of an interval's drawing


class Scale(NamedTuple):
    """The range of all drawn differences, in points."""

    low: float
    high: float

    def x(self, difference: float) -> float:
        """Return the place of a difference in 0..1 on a drawing."""
        return round((100 * difference - self.low) / (self.high - self.low) * WIDTH, 1)


def render_leaderboard(board: Leaderboard) -> str:
    """Return the page."""
    present = {row.view for row in board.rows}
    return (
        create_environment()
        .get_template("leaderboard.html.j2")
        .render(
            board=board,
            css=read_source("page.css"),
            views=[view for view in ("clean", "raw") if view in present],
            scale=_scale(board),
            headline=headline(board),
        )
    )


def headline(board: Leaderboard) -> str:
    """Return which models differ from the first one on the clean view, in one sentence."""
    view = "clean" if any(row.view == "clean" for row in board.rows) else "raw"
    total = next(row for row in board.rows if row.view == view and not row.group)
    better: list[str] = []
    worse: list[str] = []
    unclear: list[str] = []
    for model, cell in zip(board.models[1:], total.cells[1:], strict=True):
        assert cell.difference is not None  # only the first model has none
        if cell.difference.low > 0:
            better.append(model.label)
        elif cell.difference.high < 0:
            worse.append(model.label)
        else:
            unclear.append(model.label)
    first = board.models[0].label
    parts = [
        f"{', '.join(names)} {verb} {first}"
        for names, verb in (
            (better, "beats" if len(better) == 1 else "beat"),
            (worse, "is worse than" if len(worse) == 1 else "are worse than"),
            (unclear, "cannot be told from"),
        )
        if names
    ]
    return f"On the {view} view ({total.cells[0].n} queries): {'; '.join(parts)}."


def _scale(board: Leaderboard) -> Scale:
    differences = [cell.difference for row in board.rows for cell in row.cells if cell.difference]
    low = min(0.0, *(difference.low for difference in differences))
    high = max(0.0, *(difference.high for difference in differences))
    margin = max(0.01, (high - low) * 0.05)
    return Scale(100 * (low - margin), 100 * (high + margin))
