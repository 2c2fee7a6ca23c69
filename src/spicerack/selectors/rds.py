"""RDS+: the samples whose pooled hidden state is nearest to that of a target sample (arXiv 2503.01807).

Rows are position-weighted means of the last hidden states, compared by cosine. Target samples take turns: each takes
the nearest sample that nobody has taken yet. A round begins with the target sample that is offered the nearest one
(the paper walks them in order), so that a budget that ends within a round keeps the best of it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spicerack.information.matrix import FloatArray, IntArray
from spicerack.information.neighbors import largest
from spicerack.information.room import Room
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.preparing import WEIGHTED, read_array
from spicerack.selectors.ranking import narrowed, rank

TRACE_DTYPE = np.dtype([("score", np.float64), ("target", np.float64)])
FIRST_HEADS = 64


class RdsOptions(MethodOptions):
    """Options of rds."""

    aggregation: Literal["round_robin", "max", "mean"] = Field(
        "round_robin", description="target samples take turns; or rank by the largest or the mean cosine to them"
    )


class Rds:
    """The nearest to the target in hidden states."""

    name = "rds"
    summary = "nearest to the target samples in pooled hidden states, each target sample in turn"
    paper = "arXiv 2503.01807"
    needs = Needs(target="required", arrays=(WEIGHTED,), cost="one forward pass")
    Options: type[MethodOptions] = RdsOptions

    def select(self, problem: Problem, options: RdsOptions) -> Picks:
        """Pick by turns, or by rank."""
        rows, usable = read_array(problem, WEIGHTED)
        assert problem.target is not None  # the target is required
        target = problem.target.array(WEIGHTED)
        kept = np.flatnonzero(target.included)
        goal = target.take(kept, "unit").astype(np.float32)
        cosines = np.empty((kept.size, rows.n), dtype=np.float32)
        for part, block in rows.stream("unit"):
            cosines[:, part] = goal @ block.T
        mean = options.aggregation == "mean"
        scores: FloatArray = cosines.mean(axis=0, dtype=np.float64) if mean else cosines.max(axis=0).astype(np.float64)
        scores[~usable] = np.nan
        if options.aggregation != "round_robin":
            return rank(problem, scores, WEIGHTED)
        cosines[:, ~usable] = -np.inf
        room = narrowed(problem, usable).room()
        indices, taken_by = take_turns(cosines, room)
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["score"] = scores[indices]
        trace["target"] = np.where(taken_by < 0, np.nan, kept[taken_by])
        return Picks(indices, scores, trace)


RDS = Rds()


def take_turns(cosines: npt.NDArray[np.float32], room: Room) -> tuple[IntArray, IntArray]:
    """Each target sample in turn takes its nearest open row, until the room is full; the forced rows come first.

    Args:
        cosines: of every target sample with every row, (m, n).
        room: what may be picked.

    Returns:
        Rows in the order taken (s,), and the target sample that took each, -1 for forced rows (s,).
    """
    heads = Heads(cosines)
    room.take_forced()
    taken_by = [-1] * len(room.taken)
    while not room.full:
        offered = np.array([heads.value(j, heads.best(j, room)) for j in range(len(cosines))])
        for j in np.argsort(-offered, kind="stable").tolist():
            if not room.open.any():
                break
            room.take(heads.best(j, room))
            taken_by.append(j)
    return np.array(room.taken, dtype=np.int64), np.array(taken_by, dtype=np.int64)


class Heads:
    """Each target sample's rows, the nearest first, sorted only as far as they are asked for."""

    def __init__(self, cosines: npt.NDArray[np.float32]) -> None:
        self._cosines = cosines
        self._sorted: list[IntArray] = [np.zeros(0, dtype=np.int64)] * len(cosines)
        self._at = [0] * len(cosines)

    def best(self, j: int, room: Room) -> int:
        """Nearest open row of target sample j; equal ones in order. At least one row is open."""
        while True:
            while self._at[j] < self._sorted[j].size:
                row = int(self._sorted[j][self._at[j]])
                if room.open[row]:
                    return row
                self._at[j] += 1  # a row that is closed never opens again
            self._grow(j)

    def value(self, j: int, row: int) -> float:
        """Cosine of target sample j with a row."""
        return float(self._cosines[j, row])

    def _grow(self, j: int) -> None:
        count = max(FIRST_HEADS, 4 * self._sorted[j].size)
        self._sorted[j] = largest(self._cosines[j : j + 1], count)[0]
