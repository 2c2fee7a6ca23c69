"""How far a row points against the mean direction of the picks.

    conflict_x(S) = max(0, -g_x . gbar / (|g_x| |gbar| + eta)),  gbar = mean of the picked rows, eta = 1e-8

zero for the empty set (arXiv 2601.23155). Only opposition counts: agreement is neither punished nor rewarded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix

ETA = 1e-8


class Conflict:
    """Running sum of the picked rows, and every row's conflict with it.

    Args:
        G: rows (n, k), or the `RowMatrix` that an information state reads, so that both share it.
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix) -> None:
        self.matrix = as_row_matrix(G)
        self._sum = np.zeros(self.matrix.k)
        self._lengths = 0.0
        self._count = 0
        self._values: FloatArray | None = None

    def add(self, i: int) -> None:
        """Absorb row i. The pass over all rows waits until `values` is asked for."""
        row = self.matrix.rows_at(np.array([i]))[0]
        self._sum = self._sum + row
        self._lengths += float(np.linalg.norm(row))
        self._count += 1
        self._values = None

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows in the order given."""
        for i in rows.tolist():
            self.add(i)

    def values(self) -> FloatArray:
        """Conflict of every row with the picks, (n,), in [0, 1]; one pass over all rows after each pick."""
        if self._values is None:
            direction, eta = self._direction()
            inner = self.matrix.product(direction)
            self._values = _opposition(inner, self.matrix.squared_norms, eta)
        return self._values

    def slack(self) -> float:
        """Bound on the rounding error of any of `values()`."""
        return self.matrix.rounding

    def exact(self, rows: IntArray) -> FloatArray:
        """Conflict of a few rows, (r,), from exact rows in float64."""
        direction, eta = self._direction()
        X = self.matrix.rows_at(rows)
        return _opposition(X @ direction, np.einsum("ij,ij->i", X, X), eta)

    def sharpen(self) -> None:
        """Forget what was computed in float32; the state that shares the matrix has widened it."""
        self._values = None

    def _direction(self) -> tuple[FloatArray, float]:
        """Unit vector along the sum, and eta in the same units (`eta * |S| / |sum|`).

        A sum that cancels to rounding has no direction: the mean gradient is zero, and so is every conflict.
        """
        length = float(np.linalg.norm(self._sum))
        if length <= 64.0 * EPS * self._lengths:
            return np.zeros(self.matrix.k), 1.0
        return self._sum / length, ETA * self._count / length


def _opposition(inner: FloatArray, squared_norms: FloatArray, eta: float) -> FloatArray:
    return np.maximum(0.0, -inner / (np.sqrt(squared_norms) + eta))
