"""Tangents of the relaxed information, with their rounding error: linear functions that lie above it.

`relaxation.py` says why any Z gives one. Here they are computed, for the full and for the diagonal Fisher matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.matrix import BLOCK_BYTES, EPS, FloatArray, IntArray, RowMatrix
from spicerack.information.moments import row_energies

TAME = 1e12
"""Trace of `M` from which it is factored from the rows themselves: beside larger entries the identity is lost."""


@dataclass(frozen=True)
class Tangent:
    """A linear upper bound of f.

    Attributes:
        Z: its transpose, upper triangular (r, r), for the full form; the diagonal of `Z^T Z` (k,) for the diagonal one.
        constant: `-2 log|det Z|`, its rounding error added.
        trace: `|Z|_F^2`.
    """

    Z: FloatArray
    constant: float
    trace: float


class Form(Protocol):
    """f on the candidate `rows` (m,) of a matrix: its tangents, and what a tangent says of any row."""

    rows: IntArray

    def tangent(self, weights: FloatArray) -> Tangent:
        """The tangent of f at `weights` (m,)."""
        ...

    def partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of the candidates, (m,)."""
        ...

    def all_partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of all rows, (n,); one pass over them."""
        ...

    def shortfall(self, weights: FloatArray) -> float:
        """What must be added to `log det (Z^T Z)^{-1}` so that rounding never leaves the matrix below the identity."""
        ...

    def upper(self, tangent: Tangent, total: float) -> float:
        """The bound that a tangent gives where no allowed set's partials sum to more than `total`."""
        ...


class FullForm:
    """The full Fisher matrix, in the span of the candidates where that is smaller than k.

    Outside the span Z is the identity, and `alpha |Z g|^2 = alpha (|g|^2 - |Q^T g|^2 + |U^T Q^T g|^2)`, Q its basis.
    """

    def __init__(self, matrix: RowMatrix, alpha: float, rows: IntArray, whole: bool) -> None:
        self.rows, self.matrix, self.alpha = rows, matrix, alpha
        self._basis: FloatArray | None = None
        self._X = matrix.rows_at(rows)
        if rows.size < matrix.k:
            self._basis, R = np.linalg.qr(self._X.T)
            self._X = np.ascontiguousarray(R.T)
        self._beyond = 0 if whole or self._basis is None else matrix.k - rows.size
        self._unit = 4.0 * EPS * (matrix.k + 16)
        self._rho = alpha * matrix.squared_norms

    @staticmethod
    def cost(matrix: RowMatrix, m: int, whole: bool) -> tuple[float, float]:
        """Floating-point operations of a round, and of a step of it."""
        r = float(min(m, matrix.k))
        reduce = 4.0 * matrix.k * r * r if m < matrix.k else 0.0
        every = 0.0 if whole else 2.0 * matrix.n * r * (r if m >= matrix.k else matrix.k + r)
        return reduce + every, 4.0 * m * r * r + 3.0 * r**3

    def tangent(self, weights: FloatArray) -> Tangent:
        """The tangent of f at `weights` (m,)."""
        U = inverse_root(self._X, self.alpha * weights)
        logs = -2.0 * np.log(np.abs(np.diag(U)))
        trace = float(np.einsum("ij,ij->", U, U)) + self._beyond
        return Tangent(U, float(logs.sum() + self._unit * np.abs(logs).sum()), trace)

    def partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of the candidates, (m,)."""
        return self._raised(self._squares(self._X, tangent), self._rho[self.rows], tangent)

    def all_partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of all rows, (n,)."""
        out = np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            X = rows if self._basis is None else rows @ self._basis
            out[part] = self._squares(X, tangent)
            if self._basis is not None:
                beyond = self._rho[part] - self.alpha * np.einsum("ij,ij->i", X, X)
                out[part] += np.maximum(beyond, 0.0) + 4.0 * self._unit * self._rho[part]
        return self._raised(out, self._rho, tangent)

    def upper(self, tangent: Tangent, total: float) -> float:
        """The bound of a tangent where no allowed set's partials sum to more than `total`."""
        return _upper(tangent, total, self._X.shape[1] + self._beyond, self._unit)

    def shortfall(self, weights: FloatArray) -> float:
        """`-r log(1 - eta)`: by the backward error eta of factor and inverse the matrix is at least (1 - eta) I."""
        r = self._X.shape[1]
        trace = r + float(weights @ self._rho[self.rows])
        eta = 2.0 * self._unit * (trace + math.sqrt(r * trace))
        return -r * math.log1p(-eta) if eta < 0.1 else math.inf

    def _squares(self, X: FloatArray, tangent: Tangent) -> FloatArray:
        return np.asarray(self.alpha * row_energies(X, tangent.Z))

    def _raised(self, squares: FloatArray, rho: FloatArray, tangent: Tangent) -> FloatArray:
        """No less than the exact partials: `|Z g|` errs by at most `2 unit (1 + |Z|_F) |g|`."""
        length = np.sqrt(squares) + 2.0 * self._unit * (1.0 + math.sqrt(tangent.trace)) * np.sqrt(rho)
        return np.asarray(length * length * (1.0 + self._unit))


class DiagonalForm:
    """The diagonal Fisher matrix: `f(w) = sum_j log(1 + alpha sum_i w_i g_ij^2)`."""

    def __init__(self, matrix: RowMatrix, alpha: float, rows: IntArray, whole: bool) -> None:
        self.rows, self.matrix, self.alpha = rows, matrix, alpha
        self._X = matrix.rows_at(rows) ** 2
        self._unit = 4.0 * EPS * (matrix.k + 16)

    @staticmethod
    def cost(matrix: RowMatrix, m: int, whole: bool) -> tuple[float, float]:
        """Floating-point operations of a round, and of a step of it."""
        return (0.0 if whole else 3.0 * matrix.n * matrix.k), 4.0 * m * matrix.k

    def tangent(self, weights: FloatArray) -> Tangent:
        """The tangent of f at `weights` (m,)."""
        z = 1.0 / (1.0 + self.alpha * (weights @ self._X))
        logs = -np.log(z)
        return Tangent(z, float(logs.sum() + self._unit * np.abs(logs).sum()), float(z.sum()))

    def partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of the candidates, (m,)."""
        return np.asarray(self.alpha * (self._X @ tangent.Z) * (1.0 + self._unit))

    def all_partials(self, tangent: Tangent) -> FloatArray:
        """No less than `alpha |Z g_i|^2` of all rows, (n,)."""
        out = np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            out[part] = self.alpha * ((rows * rows) @ tangent.Z) * (1.0 + self._unit)
        return out

    def upper(self, tangent: Tangent, total: float) -> float:
        """The bound of a tangent where no allowed set's partials sum to more than `total`."""
        return _upper(tangent, total, self.matrix.k, self._unit)

    def shortfall(self, weights: FloatArray) -> float:
        """Infinite: the product form is that of the full matrix."""
        return math.inf


def inverse_root(X: FloatArray, weights: FloatArray) -> FloatArray:
    """Upper triangular U with `U U^T = (I + sum_i weights_i x_i x_i^T)^{-1}`, (r, r), up to rounding.

    Rows are weighted a block at a time: candidates may fill a good part of the memory that may be used.
    """
    used = np.flatnonzero(weights > 1e-12 * float(weights.max(initial=0.0)))
    scale = np.sqrt(weights[used])[:, None]
    moment = np.eye(X.shape[1])
    step = max(1, BLOCK_BYTES // (8 * max(1, X.shape[1])))
    for start in range(0, used.size, step):
        A = X[used[start : start + step]] * scale[start : start + step]
        moment += A.T @ A
    tame = float(np.trace(moment)) < TAME
    R = np.linalg.cholesky(moment).T if tame else cholesky_of_moment(X[used] * scale)
    return np.triu(np.linalg.inv(R))  # of an upper triangular matrix the LU pivots nothing, so this drops zeros only


def _upper(tangent: Tangent, total: float, d: int, unit: float) -> float:
    """`d log((|Z|_F^2 + T) / d) - 2 log|det Z|`; the sums are relative to `unit`, so the logarithm moves by that."""
    return d * math.log((tangent.trace + total * (1.0 + unit)) / d) + tangent.constant + 2.0 * d * unit
