"""`M_S^{-1}` in float64, for `M_S = I + alpha sum_{i in S} g_i g_i^T`, kept through rank-one downdates.

Picking v changes the inverse by `M^{-1} -= p p^T / alpha` with `p = alpha M^{-1} v / sqrt(1 + alpha v^T M^{-1} v)`
(Sherman-Morrison). The vectors p are kept as rows `P` while there are at most k of them and folded into one (k, k)
matrix afterwards.

Downdating cancels: a row of squared length `rho = alpha |g|^2` that the picks have made redundant keeps an absolute
error of about `eps * rho`. Where that matters the solution y of `M y = g` is refined against `M` itself, and the
quadratic form is taken as `2 g.y - y^T M y`, whose error is of second order in that of y.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spicerack.information.matrix import BLOCK_BYTES, EPS, FloatArray, IntArray, RowMatrix

FOLD_ROWS = 64
"""Rows of P that are folded at once when the inverse is a full matrix: one matrix product instead of 64 updates."""

FACTOR_ABOVE = 1e13
"""Bound of the condition number from which the inverse is factored afresh at every pick, O((s + k) k^2): `eps` times
the condition number is no longer small, so downdates lose the inverse and refinement diverges. It takes a row a
million times longer than the median one (at alpha "auto") to get there; such a run is slow, and still right."""

KEPT_BYTES = 256 << 20
"""Of picked rows that are kept, because every refinement reads them all; those beyond are read anew."""

REFINE_ABOVE = 1e-11
"""Relative error of `alpha q` from which a row is refined."""


class Inverse:
    """The inverse of `M_S`, S growing one pick at a time.

    Args:
        matrix: the pool's rows (n, k).
        alpha: weight of a row, > 0.
    """

    def __init__(self, matrix: RowMatrix, alpha: float) -> None:
        self.alpha = alpha
        self.picks: list[int] = []
        self.kappa = 1.0  # 1 + alpha sum |g_i|^2 over the picks, an upper bound of the condition number of M_S
        self._matrix = matrix
        self._top = 0.0  # largest alpha |g_i|^2 among the picks
        self._folded: FloatArray | None = None  # M^{-1} = folded - P^T P / alpha,
        self._root: FloatArray | None = None  # or root root^T
        self._P = np.empty((min(16, matrix.k), matrix.k))
        self._used = 0
        self._kept = np.empty((min(16, self._most_kept), matrix.k))  # exact rows of the first picks

    def push(self, i: int, solved: tuple[FloatArray, FloatArray, float] | None = None) -> tuple[FloatArray, float]:
        """Add row i to S. Returns its `y = M^{-1} g_i` (k,) and `alpha q_i`, both before the change.

        Args:
            i: row number.
            solved: the row with its y and `alpha q`, where `solve` has just given them.
        """
        if solved is None:
            X = self._matrix.row_at(i)
            solved = X[0], *self._solved(X)
        row, y, aq = solved
        p = y * (self.alpha / math.sqrt(1.0 + aq))
        rho = self.alpha * float(row @ row)
        self._keep(row)
        self.picks.append(i)
        self.kappa += rho
        self._top = max(self._top, rho)
        if self.kappa > FACTOR_ABOVE:
            self._factor()
        else:
            self._append(p)
        return y, aq

    def solve(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`y_i = M^{-1} x_i` (r, k) and `alpha x_i^T M^{-1} x_i` (r,), refined where cancellation would show."""
        Y = self._apply(X)
        aq = self.alpha * np.vecdot(X, Y)
        rho = self.alpha * np.vecdot(X, X)
        poor = np.flatnonzero(self._poor(rho, aq)) if self.picks else np.empty(0, dtype=np.int64)
        if poor.size:
            Y[poor], aq[poor] = self._refined(X[poor], Y[poor])
        return Y, np.maximum(aq, 0.0)

    def _solved(self, X: FloatArray) -> tuple[FloatArray, float]:
        """The same of a single row (1, k): y (k,) and a number; numpy's calls cost more than its sums."""
        Y = self._apply(X)
        x, y = X[0], Y[0]
        aq, rho = self.alpha * float(x @ y), self.alpha * float(x @ x)
        if self.picks and self._poor(rho, aq):
            Y, refined = self._refined(X, Y)
            y, aq = Y[0], float(refined[0])
        return y, max(aq, 0.0)

    def _poor(self, rho: FloatArray | float, aq: FloatArray | float) -> Any:
        """Whether cancellation shows in `alpha q`, of rows or of one."""
        return 16.0 * EPS * (rho * np.maximum(rho, self._top)) ** 0.5 > REFINE_ABOVE * np.abs(aq)

    def _refined(self, X: FloatArray, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
        for _ in range(2):
            Y = Y + self._apply(X - self._times(Y)[0])
        energy = self._times(Y)[1]
        return Y, self.alpha * (2.0 * np.einsum("ij,ij->i", X, Y) - energy)

    def _apply(self, X: FloatArray) -> FloatArray:
        P = self._P[: self._used]
        if self._root is not None:
            return np.asarray((X @ self._root) @ self._root.T)
        Y = X.copy() if self._folded is None else X @ self._folded
        if self._used:
            Y -= (X @ P.T) @ P / self.alpha
        return Y

    def _times(self, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`M y` and `y^T M y`, from the picked rows themselves: forming M would round the identity away."""
        MY = Y.copy()
        energy = np.einsum("ij,ij->i", Y, Y)
        step = max(1, BLOCK_BYTES // (8 * self._matrix.k))
        for start in range(0, len(self.picks), step):
            rows = self._picked(start, start + step)
            inner = Y @ rows.T
            MY += self.alpha * (inner @ rows)
            energy += self.alpha * np.einsum("ij,ij->i", inner, inner)
        return MY, energy

    @property
    def _most_kept(self) -> int:
        return max(1, KEPT_BYTES // (8 * self._matrix.k))

    def _keep(self, row: FloatArray) -> None:
        """Keep the row of the next pick, if there is room."""
        count = len(self.picks)
        if count >= self._most_kept:
            return
        if count == len(self._kept):
            grown = np.empty((min(2 * count, self._most_kept), self._matrix.k))
            grown[:count] = self._kept
            self._kept = grown
        self._kept[count] = row

    def _picked(self, start: int, stop: int) -> FloatArray:
        """Exact rows of picks, (r, k)."""
        picks: IntArray = np.array(self.picks[start:stop], dtype=np.int64)
        there = min(max(self._most_kept - start, 0), picks.size)
        if there == picks.size:
            return self._kept[start : start + there]
        return np.concatenate([self._kept[start : start + there], self._matrix.rows_at(picks[there:])])

    def _append(self, p: FloatArray) -> None:
        full = self._used == len(self._P)
        if full and self._folded is None and self._used < self._matrix.k:
            grown = np.empty((min(2 * self._used, self._matrix.k), self._matrix.k))
            grown[: self._used] = self._P
            self._P = grown
        elif full:
            base = np.eye(self._matrix.k) if self._folded is None else self._folded
            self._folded = base - self._P.T @ self._P / self.alpha
            self._P = np.empty((FOLD_ROWS, self._matrix.k))
            self._used = 0
        self._P[self._used] = p
        self._used += 1

    def _factor(self) -> None:
        picked = math.sqrt(self.alpha) * self._picked(0, len(self.picks))
        self._root = np.linalg.inv(cholesky_of_moment(picked)).astype(np.float64)
        self._folded, self._used = None, 0


def cholesky_of_moment(X: FloatArray) -> FloatArray:
    """Upper triangular R (k, k) with `R^T R = I + X^T X`, from the QR of `[X; I]`.

    The moment itself is never formed: beside an entry of 1e16 it would lose the identity. Householder QR errs row by
    row when rows with large entries come first.
    """
    order = np.argsort(-np.abs(X).max(axis=1, initial=0.0), kind="stable")
    return np.asarray(np.linalg.qr(np.vstack([X[order], np.eye(X.shape[1])]), mode="r"), dtype=np.float64)
