"""Information about given directions: how far the picks shrink the posterior variance there.

Volume is indifferent to where information lies. With `C = sum_j t_j t_j^T` over rows that stand for what the model
should do, the picks minimize `Phi(S) = tr(C M_S^{-1})`, `M_S = I + alpha F_S`: I-optimal, or transductive,
experimental design. With `W = M^{-1} C M^{-1}`, `q_i = g_i^T M^{-1} g_i` and `v_i = g_i^T W g_i`:

    gain_i = Phi(S) - Phi(S + i) = alpha v_i / (1 + alpha q_i)
    after picking a:  w = M^{-1} g_a,  u = W g_a,  b = alpha / (1 + alpha q_a),  c = v_a
                      q_i -= b (g_i.w)^2 ;   v_i += -2 b (g_i.w)(g_i.u) + b^2 c (g_i.w)^2

Monotone, but not submodular: a gain may rise, stale gains are no bounds, and the log-det certificate does not apply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.inverse import Inverse
from spicerack.information.logdet import TIE
from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix


class Transductive:
    """State of `tr(C) - tr(C M_S^{-1})`.

    Args:
        G: rows (n, k), float32 or float64, or a `RowMatrix`.
        C: float64 (k, k), `second_moment` of the target rows or of the pool's own. Gains scale with it.
        alpha: > 0.
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, C: FloatArray, alpha: float) -> None:
        self.matrix = as_row_matrix(G)
        self.alpha = alpha
        self.C = C
        self.value = 0.0
        self._inverse = Inverse(self.matrix, alpha)
        self._rho = alpha * self.matrix.squared_norms
        self._v: FloatArray = np.empty(self.matrix.n)
        self._aq: FloatArray = np.empty(self.matrix.n)
        self._error_v: FloatArray = np.zeros(self.matrix.n)
        self._recompute()
        self._v0 = self._v
        self._base = self.gains()

    def gains(self) -> FloatArray:
        """`alpha v_i / (1 + alpha q_i)`, (n,)."""
        return np.asarray(self.alpha * self._v / (1.0 + self._aq))

    def slack(self) -> FloatArray:
        """Bound on the rounding error of `gains()`: what the passes left in v and in q, and what float64 loses in M."""
        wide = 8.0 * EPS * (1.0 if not self._inverse.picks else self._inverse.kappa)
        drop = np.maximum(self._rho - self._aq, 0.0)
        error_q = 2.0 * self.matrix.rounding * np.sqrt(self._rho * drop) + wide * self._rho
        error_v = np.sqrt(self._error_v) + wide * self._v0
        floor = 1.0 + np.maximum(self._aq - error_q, 0.0)
        return np.asarray(self.alpha * (error_v + self._v * error_q / (1.0 + self._aq)) / floor)

    def base(self) -> FloatArray:
        """`alpha g_i^T C g_i / (1 + alpha |g_i|^2)`, (n,)."""
        return self._base

    def add(self, i: int) -> float:
        """Absorb row i; one pass over all rows, with two columns. Returns its gain."""
        w, v, aq = self._look(i)
        u = self._inverse.solve((self.C @ w)[None])[0][0]
        gain = self._push(i, v, aq)
        b = self.alpha / (1.0 + aq)
        p, r = self.matrix.product(np.stack([w, u], axis=1)).T
        self._aq = np.maximum(self._aq - self.alpha * b * p * p, 0.0)
        self._v = np.maximum(self._v + (b * b * v * p - 2.0 * b * r) * p, 0.0)
        self._error_v += self._pass_error(w, u, p, r, b, v)
        return gain

    def push(self, i: int) -> float:
        """Absorb row i; `gains()` stay those of before, and are no bounds, until `refresh`. Returns its gain."""
        _, v, aq = self._look(i)
        return self._push(i, v, aq)

    def refresh(self) -> None:
        """Compute all gains afresh, exactly."""
        self._recompute()

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows, then compute all gains exactly."""
        for i in rows.tolist():
            self.push(i)
        self._recompute()

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """Gains of a few rows, (r,), solved in float64 with refinement."""
        v, aq = self._exact(self.matrix.rows_at(rows))
        return np.asarray(self.alpha * v / (1.0 + aq))

    def sharpen(self) -> None:
        """Passes in float64 on exact rows from now on."""
        self.matrix.widen()
        self._recompute()

    @property
    def tolerance(self) -> float:
        """Relative tie tolerance: the solution, unlike the quadratic form, is known to `eps kappa` only."""
        return max(TIE, 8.0 * EPS * self._inverse.kappa)

    def _look(self, i: int) -> tuple[FloatArray, float, float]:
        Y, aq = self._inverse.solve(self.matrix.rows_at(np.array([i])))
        return Y[0], max(float(Y[0] @ self.C @ Y[0]), 0.0), float(aq[0])

    def _push(self, i: int, v: float, aq: float) -> float:
        self._inverse.push(i)
        gain = self.alpha * v / (1.0 + aq)
        self.value += gain
        return gain

    def _pass_error(self, w: FloatArray, u: FloatArray, p: FloatArray, r: FloatArray, b: float, v: float) -> FloatArray:
        """Square of the error one pick leaves in v_i; the errors of different picks add in quadrature."""
        unit = self.matrix.rounding * np.sqrt(self.matrix.squared_norms)
        error_p, error_r = unit * np.linalg.norm(w), unit * np.linalg.norm(u)
        error = 2.0 * b * (np.abs(p) * error_r + np.abs(r) * error_p + error_p * error_r)
        error += b * b * v * (2.0 * np.abs(p) + error_p) * error_p
        return np.asarray(error * error)

    def _exact(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        Y, aq = self._inverse.solve(rows)
        return np.maximum(np.einsum("ij,ij->i", Y @ self.C, Y), 0.0), aq

    def _recompute(self) -> None:
        self._aq, self._v = np.empty(self.matrix.n), np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            self._v[part], self._aq[part] = self._exact(rows)
        self._error_v = np.zeros(self.matrix.n)
