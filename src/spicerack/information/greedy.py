"""One greedy loop for every information state, and the slow loop that says what it must pick.

    score_x(S) = gain_x(S) - penalty * conflict_x(S);  the best score is picked, ties go to the smallest row

(arXiv 2601.23155). A step costs one pass over the rows for the gains and, with a penalty, one for the conflict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import ETA, Conflict
from spicerack.information.decomposition import trace_table
from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.logdet import logdet_tolerance
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.state import InformationState
from spicerack.information.ties import contenders, settle, smallest_best

Watch = Callable[[int, InformationState, BoolArray], None]
"""Called before each pick with the number of picks so far, the state, and the mask of rows not yet picked."""


class Budget(Protocol):
    """How much may be picked: a number of rows, or a number of tokens. One of the two is None."""

    @property
    def count(self) -> int | None:
        """Rows to pick."""
        ...

    @property
    def tokens(self) -> int | None:
        """Tokens that the picks may hold together."""
        ...


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
    stopped: Literal["budget", "exhausted", "stop_ratio"]
    sharpened_at: int | None


def greedy(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: float,
    budget: Budget,
    eligible: BoolArray,
    tokens: IntArray | None = None,
    stop_ratio: float | None = None,
    watch: Watch | None = None,
) -> GreedyResult:
    """Pick greedily by `gain - penalty * conflict` until the budget is met.

    Args:
        state: an information state without picks.
        conflict: a conflict state on the same rows, without picks.
        penalty: lambda >= 0.
        budget: rows, or tokens; with tokens, a row that no longer fits is skipped.
        eligible: rows that may be picked, (n,).
        tokens: tokens of each row, (n,); needed by a token budget.
        stop_ratio: omega in (0, 1]: stop before the first pick whose gain is at most omega times the first pick's.
        watch: sees the state before each pick.
    """
    run = _Run(state, conflict, penalty)
    alive = eligible.copy()
    left = budget.tokens
    picks: list[int] = []
    gains: list[float] = []
    conflicts: list[float] = []
    stopped: Literal["budget", "exhausted", "stop_ratio"] = "budget"
    while budget.count is None or len(picks) < budget.count:
        fits = alive if left is None or tokens is None else alive & (tokens <= left)
        rows = np.flatnonzero(fits)
        if rows.size == 0:
            stopped = "exhausted"
            break
        if watch is not None:
            watch(len(picks), state, alive)
        i = run.best(rows, len(picks))
        if stop_ratio is not None and gains and state.exact_gains(np.array([i]))[0] <= stop_ratio * gains[0]:
            stopped = "stop_ratio"
            break
        conflicts.append(float(conflict.exact(np.array([i]))[0]))
        conflict.add(i)
        gains.append(state.add(i))
        picks.append(i)
        alive[i] = False
        if left is not None and tokens is not None:
            left -= int(tokens[i])
    indices = np.array(picks, dtype=np.int64)
    trace = trace_table(np.array(gains), state.base()[indices], np.array(conflicts), penalty)
    scores = final_scores(state, conflict, penalty=penalty, eligible=eligible, indices=indices, picked=trace["score"])
    return GreedyResult(indices, trace, scores, stopped, run.sharpened_at)


def final_scores(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: float,
    eligible: BoolArray,
    indices: IntArray,
    picked: FloatArray,
) -> FloatArray:
    """Scores of all rows after a run, (n,): `picked` for `indices`, for other eligible rows the score given those."""
    scores = state.gains() - penalty * conflict.values() if penalty else state.gains().copy()
    scores[indices] = picked
    scores[~eligible] = np.nan
    return scores


class _Run:
    """The choice of one step; goes to float64 for good when float32 leaves too many contenders."""

    def __init__(self, state: InformationState, conflict: Conflict, penalty: float) -> None:
        self.state, self.conflict, self.penalty = state, conflict, penalty
        self.sharpened_at: int | None = None

    def best(self, rows: IntArray, step: int) -> int:
        near, copies = self._contenders(rows)
        crowd = np.unique(copies).size
        if crowd > max(64, rows.size // 64) and step and not self.state.matrix.wide:
            self.state.sharpen()
            self.conflict.sharpen()
            self.sharpened_at = step
            near, copies = self._contenders(rows)
        return settle(near, copies, self._exact, self.state.tolerance, self.penalty)

    def _contenders(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        scores, slack = self.state.gains()[rows], self.state.slack()[rows]
        if self.penalty:
            scores = scores - self.penalty * self.conflict.values()[rows]
            slack = slack + self.penalty * self.conflict.slack()
        near = rows[contenders(scores, slack, self.state.tolerance, self.penalty)]
        return near, self.state.matrix.copies(near) if near.size > 1 else near

    def _exact(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        gains = self.state.exact_gains(rows)
        if not self.penalty:
            return gains, gains
        return gains - self.penalty * self.conflict.exact(rows), gains


def greedy_truth(
    G: npt.NDArray[Any],
    *,
    alpha: float,
    penalty: float,
    count: int,
    eligible: BoolArray | None = None,
    stop_ratio: float | None = None,
) -> IntArray:
    """The picks of the log-det greedy, from the definition at every step, O(count n k^2): the truth for tests.

    `alpha q_x = |sqrt(alpha) R^{-T} g_x|^2` with R the Cholesky factor of `M_S`, taken from a QR.
    """
    X = np.asarray(G, dtype=np.float64)
    norms = np.linalg.norm(X, axis=1)
    alive = np.ones(len(X), dtype=bool) if eligible is None else eligible.copy()
    picks: list[int] = []
    first = 0.0
    while len(picks) < count and alive.any():
        R = cholesky_of_moment(math.sqrt(alpha) * X[picks])
        gains = np.log1p(alpha * (np.linalg.solve(R.T, X.T) ** 2).sum(axis=0))
        mean = X[picks].mean(axis=0) if picks else np.zeros(X.shape[1])
        cosines = -(X @ mean) / (norms * np.linalg.norm(mean) + ETA)
        rows = np.flatnonzero(alive)
        scores = (gains - penalty * np.maximum(0.0, cosines))[rows]
        relative = logdet_tolerance(1.0 + alpha * float((norms[picks] ** 2).sum()))
        i = int(rows[smallest_best(scores, gains[rows], relative, penalty)])
        if stop_ratio is not None and picks and gains[i] <= stop_ratio * first:
            break
        first = first if picks else float(gains[i])
        picks.append(i)
        alive[i] = False
    return np.array(picks, dtype=np.int64)
