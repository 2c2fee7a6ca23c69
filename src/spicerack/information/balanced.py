"""BIDS: pick the row that most exceeds, in some column, what the picks so far have there on average.

    i = argmax_{i not in S} max_j (Z_ij - mean_{a in S} Z_aj)          (arXiv 2501.12147)

The mean is zero while nothing is picked; ties go to the first row. The two maxima swap: the best row of a column does
not depend on its mean, so each column is sorted once and holds a pointer to its best open row, its *head*. A step
compares m heads and moves those whose row is no longer open. The picks are those of the plain loop over all n rows and
m columns in float64, on any data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.room import Room

Columns = npt.NDArray[np.float32]

DEPTH = 1 << 15
"""Rows of a column sorted at once where the budget does not say how many it has."""

WINDOW, WIDEST = 8, 1 << 10
"""Rows of its column that a head that moves looks at first; four times as many whenever none is open, to the widest."""

STRIDE = 1 << 13
"""Rows whose final values are computed at once."""


@dataclass(frozen=True)
class BalancedResult:
    """Picks in order.

    Attributes:
        indices: (s,) int64.
        values: how much each pick exceeded the mean in its column, (s,).
        columns: the column that each was picked for, (s,) int64.
        scores: the picks' values, and for every other row what it would get next, (n,).
    """

    indices: IntArray
    values: FloatArray
    columns: IntArray
    scores: FloatArray


def balanced_greedy(Z: Columns, room: Room) -> BalancedResult:
    """Pick as long as the room has place.

    Args:
        Z: (m, n) finite float32, a row for each column of the pool: influences of n samples on m targets, at one scale.
        room: what may be picked; its forced rows come first.
    """
    total, values, columns = np.zeros(len(Z)), [], []

    def take(row: int) -> None:
        own = Z[:, row].astype(np.float64)
        lead = own - total / max(len(room.taken), 1)
        columns.append(int(np.argmax(lead)))
        values.append(float(lead[columns[-1]]))
        room.take(row)
        total[:] += own

    for row in room.forced:
        take(row)
    heads = _Heads(Z, room.open, DEPTH if room.count is None else room.count + 1)
    while not room.full:
        heads.advance()
        take(heads.best(total / max(len(room.taken), 1)))
    indices = np.array(room.taken, dtype=np.int64)
    scores = best_leads(Z, total / max(indices.size, 1))
    scores[indices] = values
    return BalancedResult(indices, np.array(values), np.array(columns, dtype=np.int64), scores)


class _Heads:
    """The best open row of every column: the largest value, of equal ones the first row.

    Args:
        Z: (m, n).
        open_rows: (n,), the room's own mask, which closes rows as they are taken.
        depth: rows of a column sorted at once.
    """

    def __init__(self, Z: Columns, open_rows: BoolArray, depth: int) -> None:
        self.Z, self.open_rows, m = Z, open_rows, len(Z)
        self.depth = max(1, min(depth, int(np.count_nonzero(open_rows))))
        self.order = np.zeros((m, self.depth), dtype=np.int32)
        self.size, self.at = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64)
        self.rows, self.values = np.zeros(m, dtype=np.int64), np.full(m, -np.inf)
        numbers = np.flatnonzero(open_rows)
        for j in range(m):
            self._sort(j, numbers)

    def best(self, mean: FloatArray) -> int:
        """The row with the largest value above its column's mean (m,), the first of those that agree in float64."""
        lead = self.values - mean
        value = float(lead.max())
        return min(self._first(int(j), float(mean[j]), value) for j in np.flatnonzero(lead == value))

    def advance(self) -> None:
        """Move every head that is not open to the next row of its column that is."""
        moving, window = np.flatnonzero(~self.open_rows[self.rows]), WINDOW
        while moving.size:
            places = self.at[moving, None] + np.arange(1, window + 1)
            sizes = self.size[moving, None]
            rows = self.order[moving[:, None], np.minimum(places, sizes - 1)]
            stops = self.open_rows[rows] | (places >= sizes)
            first = stops.argmax(axis=1)
            stopped = stops[np.arange(moving.size), first]
            self.at[moving] += np.where(stopped, first + 1, window)
            self._settle(moving[stopped])
            moving, window = moving[~stopped], min(4 * window, WIDEST)

    def _settle(self, columns: IntArray) -> None:
        """Set the heads to where their pointers are; a column whose sorted rows are used up is sorted anew."""
        ended = self.at[columns] >= self.size[columns]
        if ended.any():
            numbers = np.flatnonzero(self.open_rows)
            for j in columns[ended]:
                self._sort(int(j), numbers)
            columns = columns[~ended]
        rows = self.order[columns, self.at[columns]]
        self.rows[columns], self.values[columns] = rows, self.Z[columns, rows]

    def _sort(self, j: int, numbers: IntArray) -> None:
        """Sort the best of the open rows `numbers`, ascending; the column has no head where there are none."""
        size = min(self.depth, numbers.size)
        self.size[j] = size
        if size == 0:
            self.values[j] = -np.inf
            return
        values = self.Z[j, numbers]
        edge = np.partition(values, values.size - size)[values.size - size]
        above, equal = np.flatnonzero(values > edge), np.flatnonzero(values == edge)
        chosen = np.concatenate([above, equal[: size - above.size]])
        self.order[j, :size] = numbers[chosen[np.argsort(-values[chosen], kind="stable")]]
        self.at[j], self.rows[j] = 0, self.order[j, 0]
        self.values[j] = self.Z[j, self.rows[j]]

    def _first(self, j: int, mean: float, value: float) -> int:
        """The first row of a column that is `value` above the mean; smaller values may be that too, once rounded."""
        head = np.float32(self.values[j])
        if float(np.nextafter(head, np.float32(-np.inf))) - mean != value:
            return int(self.rows[j])
        return int(np.flatnonzero((self.Z[j].astype(np.float64) - mean == value) & self.open_rows)[0])


def best_leads(Z: Columns, mean: FloatArray) -> FloatArray:
    """max_j (Z_ij - mean_j) of every row, (n,)."""
    best = np.empty(Z.shape[1])
    for start in range(0, best.size, STRIDE):
        part = slice(start, start + STRIDE)
        best[part] = (Z[:, part] - mean[:, None]).max(axis=0)
    return best
