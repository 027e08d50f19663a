"""Build inline SVG from lines, dots, boxes and texts; place labels and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

Point = tuple[float, float]


class Canvas:
    """An SVG under construction; `kind` is the class of a mark."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a line from (x1, y1) to (x2, y2)."""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' class="{escape(kind)}"/>'
        )

    def dot(self, x: float, y: float, kind: str, radius: float = 4) -> None:
        """Draw a filled circle."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="dot {escape(kind)}"/>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a rectangle from its upper left corner."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' class="{escape(kind)}"/>'
        )

    def path(self, points: Iterable[Point], kind: str) -> None:
        """Draw a line through points."""
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path d="{d}" class="{escape(kind)}"/>')

    def text(
        self, x: float, y: float, text: str, kind: str = "tick", anchor: str = "start"
    ) -> None:
        """Write text."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
            f' class="{escape(kind)}">{escape(text)}</text>'
        )

    def svg(self, label: str) -> Markup:
        """Return the drawing, with the sentence that a screen reader says in its place."""
        head = (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img"'
            f' aria-label="{escape(label)}">'
        )
        return Markup(head + "".join(self._parts) + "</svg>")  # every text above is escaped


def whole_percent(value: float) -> str:
    """Return a share in whole per cent, without its unit."""
    return f"{100 * value:.0f}".replace("-", "−")


def separate_labels(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels until neighbours are `gap` apart, inside low..high and in the same order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for _ in range(40):
        for i, j in pairwise(order):
            overlap = gap - (moved[j] - moved[i])
            if overlap > 0:
                moved[i] -= overlap / 2
                moved[j] += overlap / 2
    shift = max(0.0, low - min(moved, default=low)) - max(0.0, max(moved, default=high) - high)
    return [place + shift for place in moved]


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that cover low..high in about `count` steps.

    The step is 1, 2 or 5 times a power of ten.
    """
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]
