"""Figures of quality with its intervals: of methods at one budget, and of one method over budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spicerack.report.figures import COLORS, ROW, WIDTH, Axis, Canvas, cut_label, room_for

Row = Mapping[str, Any]
CONTROL = "random"


def forest(rows: Sequence[Row], *, title: str, lines: Mapping[str, float]) -> str:
    """A row a method, the best first: its mean with its interval and every seed; random's interval as a band.

    Args:
        rows: entries of the summary at one budget.
        title: for those who cannot see it.
        lines: losses to be marked by a vertical line, by name: the full pool, the model as it is.
    """
    rows = sorted(rows, key=lambda row: row["loss"]["mean"])
    left = room_for([row["label"] for row in rows], most=260.0)
    values = [v for row in rows for v in _extent(row)]
    shown = {name: value for name, value in lines.items() if _near(value, values)}
    axis = Axis.over([*values, *shown.values()], left + 10, WIDTH - 130)
    bottom = len(rows) * ROW + 34
    canvas = Canvas(WIDTH, bottom + 44, title)
    control = next((row for row in rows if row["label"] == CONTROL), None)
    if control is not None and control["loss"]["low"] is not None:
        low, high = axis(control["loss"]["low"]), axis(control["loss"]["high"])
        canvas.box(low, 24, high - low, bottom - 24, "band")
    for tick in axis.ticks:
        canvas.line(axis(tick), 24, axis(tick), bottom, "grid")
        canvas.text(axis(tick), bottom + 14, axis.label(tick), "middle")
    for number, (name, value) in enumerate(shown.items()):
        canvas.line(axis(value), 24, axis(value), bottom, "mark")
        canvas.text(axis(value), 14, name, "end" if number % 2 == 0 else "start", "axis")
    for number, row in enumerate(rows):
        _forest_row(canvas, row, 24 + number * ROW + ROW / 2, axis, left)
    canvas.text((left + WIDTH - 130) / 2, bottom + 34, "held-out loss (nats), lower is better", "middle", "axis")
    return str(canvas)


def _forest_row(canvas: Canvas, row: Row, y: float, axis: Axis, left: float) -> None:
    loss, label = row["loss"], row["label"]
    kind = "c0" if label != CONTROL else "c9"
    canvas.text(left, y, cut_label(label, 34), "end")
    if loss["low"] is not None:
        canvas.line(axis(loss["low"]), y, axis(loss["high"]), y, f"whisker s{kind[1:]}")
    for value in row["per_seed"]:
        canvas.dot(axis(value), y, "seed", f"{label}, one seed: {value:.4f}", 2.5)
    canvas.dot(axis(loss["mean"]), y, kind, _words(row))
    change = row["versus_random"]
    shown = f"{loss['mean']:.3f}" + (f"  ({change['mean']:+.3f})" if change else "")
    canvas.text(WIDTH - 6, y, shown, "end", "number")


def by_budget(rows: Sequence[Row], kinds: Sequence[Sequence[str]], *, title: str, lines: Mapping[str, float]) -> str:
    """A line a method over the budgets, an interval at each point, its name at the end.

    Args:
        rows: entries of the summary, each at one budget.
        kinds: budgets that a line may connect, from left to right: those in rows, those in tokens.
        title: for those who cannot see it.
        lines: losses to be marked by a horizontal line, by name.
    """
    budgets = [budget for kind in kinds for budget in kind]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    right = room_for(labels, most=230.0) + 54
    values = [v for row in rows for v in _extent(row)]
    shown = {name: value for name, value in lines.items() if _near(value, values)}
    canvas = Canvas(WIDTH, 380, title)
    y = Axis.over([*values, *shown.values()], 330, 20)
    stop = WIDTH - right - 20
    step = (stop - 110) / max(1, len(budgets) - 1)
    place = {budget: (110 + i * step if len(budgets) > 1 else (90 + stop) / 2) for i, budget in enumerate(budgets)}
    apart = min(5.0, 50.0 / len(labels))
    for tick in y.ticks:
        canvas.line(70, y(tick), stop + 20, y(tick), "grid")
        canvas.text(62, y(tick), y.label(tick), "end")
    for name, value in shown.items():
        canvas.line(70, y(value), stop + 20, y(value), "mark")
        canvas.text(74, y(value) - 9, name, "start", "axis")
    looks = _looks(labels)
    ends: dict[str, float] = {}
    for number, label in enumerate(labels):
        dodge = apart * (number - (len(labels) - 1) / 2)
        dot, curve = looks[label]
        own = {row["budget"]: row for row in rows if row["label"] == label}
        for kind in kinds:
            points = []
            for row in (own[budget] for budget in kind if budget in own):
                x, loss = place[row["budget"]] + dodge, row["loss"]
                if loss["low"] is not None:
                    canvas.line(x, y(loss["low"]), x, y(loss["high"]), f"whisker s{dot[1:]}")
                points.append((x, y(loss["mean"])))
                canvas.dot(*points[-1], dot, _words(row))
                ends[label] = points[-1][1]
            if len(points) > 1:
                canvas.path(points, curve)
    for label, height in _apart(ends, 17.0).items():
        dot, curve = looks[label]
        canvas.path([(stop + 36, height), (stop + 60, height)], curve)
        canvas.dot(stop + 48, height, dot)
        canvas.text(stop + 66, height, cut_label(label, 28))
    for budget, x in place.items():
        canvas.text(x, 348, budget, "middle")
    canvas.text((70 + stop) / 2, 370, "budget", "middle", "axis")
    canvas.text(70, 8, "held-out loss (nats), lower is better", "start", "axis")
    return str(canvas)


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The classes of each label's dots and line: random is grey, as in `forest`; a color used again is dashed."""
    looks, others = {}, COLORS - 1
    for number, label in enumerate(label for label in labels if label != CONTROL):
        color, again = number % others, " again" if number >= others else ""
        looks[label] = (f"c{color}", f"curve s{color}{again}")
    return looks | {CONTROL: (f"c{others}", f"curve s{others}")}


def _apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights moved down until no two are nearer than a gap, in their order; then up as one, to stay on the page."""
    placed: dict[str, float] = {}
    last = -gap
    for label, height in sorted(heights.items(), key=lambda item: item[1]):
        last = placed[label] = max(height, last + gap)
    over = max(0.0, last - 330.0)
    return {label: height - over for label, height in placed.items()}


def _extent(row: Row) -> list[float]:
    loss = row["loss"]
    ends = [] if loss["low"] is None else [loss["low"], loss["high"]]
    return [loss["mean"], *ends, *row["per_seed"]]


def _near(value: float, values: Sequence[float]) -> bool:
    """Whether a mark can be shown without squeezing what matters."""
    low, high = min(values), max(values)
    return low - (high - low) <= value <= high + (high - low)


def _words(row: Row) -> str:
    loss = row["loss"]
    between = "" if loss["low"] is None else f" ({loss['low']:.4f} to {loss['high']:.4f})"
    return f"{row['label']} {row['budget'] or ''}: {loss['mean']:.4f}{between}, {row['seeds']} seeds"
