"""Charts as SVG text, without a library: `Chart`. Colours are CSS classes, so that a page decides on light or dark."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 620, 380
LEFT, RIGHT, TOP, BOTTOM = 72, 22, 14, 50
LETTER = 7.0
"""Width of a digit of a tick's label, at most."""


@dataclass(slots=True)
class Chart:
    """One pair of axes; what is drawn is clipped to them.

    Attributes
    ----------
    x, y
        Least and greatest value of each axis.
    x_label, y_label
        What they mean, with the unit.
    log_x
        Whether x is drawn by its logarithm.
    percent
        Of ``x`` and ``y``: whether shares are written as percent.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    log_x: bool = False
    percent: tuple[bool, bool] = (True, True)
    width: int = WIDTH
    height: int = HEIGHT
    _parts: list[str] = field(default_factory=list)
    _ticks_y: list[tuple[float, str]] = field(init=False)
    _left: float = field(init=False)

    def __post_init__(self) -> None:
        self._ticks_y = _ticks(self.y, False, self.percent[1], 6)
        widest = max((len(text) for _, text in self._ticks_y), default=0) * LETTER
        self._left = max(LEFT, widest + 32)  # the axis' name stands left of them

    def line(self, points: Iterable[Sequence[float]], style: str, title: str = "") -> None:
        """Draw a line through points; `style` is a CSS class."""
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline class="line {style}" points="{path}">{_title(title)}</polyline>')

    def band(self, upper: Iterable[Sequence[float]], lower: Iterable[Sequence[float]], style: str) -> None:
        """Fill what lies between two lines."""
        points = [*upper, *reversed(list(lower))]
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        self._parts.append(f'<polygon class="band {style}" points="{path}"/>')

    def point(
        self,
        x: float,
        y: float,
        style: str,
        title: str = "",
        *,
        shape: str = "circle",
        x_interval: Sequence[float] | None = None,
        y_interval: Sequence[float] | None = None,
        label: str = "",
    ) -> None:
        """Draw a point with its intervals as bars; `shape` is ``circle`` or ``square``."""
        at_x, at_y = self._at_x(x), self._at_y(y)
        if x_interval is not None:
            a, b = (self._at_x(value) for value in x_interval)
            self._parts.append(f'<path class="bar {style}" d="M{a:.1f} {at_y:.1f}H{b:.1f}"/>')
        if y_interval is not None:
            a, b = (self._at_y(value) for value in y_interval)
            self._parts.append(f'<path class="bar {style}" d="M{at_x:.1f} {a:.1f}V{b:.1f}"/>')
        if shape == "square":
            mark = f'<rect class="mark {style}" x="{at_x - 5:.1f}" y="{at_y - 5:.1f}" width="10" height="10">'
            self._parts.append(f"{mark}{_title(title)}</rect>")
        else:
            mark = f'<circle class="mark {style}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5.5">'
            self._parts.append(f"{mark}{_title(title)}</circle>")
        if label:
            right = at_x < self.width - RIGHT - 80
            anchor, shift = ("start", 9) if right else ("end", -9)
            place = f'x="{at_x + shift:.1f}" y="{at_y + 15:.1f}" text-anchor="{anchor}"'
            self._parts.append(f'<text class="note" {place}>{escape(label)}</text>')

    def span(self, left: float, right: float, style: str, title: str = "") -> None:
        """Fill the whole height between two values of x."""
        a, b = self._at_x(left), self._at_x(right)
        height = self.height - TOP - BOTTOM
        self._parts.append(
            f'<rect class="{style}" x="{a:.1f}" y="{TOP}" width="{max(b - a, 1):.1f}" height="{height}">'
            f"{_title(title)}</rect>"
        )

    def column(self, left: float, right: float, height: float, style: str, title: str = "") -> None:
        """Draw a bar from the lower edge."""
        a, b, top, foot = self._at_x(left), self._at_x(right), self._at_y(height), self._at_y(self.y[0])
        self._parts.append(
            f'<rect class="{style}" x="{a + 0.5:.1f}" y="{top:.1f}" width="{max(b - a - 1, 0.5):.1f}" '
            f'height="{max(foot - top, 0):.1f}">{_title(title)}</rect>'
        )

    def render(self, description: str) -> str:
        """Return the SVG element; `description` says to those who cannot see it what it shows."""
        w, h, left = self.width, self.height, self._left
        frame = f'x="{left:.0f}" y="{TOP}" width="{w - left - RIGHT}" height="{h - TOP - BOTTOM}"'
        clip = f"c{crc32(description.encode()):x}"
        grid = []
        for value, text in self._ticks_x():
            at = self._at_x(value)
            grid.append(f'<path class="grid" d="M{at:.1f} {TOP}V{h - BOTTOM}"/>')
            grid.append(f'<text class="tick" x="{at:.1f}" y="{h - BOTTOM + 17}" text-anchor="middle">{text}</text>')
        for value, text in self._ticks_y:
            at = self._at_y(value)
            grid.append(f'<path class="grid" d="M{left:.0f} {at:.1f}H{w - RIGHT}"/>')
            grid.append(f'<text class="tick" x="{left - 7:.0f}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
        middle_x, middle_y = (left + w - RIGHT) / 2, (TOP + h - BOTTOM) / 2
        return (
            f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{escape(description, quote=True)}">'
            f'<clipPath id="{clip}"><rect {frame}/></clipPath>{"".join(grid)}'
            f'<g clip-path="url(#{clip})">{"".join(self._parts)}</g><rect class="frame" {frame}/>'
            f'<text class="axis" x="{middle_x:.0f}" y="{h - 10}" text-anchor="middle">{escape(self.x_label)}</text>'
            f'<text class="axis" transform="translate(15 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_label)}</text></svg>"
        )

    def _ticks_x(self) -> list[tuple[float, str]]:
        """Return as many ticks as have room for their labels beside each other."""
        found: list[tuple[float, str]] = []
        for most in (7, 5, 4, 3, 2, 1):
            found = _ticks(self.x, self.log_x, self.percent[0], most)
            places = [(self._at_x(value), len(text) * LETTER / 2 + 2) for value, text in found]
            if all(b - half_b >= a + half_a for (a, half_a), (b, half_b) in pairwise(places)):
                break
        return found

    def _at_x(self, value: float) -> float:
        low, high = self.x
        if self.log_x:
            low, high, value = log10(low), log10(high), log10(max(value, low / 10))
        return self._left + (value - low) / (high - low) * (self.width - self._left - RIGHT)

    def _at_y(self, value: float) -> float:
        low, high = self.y
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)


def span(values: Iterable[float], least: float = 0.0) -> tuple[float, float]:
    """Return a range with room around finite values, at least `least` wide."""
    finite = [v for v in values if v == v and abs(v) != float("inf")] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = max((high - low) * 0.06, (least - (high - low)) / 2, 1e-9)
    return low - room, high + room


def _ticks(limits: tuple[float, float], log: bool, percent: bool, most: int) -> list[tuple[float, str]]:
    low, high = limits
    if log:
        values = [m * 10.0**e for e in range(floor(log10(low)), ceil(log10(high)) + 1) for m in (1, 2, 5)]
        values = [v for v in values if low * 0.999 <= v <= high * 1.001]
        if len(values) > 2 * most:  # as many decades: the powers of ten alone
            values = [v for v in values if f"{v:e}".startswith("1.0")]
            values = values[:: -(-len(values) // (2 * most))]
        return [(v, f"{v:,g}") for v in values]
    rough = (high - low) / most
    magnitude = 10.0 ** floor(log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    values = [n * step for n in range(first, floor(high / step + 1e-9) + 1)]
    if percent:
        places = max(0, -floor(log10(step * 100) + 1e-9)) + (
            1 if f"{step * 100:e}".startswith("2.5") and step < 0.1 else 0
        )
        return [(v, f"{100 * v:.{places}f} %") for v in values]
    return [(v, f"{v:,g}") for v in values]


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
