"""Greedy selection for every information state, and the slow loop that says what it must pick.

    score_x(S) = gain_x(S) - penalty * conflict_x(S);  the best score is picked, ties go to the smallest row

(arXiv 2601.23155). `greedy` is the plain loop: a step costs one pass over the rows, for the gains; `contest.py` finds
who wins it. The log-det of the full Fisher matrix goes through `deferred.py`, which picks the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import ETA, Conflict, Penalty
from spicerack.information.contest import best_of_all
from spicerack.information.decomposition import trace_table
from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.logdet import logdet_tolerance
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.room import Room
from spicerack.information.state import InformationState
from spicerack.information.ties import smallest_best

Watch = Callable[[int, InformationState, BoolArray], None]
"""Called before a pick with the number of picks so far, the state, and the mask of eligible rows not yet picked."""

Stopped = Literal["budget", "exhausted", "stop_ratio"]


@dataclass(frozen=True)
class GreedyResult:
    """What a greedy run picked.

    Attributes:
        indices: rows in the order picked, (s,) int64.
        trace: one row a pick, columns of `TRACE_DTYPE`.
        scores: (n,): of a picked row when it was picked, of any other given the final picks, NaN if not eligible.
        stopped: why the run ended: the budget was met, nothing was left (that fits), or the gains had fallen.
        sharpened_at: number of picks after which the passes went to float64, or None.
    """

    indices: IntArray
    trace: npt.NDArray[Any]
    scores: FloatArray
    stopped: Stopped
    sharpened_at: int | None


class Run:
    """The picks of a greedy run and their trace, whichever loop makes them.

    Args:
        state: an information state without picks.
        conflict: a conflict state on the same rows, without picks.
        penalty: lambda.
        room: what may be picked, none taken yet. Its forced rows come first.
        eligible: rows that may be picked at all, (n,).
        stop_ratio: omega in (0, 1]: stop before the first pick whose gain is at most omega times the first pick's.
        watch: sees the state before some picks.
    """

    def __init__(
        self,
        state: InformationState,
        conflict: Conflict,
        *,
        penalty: Penalty,
        room: Room,
        eligible: BoolArray,
        stop_ratio: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.state, self.conflict, self.penalty, self.room = state, conflict, penalty, room
        self.eligible, self.stop_ratio, self.watch = eligible, stop_ratio, watch
        self.alive = eligible.copy()
        self.sharpened_at: int | None = None
        self.stopped: Stopped = "budget"
        self.refreshed_at = 0  # picks when the gains of all rows were last computed afresh
        self.settled = 0  # contenders since then, each computed exactly
        self.crowded = False  # whether the last step needed the conflict of all rows: the next pass brings it along
        self._picks: list[int] = []
        self._gains: list[float] = []
        self._conflicts: list[float] = []
        self._weights: list[float] = []
        self._first: float | None = None

    @property
    def step(self) -> int:
        """Picks made."""
        return len(self._picks)

    @property
    def going(self) -> bool:
        """Whether another row may be picked; else `stopped` says why not."""
        if self.stopped == "stop_ratio" or (self.room.count is not None and self.step >= self.room.count):
            return False
        if self.room.full:
            self.stopped = "exhausted"
            return False
        return True

    def score(self, pick: int, weight: float) -> float:
        """Score of one of the picks when it was made, at this weight of the conflict; -1: of the last."""
        return self._gains[pick] - weight * self._conflicts[pick]

    def take(self, i: int, weight: float, add: Callable[[int], float], *, forced: bool = False) -> bool:
        """Pick row i, unless the early stop forbids it; `add` absorbs it into the state and returns its gain."""
        stoppable = not forced and self.stop_ratio is not None and self._first is not None
        if stoppable and self.state.exact_gains(np.array([i]))[0] <= (self.stop_ratio or 0.0) * (self._first or 0.0):
            self.stopped = "stop_ratio"
            return False
        self._conflicts.append(self.conflict.add(i))
        self._gains.append(add(i))
        self._weights.append(weight)
        self._picks.append(i)
        if not forced and self._first is None:
            self._first = self._gains[-1]
        self.alive[i] = False
        self.room.take(i)
        return True

    def add(self, i: int) -> float:
        """Absorb row i, which the conflict has absorbed, and tell every row; one pass. Returns its gain."""
        return self.state.add(i, self.conflict if self.crowded else None)

    def take_forced(self, add: Callable[[int], float]) -> None:
        """Pick the room's forced rows."""
        for i in self.room.forced:
            self.take(i, self.penalty.weight * (not self.penalty.relative), add, forced=True)

    def result(self) -> GreedyResult:
        """What was picked; the state's gains are those given all picks."""
        indices = np.array(self._picks, dtype=np.int64)
        weights = np.array(self._weights)
        trace = trace_table(np.array(self._gains), self.state.base()[indices], np.array(self._conflicts), weights)
        scores = final_scores(
            self.state,
            self.conflict,
            penalty=self.penalty,
            eligible=self.eligible,
            indices=indices,
            picked=trace["score"],
        )
        return GreedyResult(indices, trace, scores, self.stopped, self.sharpened_at)


def greedy(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    stop_ratio: float | None = None,
    watch: Watch | None = None,
) -> GreedyResult:
    """Pick greedily by `gain - penalty * conflict` until the room is full: the plain loop. Arguments as for `Run`."""
    run = Run(state, conflict, penalty=penalty, room=room, eligible=eligible, stop_ratio=stop_ratio, watch=watch)
    run.take_forced(state.add)
    plain_steps(run)
    return run.result()


def plain_steps(run: Run) -> None:
    """Make the rest of a run's picks, one pass over all rows each. The state's gains are those given its picks."""
    while run.going:
        if run.watch is not None:
            run.watch(run.step, run.state, run.alive)
        i, weight = best_of_all(run)
        if not run.take(i, weight, run.add):
            break


def final_scores(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: Penalty,
    eligible: BoolArray,
    indices: IntArray,
    picked: FloatArray,
) -> FloatArray:
    """Scores of all rows after a run, (n,): `picked` for `indices`, for other eligible rows the score given those."""
    scores = state.gains().copy()
    rest = eligible.copy()
    rest[indices] = False
    if penalty.weight and rest.any():
        scores -= penalty.of(float(scores[rest].max())) * conflict.values()
    scores[indices] = picked
    scores[~eligible] = np.nan
    return scores


def greedy_truth(
    G: npt.NDArray[Any],
    *,
    alpha: float,
    penalty: float,
    count: int,
    eligible: BoolArray | None = None,
    stop_ratio: float | None = None,
    relative: bool = False,
    center: FloatArray | None = None,
    room: Room | None = None,
) -> IntArray:
    """The picks of the log-det greedy, from the definition at every step, O(count n k^2): the truth for tests.

    `alpha q_x = |sqrt(alpha) R^{-T} g_x|^2` with R the Cholesky factor of `M_S`, taken from a QR.
    """
    X = np.asarray(G, dtype=np.float64)
    Y = X if center is None else X - center
    norms, lengths = np.linalg.norm(X, axis=1), np.linalg.norm(Y, axis=1)
    room = room or Room(np.ones(len(X), dtype=bool) if eligible is None else eligible, count=count)
    picks = list(room.forced)
    room.take_forced()
    first: float | None = None
    while not room.full:
        R = cholesky_of_moment(math.sqrt(alpha) * X[picks])
        gains = np.log1p(alpha * (np.linalg.solve(R.T, X.T) ** 2).sum(axis=0))
        mean = Y[picks].mean(axis=0) if picks else np.zeros(X.shape[1])
        if float(np.linalg.norm(Y[picks].sum(axis=0))) <= 1e-14 * float(lengths[picks].sum()):
            mean = np.zeros(X.shape[1])
        cosines = -(Y @ mean) / (lengths * np.linalg.norm(mean) + ETA)
        rows = np.flatnonzero(room.open)
        weight = penalty * float(gains[rows].max()) if relative else penalty
        scores = (gains - weight * np.maximum(0.0, cosines))[rows]
        tolerance = logdet_tolerance(1.0 + alpha * float((norms[picks] ** 2).sum()))
        i = int(rows[smallest_best(scores, gains[rows], tolerance, weight)])
        if stop_ratio is not None and first is not None and gains[i] <= stop_ratio * first:
            break
        first = float(gains[i]) if first is None else first
        picks.append(i)
        room.take(i)
    return np.array(picks, dtype=np.int64)
