"""Figures as inline SVG: drawn here, with no library and no script, in the page's own colors and font.

Every function returns the text of one `<svg>` element. Text from data is escaped; numbers are rounded to a tenth of a
pixel, so equal values give equal bytes. Series take the classes c0, c1, ... whose colors the page's style sheet has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import escape

COLORS = 10
ROW = 24.0
WIDTH = 900.0


class Canvas:
    """Shapes of a figure, in the order drawn."""

    def __init__(self, width: float, height: float, title: str) -> None:
        """A figure so large, in pixels, with a title for those who cannot see it."""
        self.width, self.height, self.title = width, height, title
        self._shapes: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._shapes.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline class="{kind}" points="{joined}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, tip: str = "", shade: str = "") -> None:
        """A rectangle; `tip` is shown under the pointer, `shade` an opacity."""
        opacity = f' fill-opacity="{shade}"' if shade else ""
        self._shapes.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}"'
            f"{opacity}>{_tip(tip)}</rect>"
        )

    def dot(self, x: float, y: float, kind: str, tip: str = "", radius: float = 4.0) -> None:
        """A filled circle."""
        self._shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_tip(tip)}</circle>')

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "t") -> None:
        """Words whose middle is at height y."""
        self._shapes.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dy="0.35em">{escape(words)}</text>'
        )

    def __str__(self) -> str:
        head = (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" role="img" '
            f'aria-label="{escape(self.title)}">'
        )
        return "\n".join([head, *self._shapes, "</svg>"])


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks, from data to pixels."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, *, count: int = 5, zero: bool = False) -> Axis:
        """A scale that holds all finite values, with about `count` ticks."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= 1e-12 * max(1.0, abs(high)):
            low, high = (low, high + 1.0) if zero else (low - 0.5, high + 0.5)
        step = _round_step((high - low) / count)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, stop, ticks)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def label(self, tick: float) -> str:
        """A tick as text, with as many digits as its step needs."""
        step = self.ticks[1] - self.ticks[0]
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def curves(series: Mapping[str, Sequence[float]], *, title: str, x_label: str, y_label: str) -> str:
    """Lines over 1, 2, ...: a gain at each pick, say."""
    longest = max((len(values) for values in series.values()), default=0)
    canvas = Canvas(WIDTH, 300, title)
    x = Axis.over([0.0, float(longest)], 70, WIDTH - 20)
    y = Axis.over([v for values in series.values() for v in values], 245, 30, zero=True)
    for tick in y.ticks:
        canvas.line(70, y(tick), WIDTH - 20, y(tick), "grid")
        canvas.text(62, y(tick), y.label(tick), "end")
    for tick in x.ticks:
        canvas.text(x(tick), 262, x.label(tick), "middle")
    for number, (_, values) in enumerate(series.items()):
        points = [(x(at + 1), y(value)) for at, value in _thinned(values) if math.isfinite(value)]
        if len(points) == 1:
            canvas.dot(*points[0], f"c{number % COLORS}")
        else:
            canvas.path(points, f"curve s{number % COLORS}")
    canvas.text((70 + WIDTH - 20) / 2, 286, x_label, "middle", "axis")
    canvas.text(70, 12, y_label, "start", "axis")
    at = WIDTH - 20
    for number, name in reversed(list(enumerate(series))):
        at -= 8.0 * len(name) + 30
        canvas.dot(at + 6, 12, f"c{number % COLORS}")
        canvas.text(at + 16, 12, name)
    return str(canvas)


def shares(bars: Mapping[str, Mapping[str, float]], *, title: str) -> str:
    """Bars of full width cut by shares: the mix of sources of the pool and of each selection."""
    names = sorted({name for parts in bars.values() for name in parts})
    left = room_for(bars, most=260.0)
    rows, legend = len(bars), _legend_rows(names, WIDTH)
    canvas = Canvas(WIDTH, rows * ROW + 14 + 22 * legend, title)
    for row, (label, parts) in enumerate(bars.items()):
        total, at, top = sum(parts.values()), left, row * ROW + 4
        canvas.text(left - 10, top + 8, cut_label(label, 34), "end")
        for number, name in enumerate(names):
            share = parts.get(name, 0.0) / total if total else 0.0
            width = share * (WIDTH - left - 10)
            if width > 0:
                canvas.box(at, top, width, 17, f"c{number % COLORS}", f"{label}: {name} {share:.1%}")
                if width > 42:
                    canvas.text(at + width / 2, top + 8.5, f"{share:.0%}", "middle", "on")
            at += width
    _legend(canvas, names, rows * ROW + 20)
    return str(canvas)


def heatmap(labels: Sequence[str], values: Sequence[Sequence[float | None]], *, title: str) -> str:
    """A square of shares between 0 and 1, darker for more; None is left empty."""
    left = room_for(labels, most=220.0) + 16
    side = min(64.0, (WIDTH - left) / max(1, len(labels)))
    height = 30.0 if side >= 64.0 else 26.0
    canvas = Canvas(WIDTH, len(labels) * height + 42, title)
    for i, label in enumerate(labels):
        top = i * height + 34
        canvas.text(left - 10, top + height / 2 - 1, f"{cut_label(label, 26)}  {i + 1}", "end")
        canvas.text(left + (i + 0.5) * side - 1, 20, str(i + 1), "middle", "axis")
        for j, value in enumerate(values[i]):
            if value is None:
                continue
            tip = f"{label} and {labels[j]}: {value:.2f}"
            canvas.box(left + j * side, top, side - 2, height - 2, "heat", tip, f"{0.06 + 0.94 * value:.2f}")
            kind = "on" if value > 0.5 else "t"
            canvas.text(left + (j + 0.5) * side - 1, top + height / 2 - 1, f"{value:.2f}", "middle", kind)
    return str(canvas)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999999)


def _thinned(values: Sequence[float], most: int = 800) -> list[tuple[int, float]]:
    """At most so many points, spread evenly, the ends among them."""
    if len(values) <= most:
        return list(enumerate(values))
    places = sorted({round(i * (len(values) - 1) / (most - 1)) for i in range(most)})
    return [(place, values[place]) for place in places]


def _legend(canvas: Canvas, names: Sequence[str], top: float) -> None:
    at, line = 8.0, 0
    for number, name in enumerate(names):
        width = _legend_width(name)
        if at + width > canvas.width and at > 8.0:
            at, line = 8.0, line + 1
        canvas.box(at, top + 22 * line - 5, 10, 10, f"c{number % COLORS}")
        canvas.text(at + 16, top + 22 * line, cut_label(name, 40))
        at += width


def _legend_rows(names: Sequence[str], width: float) -> int:
    at, lines = 8.0, 1
    for name in names:
        if at + _legend_width(name) > width and at > 8.0:
            at, lines = 8.0, lines + 1
        at += _legend_width(name)
    return lines


def _legend_width(name: str) -> float:
    return 38.0 + 7.6 * min(len(name), 40)


def room_for(labels: Sequence[str] | Mapping[str, object], most: float) -> float:
    """Pixels for the longest label."""
    return min(most, 24.0 + 7.0 * max((len(label) for label in labels), default=0))


def cut_label(label: str, most: int) -> str:
    """A label of at most so many letters."""
    return label if len(label) <= most else label[: most - 1] + "…"


def _tip(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
