"""Plots: labels that do not collide, axes that cover their data, text that stays text."""

from __future__ import annotations

import numpy as np
import pytest

from omnicore.report import canvas, plots, stage_plot
from omnicore.schema import Estimate


def test_text_of_a_plot_is_escaped() -> None:
    row = plots.IntervalRow(
        "<b>&", [("leak", Estimate(value=0.5, low=0.4, high=0.6, n=9))], note="<i>"
    )
    drawn = plots.plot_intervals([row], 'a "<script>"')
    assert "&lt;b&gt;&amp;" in drawn
    assert not any(mark in drawn for mark in ("<b>", "<i>", "<script>", '"a "'))


def test_a_stage_without_an_estimate_is_left_out_of_its_line() -> None:
    e = Estimate(value=0.5, low=0.4, high=0.6, n=9)
    drawn = stage_plot.plot_stages(
        "BSRD", {"raw": [e] * 4, "clean": [None, e, e, None]}, "two lines"
    )
    assert drawn.count('class="dot raw"') == 4
    assert drawn.count('class="dot clean"') == 2


@pytest.mark.parametrize(
    ("places", "gap", "moved"),
    [
        ([10, 50], 12, [10, 50]),
        ([50, 50], 12, [44, 56]),
        ([99, 100], 12, [88, 100]),
        ([1, 0], 12, [12, 0]),
    ],
)
def test_labels_move_apart_inside_the_plot(
    places: list[float], gap: float, moved: list[float]
) -> None:
    assert canvas.separate_labels(places, gap, 0, 100) == pytest.approx(moved, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.013), (0, 15.2), (-0.4, 1), (3, 3), (0, 873)]
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    ticks = canvas.round_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert len(ticks) <= 7
    steps = np.diff(ticks)
    assert all(f"{step:.0e}"[0] in "125" for step in steps)


def test_smoothing_keeps_a_slope_and_halves_noise() -> None:
    line = [(float(i), 2.0 * i) for i in range(20)]
    assert plots.smooth(line) == line
    noise = [(float(i), float(i % 2)) for i in range(20)]
    assert max(abs(y - 0.5) for _, y in plots.smooth(noise)[2:-2]) <= 0.11
