"""Log-det information of samples that bring several rows each: FisherSFT's objective (arXiv 2505.14826).

    U(S) = log det(I + alpha sum_{i in S} X_i^T X_i)          X_i (r, h): the r directions of sample i
    gain_i(S) = log det(I_r + alpha X_i M_S^{-1} X_i^T)

Normalized, monotone and submodular, as for one row a sample. The moment itself is kept beside its inverse, which is
corrected at every pick and computed afresh now and then, so that errors do not build up.
"""

from __future__ import annotations

import numpy as np

from spicerack.information.matrix import FloatArray, IntArray, RowMatrix

REFRESH = 256
"""Picks after which the inverse is computed afresh."""

AT_ONCE = 32 << 20
"""Bytes of the samples that are evaluated together."""


class GroupedFisher:
    """Information of the picked samples, and any sample's gain.

    Args:
        matrix: flattened directions (n, r * h), rows r after r; rows of zeros add nothing.
        width: h.
        alpha: > 0.
    """

    def __init__(self, matrix: RowMatrix, width: int, alpha: float) -> None:
        self.matrix, self.width, self.alpha = matrix, width, alpha
        self.rank = matrix.k // width
        self.value = 0.0
        self._moment: FloatArray = np.eye(width)
        self._inverse: FloatArray = np.eye(width)
        self._picks = 0

    def base(self) -> FloatArray:
        """Gains given the empty set, (n,)."""
        step = max(1, AT_ONCE // (8 * self.matrix.k))
        parts = [np.arange(at, min(at + step, self.matrix.n)) for at in range(0, self.matrix.n, step)]
        return np.concatenate([self.gains(part) for part in parts])

    def gains(self, rows: IntArray) -> FloatArray:
        """Gains of some samples given the picks, (r,)."""
        step, found = max(1, AT_ONCE // (8 * self.matrix.k)), np.empty(rows.size)
        for start in range(0, rows.size, step):
            part = rows[start : start + step]
            X = self._directions(part)
            Y = X
            if self._picks:  # one product of two matrices: a batch of small ones would read the inverse for each
                Y = (X.reshape(-1, self.width) @ self._inverse).reshape(X.shape)
            inner = np.eye(self.rank) + self.alpha * np.einsum("nrh,nsh->nrs", Y, X, optimize=True)
            found[start : start + step] = np.maximum(np.linalg.slogdet(inner)[1], 0.0)
        return found

    def add(self, i: int) -> float:
        """Absorb sample i. Returns its gain."""
        X = self._directions(np.array([i]))[0]
        Y = X @ self._inverse
        inner = np.eye(self.rank) + self.alpha * (Y @ X.T)
        gain = max(0.0, float(np.linalg.slogdet(inner)[1]))
        self._moment += self.alpha * (X.T @ X)
        self._picks += 1
        if self._picks % REFRESH == 0:
            self._inverse = np.linalg.inv(self._moment).astype(np.float64)
        else:
            self._inverse = self._inverse - self.alpha * (Y.T @ np.linalg.solve(inner, Y))
        self.value += gain
        return gain

    def _directions(self, rows: IntArray) -> FloatArray:
        return self.matrix.rows_at(rows).reshape(rows.size, self.rank, self.width)
