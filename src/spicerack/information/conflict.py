"""How far a row points against the mean direction of the picks, and what a unit of that costs.

    conflict_x(S) = max(0, -g_x . gbar / (|g_x| |gbar| + eta)),  gbar = mean of the picked rows, eta = 1e-8

zero for the empty set (arXiv 2601.23155). Only opposition counts: agreement is neither punished nor rewarded.

With a center mu, the pool's mean row, `g - mu` takes the place of every g: instruct models' gradients share a common
direction, and what is left without it opposes far more often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix
from spicerack.information.products import Then

ETA = 1e-8


@dataclass(frozen=True)
class Penalty:
    """Lambda, the weight of the conflict in a score.

    Attributes:
        weight: >= 0.
        relative: whether it is in units of the largest gain on offer at the step (scale-free), not of information.
    """

    weight: float
    relative: bool = False

    def of(self, best_gain: float) -> float:
        """What a conflict of one costs at a step whose largest gain on offer is this."""
        return self.weight * best_gain if self.relative else self.weight


class Conflict:
    """Running sum of the picked rows, and every row's conflict with it.

    Args:
        G: rows (n, k), or the `RowMatrix` that an information state reads, so that both share it.
        center: mu (k,), subtracted from every row, or None.
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, center: FloatArray | None = None) -> None:
        self.matrix = as_row_matrix(G)
        self.center = center
        self._sum = np.zeros(self.matrix.k)
        self._lengths = 0.0
        self._count = 0
        self._values: FloatArray | None = None
        self._direction: tuple[FloatArray, float] | None = None
        self._one: tuple[int, float, float] | None = None  # a row, its conflict and its length

    @property
    def count(self) -> int:
        """Picks absorbed."""
        return self._count

    @cached_property
    def squared_norms(self) -> FloatArray:
        """|g_i - mu|^2 of the exact rows, (n,)."""
        if self.center is None:
            return self.matrix.squared_norms
        squared = np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            rows = rows - self.center
            squared[part] = np.einsum("ij,ij->i", rows, rows)
        return squared

    def add(self, i: int) -> float:
        """Absorb row i. Returns its conflict with the picks before. The pass waits until `values` is asked for."""
        before, length = self._opposition(i)
        self._sum = self._sum + self._row(i)
        self._lengths += length
        self._count += 1
        self._values = self._direction = self._one = None
        return before

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows in the order given."""
        for i in rows.tolist():
            self.add(i)

    def values(self) -> FloatArray:
        """Conflict of every row with the picks, (n,), in [0, 1]; one pass over all rows after each pick."""
        if self._values is None:
            ride_along(self.matrix, [], self)
        assert self._values is not None
        return self._values

    def listener(self) -> Then:
        """For a pass over all rows whose last column is the direction of now: what `values` will be is told by runs."""
        direction = self.direction()[0]
        values = self._values = np.empty(self.matrix.n)
        _ = self.lengths  # before threads ask for it

        def told(part: slice, products: FloatArray) -> None:
            values[part] = self.of(self.inner(products[-1], direction), part)

        return told

    def inner(self, products: FloatArray, direction: FloatArray) -> FloatArray:
        """`(g_i - mu) . direction` from the products `g_i . direction`."""
        return products if self.center is None else products - float(self.center @ direction)

    def of(self, inner: FloatArray, rows: IntArray | slice) -> FloatArray:
        """Conflict of rows whose (centered) products with the direction are `inner`."""
        _, eta = self.direction()
        lengths = -eta - self.lengths[rows]
        if eta == 0.0:
            lengths[lengths == 0.0] = -1.0
        conflict = np.divide(inner, lengths, out=lengths)
        return np.maximum(0.0, conflict, out=conflict)

    @cached_property
    def lengths(self) -> FloatArray:
        """|g_i - mu| of the exact rows, (n,)."""
        return np.sqrt(self.squared_norms)

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of `values()` at `rows`; at most 1, as a conflict is."""
        if self.center is None:
            count = self.matrix.squared_norms[rows].size if isinstance(rows, slice) else rows.size
            return np.full(count, self.matrix.rounding)
        return np.minimum(1.0, self.matrix.rounding * self._magnified[rows])

    def slack_bound(self) -> float | FloatArray:
        """`slack()` of all rows, (n,), or the one number that it is for every row."""
        return self.matrix.rounding if self.center is None else self.slack()

    @cached_property
    def _magnified(self) -> FloatArray:
        """How much centering magnifies the rounding of a row's product, (n,)."""
        whole, left = self.matrix.squared_norms, self.squared_norms
        return np.sqrt(np.divide(whole, left, out=np.zeros_like(whole), where=left > 0.0)) + 1.0

    def exact(self, rows: IntArray) -> FloatArray:
        """Conflict of a few rows, (r,), from exact rows in float64."""
        direction, eta = self.direction()
        X = self.matrix.rows_at(rows)
        X = X if self.center is None else X - self.center
        lengths = np.sqrt(np.vecdot(X, X)) + eta
        return np.maximum(0.0, -(X @ direction) / np.where(lengths > 0.0, lengths, 1.0))

    def exact_of(self, i: int) -> float:
        """The same of one row."""
        return self._opposition(i)[0]

    def sharpen(self) -> None:
        """Forget what was computed in float32; the state that shares the matrix has widened it."""
        self._values = None

    def direction(self) -> tuple[FloatArray, float]:
        """Unit vector along the sum, and eta in the same units (`eta * |S| / |sum|`).

        A sum that cancels to rounding has no direction: the mean gradient is zero, and so is every conflict.
        """
        if self._direction is None:
            length = math.sqrt(self._sum @ self._sum)
            if length <= 64.0 * EPS * self._lengths:
                self._direction = np.zeros(self.matrix.k), 1.0
            else:
                self._direction = self._sum / length, ETA * self._count / length
        return self._direction

    def _opposition(self, i: int) -> tuple[float, float]:
        """Conflict of one row and its length, kept: numbers, where numpy's calls cost more than the sums."""
        if self._one is None or self._one[0] != i:
            row, (direction, eta) = self._row(i), self.direction()
            length = math.sqrt(row @ row)
            self._one = i, max(0.0, -float(row @ direction) / ((length + eta) or 1.0)), length
        return self._one[1:]

    def _row(self, i: int) -> FloatArray:
        row: FloatArray = self.matrix.row_at(i)[0]
        return row if self.center is None else row - self.center


def ride_along(matrix: RowMatrix, columns: list[FloatArray], rider: Conflict | None, then: Then | None = None) -> None:
    """A pass over all rows that also serves the rider, if there is one.

    Args:
        matrix: the rows.
        columns: (k,) each.
        rider: a conflict on the same rows.
        then: told of the products with the columns, a run of rows at a time.
    """
    listeners = [then] if then is not None else []
    if rider is not None:
        listeners.insert(0, rider.listener())  # the other may alter the products
        columns = [*columns, rider.direction()[0]]

    def told(part: slice, products: FloatArray) -> None:
        for listener in listeners:
            listener(part, products)

    matrix.product(columns[0] if len(columns) == 1 else np.stack(columns, axis=1), told)
