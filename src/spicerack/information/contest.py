"""Who wins a step of a greedy run, when the gains of all rows are those of now.

Conflict can only lower a score, so it is computed where the gain alone could still win; where that leaves too many
rows, the next pass brings the conflict of all along. Rows that float32 leaves within reach are settled in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.state import InformationState
from spicerack.information.ties import contenders, settle, tie_width

if TYPE_CHECKING:
    from spicerack.information.greedy import Run

LASTS = 64
"""Picks that gains computed afresh have to serve: a crowd sooner than that is no matter of what passes left."""

RECHECK = 8
"""Steps between two looks at whether the gains alone leave few rows, once they did not."""


def best_of_all(run: Run) -> tuple[int, float]:
    """The open row that wins the step, and the weight of the conflict there. The state's gains are of now."""
    weight = run.penalty.of(_best_gain(run)) if run.penalty.relative else run.penalty.weight
    near = _contenders(run, weight)
    if near.size == 1:
        return int(near[0]), weight
    if not run.state.matrix.wide:  # else what the passes leave is float64's own rounding
        run.settled += near.size
    if run.settled > run.state.matrix.n or (_crowd(run, near) and run.step >= run.refreshed_at + LASTS):
        # What the passes left in the gains has grown with the picks. To settle contenders has cost by now what it costs
        # to compute all gains afresh.
        run.state.refresh()
        run.refreshed_at, run.settled = run.step, 0
        near = _contenders(run, weight)
    if _crowd(run, near):
        # Float32 leaves too many contenders even so: in float64 from here on.
        run.state.sharpen()
        run.conflict.sharpen()
        run.sharpened_at = run.step
        near = _contenders(run, weight)
    return settle(near, exact_scores(run, weight), run.state.tolerance, weight), weight


def _crowd(run: Run, near: IntArray) -> bool:
    """Whether the passes leave more contenders than it pays to settle one by one."""
    many = near.size > max(64, int(np.count_nonzero(run.room.open)) // 64)
    return many and run.step > 0 and not run.state.matrix.wide


def _contenders(run: Run, weight: float) -> IntArray:
    """Rows that may win the step, ascending; of bitwise equal ones the first."""
    state, conflict = run.state, run.conflict
    few = max(64, run.state.matrix.n // 64)
    if not run.crowded or run.step % RECHECK == 0:
        rows = _by_gains(run, weight)
        run.crowded = bool(weight) and rows.size > few
    if run.crowded:
        rows = _by_scores(run, weight)
    if rows.size > 1:
        scores, slack = state.gains()[rows], state.slack(rows)
        if run.crowded:  # the last pass brought the conflict of all rows
            scores -= weight * conflict.values()[rows]
            slack += weight * conflict.slack(rows)
        elif weight:
            scores -= weight * conflict.exact(rows)
        rows = rows[contenders(scores, slack, state.tolerance, weight)]
    return state.matrix.copies.distinct(rows)


def _by_gains(run: Run, weight: float) -> IntArray:
    """The open rows whose gain is not below what the row of the largest one is sure to score."""
    state = run.state
    vector, slope, level = state.slack_bound()
    field = Field(state.gains(), None, 0.0, run.room.open, vector, slope, state.matrix.many)
    top, best, most = field.best()
    sure = best - slope * float(vector[top]) - level
    if weight:
        sure -= weight * run.conflict.exact_of(top)
    return field.above(sure - tie_width(most + level, state.tolerance, weight) - level)


def _by_scores(run: Run, weight: float) -> IntArray:
    """The same by the scores of all rows, where the gains alone leave too many."""
    state, conflict = run.state, run.conflict
    vector, slope, level = state.slack_bound()
    of_conflict = conflict.slack_bound()
    if isinstance(of_conflict, float):
        level += weight * of_conflict
    else:
        vector, slope = slope * vector + weight * of_conflict, 1.0
    field = Field(state.gains(), conflict.values(), weight, run.room.open, vector, slope, state.matrix.many)
    top, best, most = field.best()
    sure = best - slope * float(vector[top]) - level
    return field.above(sure - tie_width(most + level + weight, state.tolerance, weight) - level)


class Field:
    """Scores of all rows, `gains - weight * conflict`, and how far each may be out: `slope * vector`.

    Args:
        gains: (n,).
        conflict: (n,), or None where the weight is zero.
        weight: of the conflict.
        open_: rows that count, (n,); at least one.
        vector: (n,).
        slope: >= 0.
        many: whether compiled loops pay.
    """

    def __init__(
        self,
        gains: FloatArray,
        conflict: FloatArray | None,
        weight: float,
        open_: BoolArray,
        vector: FloatArray,
        slope: float,
        many: bool,
    ) -> None:
        self._vectors = gains, gains if conflict is None else conflict, open_, vector
        self._weight, self._slope = weight, slope
        self._many = many
        self._bounds: FloatArray | None = None

    def best(self) -> tuple[int, float, float]:
        """The first row of the largest score, that score, and the largest of scores and what they may be out."""
        if self._many:
            from spicerack.information.native import best

            return best(self._vectors, self._weight, self._slope)
        gains, conflict, open_, vector = self._vectors
        scores = np.where(open_, gains - self._weight * conflict if self._weight else gains, -np.inf)
        row = int(scores.argmax())
        self._bounds = scores + self._slope * vector
        return row, float(scores[row]), float(self._bounds.max())

    def above(self, least: float) -> IntArray:
        """Open rows whose score, and what it may be out, come to `least` or more; ascending. After `best`."""
        if self._many:
            from spicerack.information.native import above

            return above(self._vectors, self._weight, self._slope, least)
        assert self._bounds is not None
        return (self._bounds >= least).nonzero()[0]


def _best_gain(run: Run) -> float:
    rows = _by_gains(run, 0.0)
    near = contenders(run.state.gains()[rows], run.state.slack(rows), run.state.tolerance, 0.0)
    return largest_gain(run.state, rows[near])


def largest_gain(state: InformationState, near: IntArray) -> float:
    """Largest exact gain among the contenders `near`; of bitwise equal rows only the first is computed."""
    return float(state.exact_gains(state.matrix.copies.distinct(near)).max())


def exact_scores(run: Run, weight: float) -> Callable[[IntArray], tuple[FloatArray, FloatArray]]:
    """Row numbers to exact scores and gains, in float64."""

    def exact(rows: IntArray) -> tuple[FloatArray, FloatArray]:
        gains = run.state.exact_gains(rows)
        return (gains - weight * run.conflict.exact(rows) if weight else gains), gains

    return exact
