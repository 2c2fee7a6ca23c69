"""k-center: the samples that leave no other far from all of them (greedy, Gonzalez 1985; core-sets, arXiv 1708.00489).

The first pick is the row nearest to the mean of all that may be picked; every other is the one farthest from the picks
so far. The largest distance left is at most twice that of the best set of so many rows.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.moments import mean_row
from spicerack.information.room import Room
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.preparing import ARRAY, RowsFrom, held_rows, needs_rows, read_array
from spicerack.selectors.ranking import narrowed
from spicerack.store.forms import RowForm

TRACE_DTYPE = np.dtype([("distance", np.float64), ("score", np.float64)])


class KCenterOptions(MethodOptions):
    """Options of k_center."""

    rows_from: RowsFrom = Field("gradients", description="gradients, or embeddings (the mean hidden state)")
    rows: RowForm = Field("unit", description="rows as they are, at length 1, or at the square root of their length")
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="larger working copies of the rows are streamed from the store; None: half of free memory"
    )


class KCenter:
    """The farthest from what is already picked."""

    name = "k_center"
    summary = "the sample farthest from all picks so far"
    paper = "arXiv 1708.00489"
    needs = Needs()
    Options: type[MethodOptions] = KCenterOptions

    def needs_with(self, options: KCenterOptions) -> Needs:
        """Of the array that is asked for."""
        return needs_rows(options.rows_from)

    def select(self, problem: Problem, options: KCenterOptions) -> Picks:
        """Pick by distance; the score of a row is its distance to the picks when it was picked, else at the end."""
        rows, usable = read_array(problem, ARRAY[options.rows_from])
        matrix = held_rows(problem, rows, options.rows, memory_gb=options.memory_gb, halves=True)
        room = narrowed(problem, usable).room()
        indices, distances, left = farthest_first(matrix, room, usable)
        scores = np.where(usable, left, np.nan)
        scores[indices] = distances
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["distance"] = trace["score"] = distances
        rest = np.delete(scores, indices)
        radius = float(np.nanmax(rest)) if np.isfinite(rest).any() else 0.0
        return Picks(indices, scores, trace, findings={"radius": radius})


K_CENTER = KCenter()


def farthest_first(matrix: RowMatrix, room: Room, eligible: BoolArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Rows in the order picked (s,), the distance of each to those before, and of all rows to all picks (n,).

    Passes run in float32: rows whose distances differ by less than its rounding are equally far, and the smallest of
    them is picked; rows nearer than that to a pick count as its copies. The first distance is the one to the mean.
    """
    squared = matrix.squared_norms
    centre = mean_row(matrix, eligible)
    nearest = np.maximum(squared - 2.0 * matrix.product(centre) + float(centre @ centre), 0.0)
    distances: list[float] = []

    def take(i: int) -> None:
        nonlocal nearest
        distances.append(float(np.sqrt(nearest[i])))
        center = matrix.rows_at(np.array([i]))[0]
        apart = squared - 2.0 * matrix.product(center) + squared[i]
        apart[apart <= _slack(matrix, squared, squared[i])] = 0.0
        nearest = apart if len(distances) == 1 else np.minimum(nearest, apart)
        room.take(i)

    for i in room.forced:
        take(i)
    while not room.full:
        rows = np.flatnonzero(room.open)
        slack = _slack(matrix, squared[rows], float(squared[rows].max()))
        if distances:
            near = nearest[rows] >= float((nearest[rows] - slack).max())
        else:
            near = nearest[rows] <= float((nearest[rows] + slack).min())
        take(int(rows[near][0]))
    return np.array(room.taken, dtype=np.int64), np.array(distances), np.sqrt(nearest)


def _slack(matrix: RowMatrix, squared: FloatArray, of: float) -> FloatArray:
    """What a squared distance between rows of these squared lengths may be wrong by."""
    return np.asarray(4.0 * matrix.rounding * np.sqrt(squared * of))
