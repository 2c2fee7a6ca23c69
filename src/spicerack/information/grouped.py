"""Log-det information of samples that bring several rows each: FisherSFT's objective (arXiv 2505.14826).

    U(S) = log det(I + alpha sum_{i in S} X_i^T X_i)          X_i (r, h): the r directions of sample i
    gain_i(S) = log det(I_r + alpha X_i M_S^{-1} X_i^T)

Normalized, monotone and submodular, as for one row a sample. The moment itself is kept beside its inverse, which is
corrected at every pick and computed afresh now and then, so that errors do not build up.

Both lose `eps` times the condition number of M_S, or `eps alpha |X_i|^2`. Where that is no longer small a root of the
inverse, from the picked rows themselves, takes their place, and singular values that of determinants.
"""

from __future__ import annotations

import math

import numpy as np

from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.matrix import FloatArray, IntArray, RowMatrix

REFRESH = 256
"""Picks after which the inverse is computed afresh."""

ROOT_ABOVE = 1e8
"""Bound of the condition number, and `alpha |X_i|^2` of a sample, from which the inverse is factored afresh at every
pick, O((s r + h) h^2). It takes samples ten thousand times longer than the median one (at alpha "auto") to get there;
such a run is slow, and still right."""

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
        self._root: FloatArray | None = None  # then the inverse is root root^T
        self._picks: list[int] = []
        self._kappa = 1.0  # 1 + alpha sum |X_i|^2 over the picks, an upper bound of the condition number
        if alpha * float(matrix.squared_norms.max()) > ROOT_ABOVE:
            self._root = np.eye(width)

    def base(self) -> FloatArray:
        """Gains given the empty set, (n,)."""
        step = max(1, AT_ONCE // (8 * self.matrix.k))
        parts = [np.arange(at, min(at + step, self.matrix.n)) for at in range(0, self.matrix.n, step)]
        return np.concatenate([self.gains(part) for part in parts])

    def gains(self, rows: IntArray) -> FloatArray:
        """Gains of some samples given the picks, (r,)."""
        step, found = max(1, AT_ONCE // (8 * self.matrix.k)), np.empty(rows.size)
        for start in range(0, rows.size, step):
            X = self._directions(rows[start : start + step])
            Y = X
            if self._picks:  # one product of two matrices: a batch of small ones would read the inverse for each
                factor = self._inverse if self._root is None else self._root
                Y = (X.reshape(-1, self.width) @ factor).reshape(X.shape)
            if self._root is not None:
                found[start : start + step] = _gains_of(math.sqrt(self.alpha) * Y)
                continue
            inner = np.eye(self.rank) + self.alpha * np.einsum("nrh,nsh->nrs", Y, X, optimize=True)
            found[start : start + step] = np.maximum(np.linalg.slogdet(inner)[1], 0.0)
        return found

    def add(self, i: int) -> float:
        """Absorb sample i. Returns its gain."""
        X = self._directions(np.array([i]))[0]
        self._picks.append(i)
        self._kappa += self.alpha * float(np.vdot(X, X))
        if self._root is not None:
            gain = float(_gains_of(math.sqrt(self.alpha) * (X @ self._root)))
        else:
            gain = self._correct(X)
        if self._root is not None or self._kappa > ROOT_ABOVE:
            picked = self._directions(np.array(self._picks)).reshape(-1, self.width)
            self._root = np.linalg.inv(cholesky_of_moment(math.sqrt(self.alpha) * picked)).astype(np.float64)
        self.value += gain
        return gain

    def _correct(self, X: FloatArray) -> float:
        """Bring the inverse up to date with a sample's directions, the last pick's. Returns the gain."""
        Y = X @ self._inverse
        inner = np.eye(self.rank) + self.alpha * (Y @ X.T)
        self._moment += self.alpha * (X.T @ X)
        if len(self._picks) % REFRESH == 0:
            self._inverse = np.linalg.inv(self._moment).astype(np.float64)
        else:
            self._inverse = self._inverse - self.alpha * (Y.T @ np.linalg.solve(inner, Y))
        return max(0.0, float(np.linalg.slogdet(inner)[1]))

    def _directions(self, rows: IntArray) -> FloatArray:
        return self.matrix.rows_at(rows).reshape(rows.size, self.rank, self.width)


def _gains_of(Y: FloatArray) -> FloatArray:
    """`log det(I + Y Y^T)` of each (..., r, h); products of long rows would round short ones away."""
    return np.asarray(np.log1p(np.linalg.svd(Y, compute_uv=False) ** 2).sum(axis=-1))
