"""Plots as inline SVG.

Marks carry classes (`raw`, `clean`, `leak`, `c0`..) that the page's style sheet colours, so that
one drawing serves light and dark. Every drawing takes the sentence that a screen reader says in its
place.

All shares are in 0..1 and shown in per cent; sizes are in the SVG's own units, about one CSS pixel
on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from omnicore.schema import Estimate


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval plot: `points` are (class, estimate); `mark` a reference tick on this
    line alone."""

    label: str
    points: Sequence[tuple[str, Estimate]]
    mark: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a curve plot; `faint` draws it as the background of a smoothed one, without a
    label."""

    kind: str
    name: str
    points: Sequence[tuple[float, float]]
    faint: bool = False


class _Canvas:
    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' class="{escape(kind)}"/>'
        )

    def dot(self, x: float, y: float, kind: str, radius: float = 4) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="dot {escape(kind)}"/>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' class="{escape(kind)}"/>'
        )

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path d="{d}" class="{escape(kind)}"/>')

    def text(
        self, x: float, y: float, text: str, kind: str = "tick", anchor: str = "start"
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
            f' class="{escape(kind)}">{escape(text)}</text>'
        )

    def svg(self, label: str) -> Markup:
        head = (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img"'
            f' aria-label="{escape(label)}">'
        )
        return Markup(head + "".join(self._parts) + "</svg>")  # every text above is escaped


def _per_cent(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", "−")


def _separate_labels(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels apart until neighbours stand `gap` from each other, inside low..high; order is
    kept."""
    order = sorted(range(len(places)), key=places.__getitem__)
    out = list(places)
    for _ in range(40):
        for i, j in pairwise(order):
            overlap = gap - (out[j] - out[i])
            if overlap > 0:
                out[i] -= overlap / 2
                out[j] += overlap / 2
    shift = max(0.0, low - min(out, default=low)) - max(0.0, max(out, default=high) - high)
    return [place + shift for place in out]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover low..high in about `count`
    steps."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
    return [
        i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ]


def plot_stages(
    stages: Sequence[str],
    series: Mapping[str, Sequence[Estimate | None]],
    label: str,
    *,
    chance: float | None = None,
    small: bool = False,
) -> Markup:
    """Accuracy over the stages, one line with intervals for each class in `series` (two at most).

    Small ones show end values only.
    """
    width, height = (240.0, 150.0) if small else (460.0, 300.0)
    left, right, top, bottom = (26.0, 34.0, 12.0, 24.0) if small else (34.0, 70.0, 22.0, 30.0)
    c = _Canvas(width, height)

    def y(value: float) -> float:
        return height - bottom - value * (height - top - bottom)

    step = (width - left - right) / len(stages)
    xs = [left + step * (i + 0.5) for i in range(len(stages))]
    for share in (0, 0.5, 1) if small else (0, 0.25, 0.5, 0.75, 1):
        c.line(left, y(share), width - right, y(share), "grid")
        c.text(left - 6, y(share) + 4, _per_cent(share), anchor="end")
    for x, name in zip(xs, stages, strict=True):
        c.text(x, height - bottom + 17, name, anchor="middle")
    if chance is not None:
        c.line(left, y(chance), width - right, y(chance), "chance")
    ends: list[tuple[str, float, str]] = [] if chance is None else [("tick", y(chance), "chance")]
    for n, (kind, estimates) in enumerate(series.items()):
        shift = (n - (len(series) - 1) / 2) * (
            5 if small else 9
        )  # intervals of two classes must not hide each other
        seen = [(x + shift, e) for x, e in zip(xs, estimates, strict=True) if e is not None]
        if not seen:
            continue
        c.path([(x, y(e.value)) for x, e in seen], f"line {kind}")
        for x, e in seen:
            c.line(x, y(max(e.low, 0)), x, y(min(e.high, 1)), f"whisker {kind}")
            c.dot(x, y(e.value), kind, 3 if small else 5)
        last = seen[-1][1].value
        ends.append(
            (f"label {kind}", y(last), _per_cent(last) if small else f"{kind} {_per_cent(last)}")
        )
    places = _separate_labels([end[1] for end in ends], 12 if small else 17, top, height - bottom)
    for (kind, _, text), place in zip(ends, places, strict=True):
        c.text(width - right + (4 if small else 0), place + 4, text, kind)
    for i, x in enumerate([] if small else xs[:-1]):
        here = [
            (found, kind)
            for kind, estimates in series.items()
            if (found := estimates[i]) is not None
        ]
        for rank, (e, kind) in enumerate(sorted(here, key=lambda item: -item[0].value)):
            place = (
                y(e.low) + 16 if rank else y(e.high) - 7
            )  # the higher value above its whisker, the lower below
            c.text(x, place, _per_cent(e.value), f"label {kind}", "middle")
    return c.svg(label)


def plot_intervals(
    rows: Sequence[IntervalRow],
    label: str,
    *,
    domain: tuple[float, float] = (0, 1),
    reference: float | None = None,
    margin: float = 84,
) -> Markup:
    """A dot with its interval for every point of every row, on one axis in per cent; `reference` is
    a dashed line."""
    pitch, top, right = 28.0, 8.0, 60.0
    width, height = 460.0, top + pitch * len(rows) + 24
    low, high = domain
    c = _Canvas(width, height)

    def x(value: float) -> float:
        return margin + (min(max(value, low), high) - low) / (high - low) * (width - margin - right)

    for tick in _ticks(low, high, 5):
        if low - 1e-9 <= tick <= high + 1e-9:
            c.line(x(tick), top, x(tick), height - 22, "grid")
            c.text(x(tick), height - 6, _per_cent(tick), anchor="middle")
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
    """Lines over training steps, named at their ends.

    `shares` are shown in per cent, of 100 unless all values are small.
    """
    width, height, left, top, bottom = 340.0, 200.0, 40.0, 12.0, 30.0
    named = [s for s in series if not s.faint and s.name]
    right = 12 + 6.6 * max((len(s.name) for s in named), default=0)
    c = _Canvas(width, height)
    steps = [x for s in series for x, _ in s.points]
    values = [value for s in series for _, value in s.points]
    ticks = (
        [0, 0.25, 0.5, 0.75, 1.0]
        if shares and max(values) > 0.2
        else _ticks(min(0.0, *values), max(values))
    )
    first, last, low, high = min(steps), max(steps), ticks[0], ticks[-1]

    def at(point: tuple[float, float]) -> tuple[float, float]:
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
    for s, place in zip(
        named,
        _separate_labels([at(s.points[-1])[1] for s in named], 13, top, height - bottom),
        strict=True,
    ):
        c.text(width - right + 6, place + 4, s.name, f"label {s.kind}")
    return c.svg(label)


def smooth(points: Sequence[tuple[float, float]], window: int = 5) -> list[tuple[float, float]]:
    """Running mean over `window` points around each, fewer at the ends: one step's reward is a mean
    over few prompts."""
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(
            window // 2, i, len(points) - 1 - i
        )  # the same to both sides, so that a slope is not bent at the ends
        near = [value for _, value in points[i - reach : i + reach + 1]]
        out.append((x, sum(near) / len(near)))
    return out


def plot_histogram(series: Mapping[str, Sequence[float]], label: str) -> Markup:
    """Columns side by side over 0, 1, 2 ..; each class holds one share for every place.

    Values stand on the columns.
    """
    width, height, left, top, bottom = 460.0, 220.0, 10.0, 26.0, 26.0
    places = max(len(shares) for shares in series.values())
    highest = max(max(shares) for shares in series.values()) or 1
    pitch = (width - 2 * left) / places
    thick = pitch * 0.8 / len(series)
    c = _Canvas(width, height)
    for n, (kind, shares) in enumerate(series.items()):
        for i, share in enumerate(shares):
            x, tall = (
                left + pitch * i + pitch * 0.1 + thick * n,
                share / highest * (height - top - bottom),
            )
            c.box(x, height - bottom - tall, thick - 1, max(tall, 0.8), f"column {kind}")
            text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"
            c.text(x + thick / 2, height - bottom - tall - 4, text, f"value {kind}", "middle")
    for i in range(places):
        c.text(left + pitch * (i + 0.5), height - 9, str(i), anchor="middle")
    c.line(left, height - bottom, width - left, height - bottom, "axis")
    return c.svg(label)


def plot_stacked_bars(rows: Sequence[tuple[str, Mapping[str, int]]], label: str) -> Markup:
    """One bar a row, cut into counts by class, all rows on one scale; a count is written where its
    piece is wide enough."""
    pitch, margin, width = 34.0, 92.0, 460.0
    whole = max(sum(counts.values()) for _, counts in rows) or 1
    c = _Canvas(width, pitch * len(rows))
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
    """Horizontal bars: (name, value, text)."""
    pitch, margin, right = 24.0, 150.0, 70.0
    width, height = 460.0, pitch * len(rows) + 6
    longest = max((value for _, value, _ in rows), default=0) or 1
    c = _Canvas(width, height)
    for i, (name, value, text) in enumerate(rows):
        y, long = 3 + pitch * i, value / longest * (width - margin - right)
        c.text(margin - 10, y + 16, name, "name", "end")
        c.box(margin, y + 4, max(long, 1), pitch - 10, "column plain")
        c.text(margin + long + 8, y + 16, text, "name")
    return c.svg(label)
