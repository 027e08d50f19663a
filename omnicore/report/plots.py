"""Draw plots as inline SVG.

Marks carry classes (`raw`, `clean`, `leak`, `c0`..) that the page's style sheet colours, so that
one drawing serves the light and the dark theme. Every function takes a `label`: the sentence that a
screen reader says in place of the drawing.

All shares are in 0..1 and shown in per cent; sizes are in the SVG's own units, about one CSS pixel
on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from omnicore.report.canvas import Canvas, Point, round_ticks, separate_labels, whole_percent
from omnicore.schema import Estimate


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval plot.

    Attributes:
        label: Name of the line.
        points: Class and estimate of each of its marks.
        mark: Value of a reference tick on this line; None draws none.
        note: Text at its end.
    """

    label: str
    points: Sequence[tuple[str, Estimate]]
    mark: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a curve plot.

    Attributes:
        kind: Class of the line.
        name: Its name; empty draws no name.
        points: Its points.
        faint: Draw it without a name, as the background of a smoothed line.
    """

    kind: str
    name: str
    points: Sequence[Point]
    faint: bool = False


def plot_intervals(
    rows: Sequence[IntervalRow],
    label: str,
    *,
    domain: tuple[float, float] = (0, 1),
    reference: float | None = None,
    margin: float = 84,
) -> Markup:
    """Draw a dot with its interval for every point of every row, on one axis in per cent.

    Args:
        rows: The rows.
        label: Sentence for screen readers.
        domain: Ends of the axis.
        reference: Value of a dashed line; None draws none.
        margin: Width of the rows' names.
    """
    pitch, top, right = 28.0, 8.0, 60.0
    width, height = 460.0, top + pitch * len(rows) + 24
    low, high = domain
    c = Canvas(width, height)

    def x(value: float) -> float:
        return margin + (min(max(value, low), high) - low) / (high - low) * (width - margin - right)

    for tick in round_ticks(low, high, 5):
        if low - 1e-9 <= tick <= high + 1e-9:
            c.line(x(tick), top, x(tick), height - 22, "grid")
            c.text(x(tick), height - 6, whole_percent(tick), anchor="middle")
    if reference is not None:
        c.line(x(reference), top, x(reference), height - 22, "chance")
    for i, row in enumerate(rows):
        middle = top + pitch * (i + 0.5)
        c.text(margin - 10, middle + 4, row.label, "name", "end")
        for n, (kind, e) in enumerate(row.points):
            place = middle + (n - (len(row.points) - 1) / 2) * 6
            c.line(x(e.low), place, x(e.high), place, f"whisker {kind}")
            c.dot(x(e.value), place, kind, 5 if n == 0 else 3.5)
        if row.mark is not None:
            c.line(x(row.mark), middle - 10, x(row.mark), middle + 10, "mark")
        c.text(width - right + 10, middle + 4, row.note, "name")
    return c.svg(label)


def plot_curves(series: Sequence[Curve], label: str, *, shares: bool = False) -> Markup:
    """Draw lines over training steps, named at their ends.

    Args:
        series: The lines.
        label: Sentence for screen readers.
        shares: Values are shares, shown in per cent; the axis ends at 100 unless all are small.
    """
    width, height, left, top, bottom = 340.0, 200.0, 40.0, 12.0, 30.0
    named = [s for s in series if not s.faint and s.name]
    right = 12 + 6.6 * max((len(s.name) for s in named), default=0)
    c = Canvas(width, height)
    steps = [x for s in series for x, _ in s.points]
    values = [value for s in series for _, value in s.points]
    ticks = round_ticks(min(0.0, *values), max(values))
    if shares and max(values) > 0.2:
        ticks = [0, 0.25, 0.5, 0.75, 1.0]
    first, last, low, high = min(steps), max(steps), ticks[0], ticks[-1]

    def at(point: Point) -> Point:
        x = left + (point[0] - first) / ((last - first) or 1) * (width - left - right)
        return x, height - bottom - (point[1] - low) / ((high - low) or 1) * (height - top - bottom)

    for tick in ticks:
        y = at((first, tick))[1]
        c.line(left, y, width - right, y, "grid")
        c.text(left - 6, y + 4, f"{100 * tick:.4g}" if shares else f"{tick:.4g}", anchor="end")
    for step in (first, last):
        c.text(at((step, low))[0], height - 10, f"{step:.0f}", anchor="middle")
    c.text((left + width - right) / 2, height - 10, "step", anchor="middle")
    for s in series:
        c.path(map(at, s.points), f"line {s.kind}{' faint' if s.faint else ''}")
    ends = [at(s.points[-1])[1] for s in named]
    places = separate_labels(ends, 13, top, height - bottom)
    for s, place in zip(named, places, strict=True):
        c.text(width - right + 6, place + 4, s.name, f"label {s.kind}")
    return c.svg(label)


def smooth(points: Sequence[Point], window: int = 5) -> list[Point]:
    """Return the running mean over `window` points around each, fewer at the ends.

    One step's reward is a mean over few prompts, so its curve is noisy.
    """
    smoothed = []
    for i, (x, _) in enumerate(points):
        # The same reach to both sides: a slope would bend at the ends otherwise.
        reach = min(window // 2, i, len(points) - 1 - i)
        near = [value for _, value in points[i - reach : i + reach + 1]]
        smoothed.append((x, sum(near) / len(near)))
    return smoothed


def plot_histogram(series: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Draw columns side by side over 0, 1, 2 .., with their values above them.

    Args:
        series: One share for every place, by class.
        label: Sentence for screen readers.
    """
    width, height, left, top, bottom = 460.0, 220.0, 10.0, 26.0, 26.0
    places = max(len(shares) for shares in series.values())
    highest = max(max(shares) for shares in series.values()) or 1
    pitch = (width - 2 * left) / places
    thick = pitch * 0.8 / len(series)
    c = Canvas(width, height)
    for n, (kind, shares) in enumerate(series.items()):
        for i, share in enumerate(shares):
            x = left + pitch * i + pitch * 0.1 + thick * n
            tall = share / highest * (height - top - bottom)
            c.box(x, height - bottom - tall, thick - 1, max(tall, 0.8), f"column {kind}")
            text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"
            c.text(x + thick / 2, height - bottom - tall - 4, text, f"value {kind}", "middle")
    for i in range(places):
        c.text(left + pitch * (i + 0.5), height - 9, str(i), anchor="middle")
    c.line(left, height - bottom, width - left, height - bottom, "axis")
    return c.svg(label)


def plot_stacked_bars(rows: Sequence[tuple[str, Mapping[str, int]]], label: str) -> Markup:
    """Draw one bar per row, divided into counts by class, all rows on one scale.

    A count is written where its piece is wide enough.

    Args:
        rows: Name and counts by class of each bar.
        label: Sentence for screen readers.
    """
    pitch, margin, width = 34.0, 92.0, 460.0
    whole = max(sum(counts.values()) for _, counts in rows) or 1
    c = Canvas(width, pitch * len(rows))
    for i, (name, counts) in enumerate(rows):
        x, y = margin, pitch * i + 4
        c.text(margin - 10, y + 17, name, "name", "end")
        for kind, count in counts.items():
            wide = count / whole * (width - margin)
            c.box(x, y, max(wide - 1.5, 0), pitch - 10, f"column {kind}")
            if wide > 7 * len(str(count)) + 6:
                c.text(x + wide / 2, y + 17, str(count), f"inside {kind}", "middle")
            x += wide
    return c.svg(label)


def plot_bars(rows: Sequence[tuple[str, float, str]], label: str) -> Markup:
    """Draw horizontal bars, each (name, value, text)."""
    pitch, margin, right = 24.0, 150.0, 70.0
    width, height = 460.0, pitch * len(rows) + 6
    longest = max((value for _, value, _ in rows), default=0) or 1
    c = Canvas(width, height)
    for i, (name, value, text) in enumerate(rows):
        y, long = 3 + pitch * i, value / longest * (width - margin - right)
        c.text(margin - 10, y + 16, name, "name", "end")
        c.box(margin, y + 4, max(long, 1), pitch - 10, "column plain")
        c.text(margin + long + 8, y + 16, text, "name")
    return c.svg(label)
