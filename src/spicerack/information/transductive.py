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

import math
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import Conflict, ride_along
from spicerack.information.inverse import Inverse
from spicerack.information.logdet import TIE
from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix
from spicerack.information.products import Then


class Transductive:
    """State of `tr(C) - tr(C M_S^{-1})`.

    One pass over the rows a pick, with two columns, in place on vectors of n. For each row it keeps `alpha v`,
    `1 + alpha q`, and what the passes may have lost in `alpha v`.

    Args:
        G: rows (n, k), float32 or float64, or a `RowMatrix`.
        C: float64 (k, k), `second_moment` of the target rows or of the pool's own. Gains scale with it.
        alpha: > 0.

    Attributes:
        rho: `alpha |g_i|^2`, (n,).
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, C: FloatArray, alpha: float) -> None:
        self.matrix = as_row_matrix(G)
        self.alpha = alpha
        self.C = C
        self.value = 0.0
        self._inverse = Inverse(self.matrix, alpha)
        self.rho = alpha * self.matrix.squared_norms
        self._steepest = 0.0  # largest error2 / rho
        self._lock = Lock()
        self._per_rho = 1.0 / np.maximum(self.rho, np.finfo(np.float64).tiny)
        self._lengths = np.sqrt(self.matrix.squared_norms)
        self._recompute()
        self._av0 = self._av.copy()
        self._largest_av0 = float(self._av0.max())
        self._base = self.gains().copy()

    def gains(self) -> FloatArray:
        """`alpha v_i / (1 + alpha q_i)`, (n,)."""
        return self._gains

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of `gains()[rows]`.

        It holds what the passes left in v and in q, and what float64 loses in M.
        """
        wide = self._wide()
        error_q = (2.0 * self.matrix.product_rounding + wide) * self.rho[rows]
        error = self._error_av(wide, rows) + self.gains()[rows] * error_q
        return np.asarray(error / np.maximum(self._den[rows] - error_q, 1.0))

    def slack_bound(self) -> tuple[FloatArray, float, float]:
        """Rho (n,), what error2 is per rho, and a level: `slope * rho + level` is no less than `slack()`."""
        wide, rounding = self._wide(), self.matrix.product_rounding
        slope = rounding * math.sqrt(self.alpha * self._steepest) + rounding * rounding * math.sqrt(self._second2)
        slope += float(self.gains().max()) * (2.0 * rounding + wide)
        return self.rho, slope, wide * self._largest_av0

    def partials(self) -> tuple[FloatArray, FloatArray]:
        """`alpha v_i`, what a unit of weight on row i would take off `tr(C M^{-1})`, and its rounding error, (n,)."""
        return self._av, self._error_av(self._wide(), slice(None))

    def base(self) -> FloatArray:
        """`alpha g_i^T C g_i / (1 + alpha |g_i|^2)`, (n,)."""
        return self._base

    def add(self, i: int, rider: Conflict | None = None) -> float:
        """Absorb row i; one pass over all rows, with the conflict's column if it rides along. Returns its gain."""
        row, w, v, aq = self._look(i)
        u = self._inverse.solve((self.C @ w)[None])[0][0]
        gain = self._push(i, row, w, v, aq)
        ride_along(self.matrix, [w, u], rider, self._follower(w, u, self.alpha / (1.0 + aq), v))
        return gain

    def push(self, i: int) -> float:
        """Absorb row i; `gains()` stay those of before, and are no bounds, until `refresh`. Returns its gain."""
        return self._push(i, *self._look(i))

    def refresh(self) -> None:
        """Compute all gains afresh, exactly."""
        self._recompute()

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows, then compute all gains exactly."""
        for i in rows.tolist():
            self.push(i)
        self._recompute()

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """Gains of a few rows, (r,), solved in float64 with refinement. They are kept: what passes left there is gone.

        A row that float32 leaves in doubt at one step is nearly always one of the next, and would be solved again.
        """
        v, aq = self._exact(self.matrix.rows_at(rows))
        self._av[rows], self._den[rows], self._error2[rows] = self.alpha * v, 1.0 + aq, 0.0
        self._gains[rows] = self._av[rows] / self._den[rows]
        return np.asarray(self._gains[rows])

    def sharpen(self) -> None:
        """Passes in float64 on exact rows from now on."""
        self.matrix.widen()
        self._recompute()

    @property
    def tolerance(self) -> float:
        """Relative tie tolerance: the solution, unlike the quadratic form, is known to `eps kappa` only."""
        return max(TIE, 8.0 * EPS * self._inverse.kappa)

    def _look(self, i: int) -> tuple[FloatArray, FloatArray, float, float]:
        row = self.matrix.row_at(i)
        Y, aq = self._inverse.solve(row)
        return row[0], Y[0], max(float(Y[0] @ self.C @ Y[0]), 0.0), float(aq[0])

    def _push(self, i: int, row: FloatArray, w: FloatArray, v: float, aq: float) -> float:
        self._inverse.push(i, (row, w, aq))
        gain = self.alpha * v / (1.0 + aq)
        self.value += gain
        return gain

    def _follower(self, w: FloatArray, u: FloatArray, b: float, v: float) -> Then:
        """What a pick does to rows whose products with w and u are known; these are overwritten.

        A pass errs by `d |g| |w|` in p and `d |g| |u|` in r, d its rounding. So a pick leaves an error of at most
        `d |g| (A |p| + B |r|) + d^2 |g|^2 D` in v; those of different picks add in quadrature.
        """
        length, other = float(np.linalg.norm(w)), float(np.linalg.norm(u))
        A, B = 2.0 * b * (other + b * v * length), 2.0 * b * length
        D = 2.0 * b * length * other + b * b * v * length * length
        vectors = self._den, self._av, self._error2, self._gains, self._per_rho
        factors = self.alpha * b, -2.0 * self.alpha * b, self.alpha * b * b * v, 2.0 * A * A, 2.0 * B * B
        self._second2 += D * D
        if self.matrix.many:
            from spicerack.information.native import follow
        else:
            follow = follow_by_numpy

        def follow_run(part: slice, products: FloatArray) -> None:
            steepest = follow(products[0], products[1], [vector[part] for vector in vectors], factors)
            with self._lock:
                self._steepest = max(self._steepest, steepest)

        return follow_run

    def _wide(self) -> float:
        return 8.0 * EPS * (1.0 if not self._inverse.picks else self._inverse.kappa)

    def _error_av(self, wide: float, rows: IntArray | slice) -> FloatArray:
        rounding = self.matrix.product_rounding
        error = self.alpha * rounding * np.sqrt(self._error2[rows]) * self._lengths[rows]
        error += wide * self._av0[rows] + rounding * rounding * math.sqrt(self._second2) * self.rho[rows]
        return np.asarray(error)

    def _exact(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        Y, aq = self._inverse.solve(rows)
        return np.maximum(np.einsum("ij,ij->i", Y @ self.C, Y), 0.0), aq

    def _recompute(self) -> None:
        self._den, self._av = np.empty(self.matrix.n), np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            v, aq = self._exact(rows)
            self._av[part], self._den[part] = self.alpha * v, 1.0 + aq
        self._error2: FloatArray = np.zeros(self.matrix.n)
        self._second2 = 0.0
        self._steepest = 0.0
        self._gains: FloatArray = self._av / self._den


def follow_by_numpy(p: FloatArray, r: FloatArray, vectors: Sequence[FloatArray], factors: Sequence[float]) -> float:
    """What `native.follow` does, with numpy; p and r are overwritten."""
    den, av, error2, gains, per_rho = vectors
    lower, cross, raised, along, across = factors
    product = p * r
    np.multiply(p, p, out=p)
    np.multiply(r, r, out=r)
    den -= lower * p
    np.maximum(den, 1.0, out=den)
    product *= cross
    av += product
    av += np.multiply(p, raised, out=product)
    np.maximum(av, 0.0, out=av)
    error2 += np.multiply(p, along, out=p)
    error2 += np.multiply(r, across, out=r)
    np.multiply(error2, per_rho, out=product)
    np.divide(av, den, out=gains)
    return float(product.max())
