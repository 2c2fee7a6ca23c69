"""Pools within pools: a few rows with values of now, picked from for as long as no row outside can win.

A pool knows limits of every row outside it. They were computed with an allowance for how far the direction of the
picks may turn, so they hold for a while; when its best no longer stands clear of them, the pool's play ends. A pool
that is not the last holds another: the inner one is small enough for the processor's cache and is brought up to date
after every pick, the outer one after a play of the inner, as one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.contest import exact_scores, largest_gain
from spicerack.information.greedy import Run
from spicerack.information.ground import Ground, Values
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.ties import floor, settle

ETA_GROWTH = 2.0
"""Allowance for the scaled eta of the conflict, which grows when the mean of the picks shrinks."""

WEIGHT_FLOOR = 0.8
"""Share of its weight down to which limits hold, where the penalty is relative to the falling gains."""

WIDEST, NARROWEST = 0.5, 1e-6
"""Bounds of the allowance for the turn of the direction."""


@dataclass(frozen=True)
class Depth:
    """Size of the pools of one depth, and picks that one of them makes at most."""

    rows: int
    picks: int


@dataclass(frozen=True)
class Limits:
    """No score and no gain outside a pool is above these, as long as the rest holds.

    Attributes:
        score: above all scores outside.
        gain: above all gains outside.
        start: the direction when the limits were computed, (k,).
        drift: the direction may move from there by this much.
        eta: the scaled eta may grow to this.
        weight: the weight of the conflict may fall to this.
    """

    score: float
    gain: float
    start: FloatArray
    drift: float
    eta: float
    weight: float


@dataclass(frozen=True)
class Standing:
    """Scores of a pool's rows at one step, and who may win it.

    Attributes:
        scores: -inf for rows that are closed.
        slack: of the scores.
        least: no row whose exact score is below this can win or tie.
        gain: the largest exact gain is no smaller (where the penalty is relative; else -inf).
        weight: of the conflict at this step.
        near: positions of the rows that may win, or that may hold the largest gain.
    """

    scores: FloatArray
    slack: FloatArray
    least: float
    gain: float
    weight: float
    near: IntArray


class Pool:
    """Rows of a pool, (r,) ascending, with values of now.

    Args:
        run: the run.
        ground: where the rows come from.
        rows: their numbers.
        X: the rows in the precision of the passes, (r, k).
        values: of the rows.
        limits: of what is outside, and of what is outside the pools around this one.
        depths: of this pool and those inside it.
        drifts: allowance for the turn of the direction of the pools inside, by depth; adapted as the run goes.
    """

    def __init__(
        self,
        run: Run,
        ground: Ground,
        rows: IntArray,
        X: npt.NDArray[Any],
        values: Values,
        limits: tuple[Limits, ...],
        depths: tuple[Depth, ...],
        drifts: dict[int, float],
    ) -> None:
        self.run, self.ground, self.rows, self.X, self.values = run, ground, rows, X, values
        self.limits, self.depths, self.drifts = limits, depths, drifts

    def play(self) -> None:
        """Pick while the best stands clear of the limits; the first pick is sure to."""
        run, begun = self.run, self.run.step
        while run.going and run.step - begun < self.depths[0].picks and run.room.open[self.rows].any():
            standing = self.standing()
            if run.step > begun and not self._clear(standing):
                return
            before = run.step
            if len(self.depths) > 1:
                self._inner(standing).play()
            elif not self._pick(standing):
                return
            self.values = self.ground.advanced(self.values, self.X, before, self.rows)

    def standing(self) -> Standing:
        """How the pool's rows stand now."""
        run = self.run
        open_ = run.room.open[self.rows]
        tolerance, relative = run.state.tolerance, run.penalty.relative
        gains, slack = self.ground.gains(self.rows, self.values)
        gain, weight = -np.inf, run.penalty.weight
        leading = np.zeros(0, dtype=np.int64)
        if relative:
            gain = floor(gains[open_], slack[open_], tolerance, 0.0)
            leading = np.flatnonzero(open_ & (gains + slack >= gain))
            weight = run.penalty.of(largest_gain(run.state, self.rows[leading]))
        scores, slack = self.ground.scores(self.rows, self.values, weight, (gains, slack))
        scores[~open_] = -np.inf
        least = floor(scores, slack, tolerance, weight)
        near = np.flatnonzero(scores + slack >= least)
        if leading.size:
            near = np.union1d(near, leading)
        return Standing(scores, slack, least, gain, weight, near)

    def _clear(self, standing: Standing) -> bool:
        direction, eta = self.run.conflict.direction()
        for depth, limits in enumerate(self.limits):
            if standing.least <= limits.score or (self.run.penalty.relative and standing.gain <= limits.gain):
                return False
            if not standing.weight:
                continue
            if standing.weight < limits.weight or eta > limits.eta:
                return False
            if float(np.linalg.norm(direction - limits.start)) > limits.drift:
                self.drifts[depth] = min(WIDEST, 1.5 * self.drifts[depth])
                return False
        return True

    def _pick(self, standing: Standing) -> bool:
        run = self.run
        rows = run.state.matrix.copies.distinct(self.rows[standing.near])
        i = settle(rows, exact_scores(run, standing.weight), run.state.tolerance, standing.weight)
        return run.take(i, standing.weight, self.ground.push)

    def _inner(self, standing: Standing) -> Pool:
        depth = len(self.limits)
        open_ = self.run.room.open[self.rows]
        eta = ETA_GROWTH * self.run.conflict.direction()[1]
        weight = lowest(self.run, standing.weight)
        gains, slack = self.ground.gains(self.rows, self.values)

        def keys(drift: float) -> FloatArray:
            bounds = gains + slack
            if weight:
                bounds = bounds - weight * self.ground.opposition(self.rows, self.values.cosine, drift, eta)
            return np.where(open_, bounds, -np.inf)

        chosen, score, drift = choose(
            keys, open_, standing.near, self.depths[1].rows, standing.least, self.drifts[depth]
        )
        self.drifts[depth] = drift
        outside = open_
        outside[chosen] = False
        gain = float((gains + slack)[outside].max()) if self.run.penalty.relative and outside.any() else -np.inf
        limits = Limits(score, gain, self.run.conflict.direction()[0], drift, eta, weight)
        return Pool(
            self.run,
            self.ground,
            self.rows[chosen],
            self.X[chosen],
            self.values.among(chosen),
            (*self.limits, limits),
            self.depths[1:],
            self.drifts,
        )


def lowest(run: Run, weight: float) -> float:
    """The weight that limits are computed with: a relative one falls with the gains."""
    return weight * WEIGHT_FLOOR if run.penalty.relative else weight


def choose(
    keys: Callable[[float], FloatArray], among: BoolArray, must: IntArray, size: int, least: float, drift: float
) -> tuple[IntArray, float, float]:
    """The rows of a pool: those of largest keys, and those that may win now.

    A key below one that cannot be chosen keeps its row out: the pool's play would end before the row is picked.

    Args:
        keys: upper bounds of all scores given an allowance for the turn of the direction, -inf for closed rows.
        among: rows that may be chosen.
        must: positions that are chosen in any case.
        size: rows chosen beside.
        least: no winner's score is below this now.
        drift: the allowance, made smaller until the pool stands clear.

    Returns:
        Positions (ascending), the largest key of the others, the allowance.
    """
    while True:
        bounds = keys(drift)
        best = np.flatnonzero(among & (bounds > bounds.max(initial=-np.inf, where=~among)))
        if best.size > size:
            best = best[np.argpartition(-bounds[best], size - 1)[:size]]
        chosen = np.union1d(best, must)
        bounds[chosen] = -np.inf
        outside = float(bounds.max())
        if outside < least or drift < NARROWEST:
            return chosen, outside, drift
        drift *= 0.5
