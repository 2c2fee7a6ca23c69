"""What a row adds to a determinant: `det L_{S + i} = det L_S * d_i^2`, for kernels L over rows.

`d_i^2` is the squared length of what row i has outside the span of the picks; it only falls. For the linear kernel
`q_i q_j x_i . x_j` it comes from an orthonormal basis of the picked rows, so memory is O(n + s k): after a pick a pass
in the precision of the working copy lowers an upper bound of every row, and exact values are computed for the rows that
are looked at. For a Gaussian kernel it comes from the incremental Cholesky factor of Chen et al. (2018, arXiv
1709.05135), which holds s numbers for every row.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from spicerack.errors import ConfigurationError
from spicerack.information.matrix import BLOCK_BYTES, FloatArray, IntArray, RowMatrix

EXHAUSTED = 1e-10
"""A d^2 that has fallen to this share of what it was is rounding, and counts as 0."""


class Residuals(Protocol):
    """d^2 of every row given the picks."""

    squared: FloatArray
    """Upper bounds of all d^2, (n,)."""

    start: FloatArray
    """d^2 given no picks, (n,)."""

    def of(self, rows: IntArray) -> FloatArray:
        """d^2 of a few rows given the picks, (r,)."""
        ...

    def push(self, i: int) -> None:
        """Absorb row i."""
        ...

    def reset(self) -> None:
        """Forget the picks."""
        ...


class LinearResiduals:
    """Of `L_ij = q_i q_j x_i . x_j`.

    Args:
        matrix: rows x (n, k).
        quality: q >= 0, (n,).
    """

    def __init__(self, matrix: RowMatrix, quality: FloatArray) -> None:
        self.matrix = matrix
        self.start: FloatArray = quality**2 * matrix.squared_norms
        self._square = quality**2
        self._error = matrix.rounding * np.sqrt(matrix.squared_norms)  # of a product with a vector of length one
        self.reset()

    def reset(self) -> None:
        """Forget the picks."""
        self.squared: FloatArray = self.start.copy()
        self._exact: FloatArray = self.start.copy()
        self._basis = np.empty((min(16, self.matrix.k), self.matrix.k))
        self._size = 0
        self._seen = np.zeros(self.matrix.n, dtype=np.int64)

    def of(self, rows: IntArray) -> FloatArray:
        """Take what the basis vectors that a row has not seen hold off it."""
        step = max(1, BLOCK_BYTES // (8 * self.matrix.k))
        for start in range(0, rows.size, step):
            self._update(rows[start : start + step])
        return self._exact[rows]

    def _update(self, rows: IntArray) -> None:
        first = int(self._seen[rows].min())
        if first == self._size:
            return
        inner = self.matrix.rows_at(rows) @ self._basis[first : self._size].T
        inner[np.arange(first, self._size)[None, :] < self._seen[rows][:, None]] = 0.0
        fallen = self._exact[rows] - self._square[rows] * np.einsum("ij,ij->i", inner, inner)
        self._exact[rows] = _without_noise(fallen, self.start[rows])
        self._seen[rows] = self._size

    def push(self, i: int) -> None:
        """Add what row i has outside the basis to it, and lower every bound by what it holds of the rows."""
        row = self.matrix.rows_at(np.array([i]))[0]
        length = float(np.linalg.norm(row))
        for _ in range(2):  # the second time takes off what rounding left
            row = row - self._basis[: self._size].T @ (self._basis[: self._size] @ row)
        left = float(np.linalg.norm(row))
        if left <= np.sqrt(EXHAUSTED) * length:
            return
        if self._size == len(self._basis):
            self._basis = np.vstack([self._basis, np.empty_like(self._basis)])
        self._basis[self._size] = row / left
        sure = np.abs(self.matrix.product(self._basis[self._size])) - self._error
        self.squared = np.maximum(self.squared - self._square * np.maximum(sure, 0.0) ** 2, 0.0)
        self._size += 1


class GaussianResiduals:
    """Of `L_ij = q_i q_j exp(-|x_i - x_j|^2 / (2 h^2))`, plus one on the diagonal if `ridge` is 1.

    Args:
        matrix: rows x (n, k).
        quality: q >= 0, (n,).
        bandwidth: h > 0.
        ridge: 0, or 1 for `L + I`.
        memory: bytes that the factor may take.
    """

    def __init__(self, matrix: RowMatrix, quality: FloatArray, *, bandwidth: float, ridge: float, memory: int) -> None:
        self.matrix, self._quality, self._bandwidth, self._memory = matrix, quality, bandwidth, memory
        self.start: FloatArray = quality**2 + ridge
        self.reset()

    def reset(self) -> None:
        """Forget the picks."""
        self.squared: FloatArray = self.start.copy()
        self._factor = np.empty((16, self.matrix.n))
        self._size = 0

    def of(self, rows: IntArray) -> FloatArray:
        """They are always up to date."""
        return self.squared[rows]

    def push(self, i: int) -> None:
        """One row of the factor."""
        pivot = float(self.squared[i])
        if pivot <= 0.0:
            return
        if self._size == len(self._factor):
            self._grow()
        known = self._factor[: self._size]
        column = (self._kernel(i) - known.T @ known[:, i]) / np.sqrt(pivot)
        self._factor[self._size] = column
        self._size += 1
        self.squared = _without_noise(self.squared - column**2, self.start)
        self.squared[i] = 0.0

    def _kernel(self, i: int) -> FloatArray:
        squared = self.matrix.squared_norms
        center = self.matrix.rows_at(np.array([i]))[0]
        apart = np.maximum(squared - 2.0 * self.matrix.product(center) + squared[i], 0.0)
        return np.asarray(self._quality[i] * self._quality * np.exp(-apart / (2.0 * self._bandwidth**2)))

    def _grow(self) -> None:
        needed = 2 * self._factor.nbytes
        if needed > self._memory:
            raise ConfigurationError(
                f"the rbf kernel keeps a number for every pick and row, {needed / 2**30:.1f} GB after {self._size} "
                f"picks; {self._memory / 2**30:.1f} GB may be used: use kernel='cosine', a smaller budget, or memory_gb"
            )
        self._factor = np.vstack([self._factor, np.empty_like(self._factor)])


def _without_noise(squared: FloatArray, start: FloatArray) -> FloatArray:
    return np.where(squared <= EXHAUSTED * start, 0.0, squared)


def spread(matrix: RowMatrix, among: IntArray) -> float:
    """Root of the mean squared distance between two of the rows, 1 where all are equal."""
    squared = float(matrix.squared_norms[among].mean())
    total = np.zeros(matrix.k)
    mask = np.zeros(matrix.n, dtype=bool)
    mask[among] = True
    for part, rows in matrix.blocks():
        total += rows[mask[part]].sum(axis=0)
    mean = total / among.size
    apart = 2.0 * (squared - float(mean @ mean))
    return float(np.sqrt(apart)) if apart > 1e-12 * squared else 1.0
