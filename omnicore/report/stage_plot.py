"""Draw accuracy over the stages of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from omnicore.report.canvas import Canvas, separate_labels, whole_percent
from omnicore.schema import Estimate


@dataclass(frozen=True)
class _StageLayout:
    """Sizes of a stage plot, and the places of its axes."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    shares: tuple[float, ...]  # grid lines
    shift: float  # between the marks of two classes, so that their intervals do not overlap
    dot: float  # radius
    label_gap: float  # between labels at the end

    def y(self, value: float) -> float:
        """Return the place of a share."""
        return self.height - self.bottom - value * (self.height - self.top - self.bottom)

    def xs(self, count: int) -> list[float]:
        """Return the places of the stages."""
        step = (self.width - self.left - self.right) / count
        return [self.left + step * (i + 0.5) for i in range(count)]


_LARGE = _StageLayout(460.0, 300.0, 34.0, 70.0, 22.0, 30.0, (0, 0.25, 0.5, 0.75, 1), 9, 5, 17)
_SMALL = _StageLayout(240.0, 150.0, 26.0, 34.0, 12.0, 24.0, (0, 0.5, 1), 5, 3, 12)

StageSeries = Mapping[str, Sequence[Estimate | None]]


def plot_stages(
    stages: Sequence[str],
    series: StageSeries,
    label: str,
    *,
    chance: float | None = None,
    small: bool = False,
) -> Markup:
    """Draw accuracy over the stages, one line with intervals per class.

    Args:
        stages: Names of the stages.
        series: Estimates by stage, by class; two classes at most.
        label: Sentence for screen readers.
        chance: Chance level, drawn as a line.
        small: Draw a small plot, which shows values only at the end.
    """
    layout = _SMALL if small else _LARGE
    canvas = Canvas(layout.width, layout.height)
    xs = layout.xs(len(stages))
    _draw_stage_axes(canvas, layout, stages, xs)
    ends: list[tuple[str, float, str]] = []
    if chance is not None:
        y = layout.y(chance)
        canvas.line(layout.left, y, layout.width - layout.right, y, "chance")
        ends.append(("tick", y, "chance"))
    for number, (kind, estimates) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * layout.shift
        present = [(x + shift, e) for x, e in zip(xs, estimates, strict=True) if e is not None]
        if present:
            _draw_stage_line(canvas, layout, kind, present)
            last = present[-1][1].value
            text = whole_percent(last) if small else f"{kind} {whole_percent(last)}"
            ends.append((f"label {kind}", layout.y(last), text))
    low, high = layout.top, layout.height - layout.bottom
    places = separate_labels([y for _, y, _ in ends], layout.label_gap, low, high)
    for (kind, _, text), place in zip(ends, places, strict=True):
        canvas.text(layout.width - layout.right + (4 if small else 0), place + 4, text, kind)
    if not small:
        _draw_stage_values(canvas, layout, series, xs[:-1])
    return canvas.svg(label)


def _draw_stage_axes(
    canvas: Canvas, layout: _StageLayout, stages: Sequence[str], xs: Sequence[float]
) -> None:
    for share in layout.shares:
        y = layout.y(share)
        canvas.line(layout.left, y, layout.width - layout.right, y, "grid")
        canvas.text(layout.left - 6, y + 4, whole_percent(share), anchor="end")
    for x, name in zip(xs, stages, strict=True):
        canvas.text(x, layout.height - layout.bottom + 17, name, anchor="middle")


def _draw_stage_line(
    canvas: Canvas, layout: _StageLayout, kind: str, points: Sequence[tuple[float, Estimate]]
) -> None:
    canvas.path([(x, layout.y(e.value)) for x, e in points], f"line {kind}")
    for x, e in points:
        low, high = layout.y(max(e.low, 0)), layout.y(min(e.high, 1))
        canvas.line(x, low, x, high, f"whisker {kind}")
        canvas.dot(x, layout.y(e.value), kind, layout.dot)


def _draw_stage_values(
    canvas: Canvas, layout: _StageLayout, series: StageSeries, xs: Sequence[float]
) -> None:
    """Write the values beside the marks: the higher above its whisker, the lower below."""
    for i, x in enumerate(xs):
        here = []
        for kind, estimates in series.items():
            estimate = estimates[i]
            if estimate is not None:
                here.append((estimate, kind))
        here.sort(key=lambda item: -item[0].value)
        for rank, (e, kind) in enumerate(here):
            place = layout.y(e.low) + 16 if rank else layout.y(e.high) - 7
            canvas.text(x, place, whole_percent(e.value), f"label {kind}", "middle")
