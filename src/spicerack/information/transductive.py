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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import Conflict, ride_along
from spicerack.information.inverse import Inverse
from spicerack.information.logdet import TIE
from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix
from spicerack.information.products import Then


class Doubts(NamedTuple):
    """What makes of a row's numbers how far its gain may be out, by `slack_of`.

    Attributes:
        passes: factor of what the passes lost in `alpha v`, to first order.
        second: factor of what they lost to second order.
        den: factor of what they, and float64 in M, lost in `1 + alpha q`.
        wide: factor of what float64 lost in `alpha v` by way of M.
    """

    passes: float
    second: float
    den: float
    wide: float


class Transductive:
    """State of `tr(C) - tr(C M_S^{-1})`.

    One pass over the rows a pick, with two columns, in place on vectors of n. For each row it keeps `alpha v`,
    `1 + alpha q`, what the passes may have lost in `alpha v`, the gain, and how far that may be out.

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
        self._av0 = np.zeros(self.matrix.n)
        self._recompute()
        self._av0 = self._av.copy()
        self._slack = self._slack_at()
        self._base = self.gains().copy()

    def gains(self) -> FloatArray:
        """`alpha v_i / (1 + alpha q_i)`, (n,)."""
        return self._gains

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of `gains()[rows]`.

        It holds what the passes left in v and in q, and what float64 loses in M.
        """
        return np.array(self._slack[rows])

    def slack_bound(self) -> tuple[FloatArray, float, float]:
        """The slack, 1 and 0: `slope * vector + level` is no less than `slack()`."""
        return self._slack, 1.0, 0.0

    def partials(self) -> tuple[FloatArray, FloatArray]:
        """`alpha v_i`, what a unit of weight on row i would take off `tr(C M^{-1})`, and its rounding error, (n,)."""
        return self._av, error_of_av(self._error2, self.rho, self._av0, self._doubts())

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
        gains = self._av[rows] / self._den[rows]
        self._gains[rows] = gains
        self._slack[rows] = self._slack_at(rows)
        return np.asarray(gains)

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
        factors = self.alpha * b, -2.0 * self.alpha * b, self.alpha * b * b * v, 2.0 * A * A, 2.0 * B * B
        self._second2 += D * D
        doubts = self._doubts()
        vectors = self._den, self._av, self._error2, self._gains, self._slack, self.rho, self._av0
        follow: Callable[..., None] = follow_by_numpy
        if self.matrix.many:
            from spicerack.information.native import follow

        def follow_run(part: slice, products: FloatArray) -> None:
            follow(products[0], products[1], [vector[part] for vector in vectors], factors, doubts)

        return follow_run

    def _doubts(self) -> Doubts:
        rounding = self.matrix.product_rounding
        wide = 8.0 * EPS * (1.0 if not self._inverse.picks else self._inverse.kappa)
        return Doubts(
            passes=rounding * math.sqrt(self.alpha),
            second=rounding * rounding * math.sqrt(self._second2),
            den=2.0 * rounding + wide,
            wide=wide,
        )

    def _slack_at(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        gains, den, error2 = self._gains[rows], self._den[rows], self._error2[rows]
        return slack_of(gains, den, error2, self.rho[rows], self._av0[rows], self._doubts())

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
        self._gains: FloatArray = self._av / self._den
        self._slack = self._slack_at()


def follow_by_numpy(
    p: FloatArray, r: FloatArray, vectors: Sequence[FloatArray], factors: Sequence[float], doubts: Doubts
) -> None:
    """What `native.follow` does, with numpy; p and r are overwritten."""
    den, av, error2, gains, slack, rho, av0 = vectors
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
    np.divide(av, den, out=gains)
    slack[:] = slack_of(gains, den, error2, rho, av0, doubts)


def slack_of(
    gains: FloatArray, den: FloatArray, error2: FloatArray, rho: FloatArray, av0: FloatArray, doubts: Doubts
) -> FloatArray:
    """How far gains may be out, of the vectors that `Transductive` keeps, (n,) each."""
    error_den = doubts.den * rho
    error = error_of_av(error2, rho, av0, doubts) + gains * error_den
    return np.asarray(error / np.maximum(den - error_den, 1.0))


def error_of_av(error2: FloatArray, rho: FloatArray, av0: FloatArray, doubts: Doubts) -> FloatArray:
    """How far `alpha v` may be out, (n,), of the same vectors."""
    return np.asarray(doubts.passes * np.sqrt(error2 * rho) + doubts.second * rho + doubts.wide * av0)
