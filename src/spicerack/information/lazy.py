"""The plain loop's picks for the diagonal forms, evaluating few rows a pick.

A pick changes every coordinate of the diagonal, so a row's gain is computed from scratch, O(k) logarithms, whatever
its age; but gains never rise, so a stale one is an upper bound, and conflict is never negative. A pool of the largest
bounds is kept in memory; rows are evaluated in order of their bounds until the best stands clear of the next.
"""

from __future__ import annotations

import numpy as np

from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.contest import best_of_all, exact_scores, largest_gain
from spicerack.information.diagonal import DiagonalState
from spicerack.information.greedy import GreedyResult, Run, Watch
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.room import Room
from spicerack.information.ties import floor, settle

POOL = 4096
BATCH = 32


def lazy_greedy(
    state: DiagonalState,
    conflict: Conflict,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    stop_ratio: float | None = None,
    watch: Watch | None = None,
    pool: int = POOL,
) -> GreedyResult:
    """Pick greedily by `gain - penalty * conflict` until the room is full: the picks of `greedy`.

    Memory beside the row matrix is O(n + pool * k). Arguments as for `greedy.Run`; pool: rows of the pool.
    """
    run = Run(state, conflict, penalty=penalty, room=room, eligible=eligible, stop_ratio=stop_ratio, watch=watch)
    run.take_forced(state.push)
    bound = state.base() * (1.0 + 1e-12)
    while run.going:
        if run.watch is not None:
            run.watch(run.step, state, run.alive)
        rows = np.flatnonzero(room.open)
        if rows.size > pool:
            rows = np.sort(rows[np.argpartition(-bound[rows], pool - 1)[:pool]])
        _Front(run, state, rows, bound).play()
    state.refresh()
    return run.result()


class _Front:
    """The rows of largest bounds; no gain outside is above `outside`."""

    def __init__(self, run: Run, state: DiagonalState, rows: IntArray, bound: FloatArray) -> None:
        self.run, self.state, self.rows, self.bound = run, state, rows, bound
        self.X = state.matrix.pass_rows(rows)
        rest = run.room.open.copy()
        rest[rows] = False
        self.outside = float(bound[rest].max()) if rest.any() else -np.inf
        self.gains: FloatArray = np.zeros(rows.size)

    def play(self) -> None:
        """Pick while the best stands clear of what is outside; a first pick that does not is the plain loop's."""
        run, begun = self.run, self.run.step
        while run.going:
            picked = self._pick()
            if picked is None:
                if run.step == begun:
                    self.state.refresh()
                    self.bound[:] = np.minimum(self.bound, self.state.gains() + self.state.slack())
                    i, weight = best_of_all(run)
                    run.take(i, weight, self.state.push)
                return
            if not run.take(*picked, self.state.push):
                return

    def _pick(self) -> tuple[int, float] | None:
        """The row that wins and the weight of the conflict, or None if it may lie outside."""
        run = self.run
        open_ = run.room.open[self.rows]
        known = np.zeros(self.rows.size, dtype=bool)
        size, tolerance = BATCH, run.state.tolerance
        while True:
            left = np.where(open_ & ~known, self.bound[self.rows], -np.inf)
            if size < left.size:
                left[np.argpartition(-left, size - 1)[size:]] = -np.inf
            new = np.flatnonzero(left > -np.inf)
            self._evaluate(new)
            known[new] = True
            done = np.flatnonzero(known)
            if done.size == 0:
                return None
            rows = self.rows[done]
            gains = self.gains[done]
            slack = gains * self.relative
            weight = run.penalty.weight
            top = floor(gains, slack, tolerance, 0.0)
            if run.penalty.relative:
                weight = run.penalty.of(largest_gain(self.state, rows[gains + slack >= top]))
            scores = gains - weight * run.conflict.exact(rows) if weight else gains
            least = min(floor(scores, slack, tolerance, weight), top if run.penalty.relative else np.inf)
            rest = open_ & ~known
            if not rest.any() or float(self.bound[self.rows[rest]].max()) < least:
                break
            size *= 2
        if self.outside >= least:
            return None
        near = rows[scores + slack >= floor(scores, slack, tolerance, weight)]
        return settle(self.state.matrix.copies.distinct(near), exact_scores(run, weight), tolerance, weight), weight

    @property
    def relative(self) -> float:
        """Relative rounding error of a gain in the precision of the passes."""
        return 4.0 * self.state.matrix.rounding

    def _evaluate(self, positions: IntArray) -> None:
        self.gains[positions] = self.state.of(self.X[positions])
        upper = self.gains[positions] * (1.0 + self.relative)
        self.bound[self.rows[positions]] = np.minimum(self.bound[self.rows[positions]], upper)
