"""Information as the log-determinant of the full Fisher matrix: SPICE's utility.

    U(S) = log det(I + alpha F_S),  F_S = sum_{i in S} g_i g_i^T          arXiv 2601.23155, the objective
    gain_x(S) = log(1 + alpha q_x),  q_x = g_x^T (I + alpha F_S)^{-1} g_x

Normalized, monotone and submodular: gains never rise as S grows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import Conflict, ride_along
from spicerack.information.inverse import Inverse
from spicerack.information.matrix import EPS, FloatArray, IntArray, RowMatrix, as_row_matrix

TIE = 1e-10
"""Relative difference of two gains below which they are a tie, on well-conditioned rows."""


def logdet_tolerance(kappa: float) -> float:
    """Relative difference below which two log-det gains are equal.

    Float64 knows `alpha q` to about `eps sqrt(kappa)`, kappa = 1 + alpha sum |g_i|^2 over the picks bounding the
    condition number of `M_S`; 64 of those, and never less than `TIE`.
    """
    return max(TIE, 64.0 * EPS * math.sqrt(kappa))


class FullFisher:
    """State of `log det(I + alpha F_S)`.

    One pass over the rows a pick: `alpha q_i -= (p . g_i)^2`, `p = alpha M^{-1} v / sqrt(1 + alpha q_v)`.

    Args:
        G: rows (n, k), float32 or float64, or a `RowMatrix`.
        alpha: > 0.

    Attributes:
        rho: `alpha |g_i|^2`, (n,).
        aq: `alpha q_i`, (n,).
        error2: square of what the passes have lost in it, (n,).
        drop: p of the last pick, (k,).
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, alpha: float) -> None:
        self.matrix = as_row_matrix(G)
        self.alpha = alpha
        self.value = 0.0
        self._inverse = Inverse(self.matrix, alpha)
        self.rho = alpha * self.matrix.squared_norms
        self._replaced = False
        self.aq: FloatArray = self.rho.copy()
        self.error2: FloatArray = np.zeros(self.matrix.n)
        self.drop: FloatArray = np.zeros(self.matrix.k)

    def gains(self) -> FloatArray:
        """`log(1 + alpha q_i)`, (n,)."""
        return np.log1p(self.aq)

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of `gains()[rows]`."""
        error = self.error(rows)
        return np.asarray(error / (1.0 + np.maximum(self.aq[rows] - error, 0.0)))

    def slack_bound(self) -> tuple[FloatArray, float, float]:
        """Rho (n,), a slope, and zero: `slope * rho` is no less than `slack()`.

        The drops of a row's `alpha q` add up to its rho at most, those that the passes found to `rho (1 + d sqrt(s))^2`
        after s picks, d the rounding (Cauchy-Schwarz): `error` with that for its sum.
        """
        rounding = self.matrix.rounding
        found = 1.0 + rounding * math.sqrt(len(self._inverse.picks))
        lost = 8.0 * self.matrix.k * EPS * self.condition if self._replaced else 0.0
        return self.rho, 2.0 * rounding * found + lost + self.spread, 0.0

    def error(self, rows: IntArray | slice) -> FloatArray:
        """Bound on the rounding error of `alpha q` of some rows.

        A pass errs by `d = rounding |g_i| |p|`, and `|p|^2 <= alpha`, so the square errs by about `2 |p.g_i| d`; errors
        of different picks are independent and add in quadrature: `error2` gains `(2 rounding)^2 rho_i (p.g_i)^2`. The
        other terms are the squares of d, and what float64 itself loses in p.
        """
        return np.asarray(np.sqrt(self.error2[rows]) + self.spread * self.rho[rows])

    @property
    def spread(self) -> float:
        """The part of `error` that is relative to rho."""
        wide = 8.0 * EPS * (1.0 if not self._inverse.picks else self._inverse.kappa**0.5)
        return float(wide + self.matrix.rounding**2 * len(self._inverse.picks))

    def base(self) -> FloatArray:
        """`log(1 + alpha |g_i|^2)`, (n,)."""
        return np.log1p(self.rho)

    def add(self, i: int, rider: Conflict | None = None) -> float:
        """Absorb row i; one pass over all rows, with the conflict's column if it rides along. Returns its gain."""
        gain = self.push(i)
        ride_along(self.matrix, [self.drop], rider, lambda part, products: self.lower(part, products[0] ** 2))
        return gain

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows, then compute all gains exactly in one blocked product."""
        for i in rows.tolist():
            self.push(i)
        self._recompute()

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """`log(1 + alpha q_i)` of a few rows, (r,), solved in float64 with refinement."""
        return np.log1p(self._inverse.solve(self.matrix.rows_at(rows))[1])

    def sharpen(self) -> None:
        """Passes in float64 on exact rows from now on."""
        self.matrix.widen()
        self._recompute()

    def push(self, i: int) -> float:
        """Absorb row i without telling the other rows: their values stay those of before, upper bounds.

        Leaves `drop`, p (k,): `lower` by `(p . g_i)^2` brings row i up to date. Returns the gain.
        """
        y, aq = self._inverse.push(i)
        gain = float(np.log1p(aq))
        self.value += gain
        self.drop = y * (self.alpha / np.sqrt(1.0 + aq))
        return gain

    def refresh(self) -> None:
        """Compute all gains afresh, exactly."""
        self._recompute()

    def lower(self, rows: IntArray | slice, drop: FloatArray) -> None:
        """Take `drop`, sums of `(p . g)^2` from a pass in the working precision, off the `alpha q` of rows, (r,)."""
        left = self.aq[rows] - drop
        self.aq[rows] = np.maximum(left, 0.0, out=left)
        lost = self.rho[rows] * drop
        lost *= (2.0 * self.matrix.rounding) ** 2
        self.error2[rows] += lost

    def replace(self, rows: IntArray, aq: FloatArray) -> None:
        """Set the `alpha q` of rows to sums of squares from a pass over the k columns of the inverse's root, (r,).

        A column l of the root errs by `rounding |g| |l|` with `alpha |l|^2 <= alpha`, so the sum by about `2 rounding
        sqrt(rho alpha q)`, and relatively by what the factor of M loses.
        """
        self.aq[rows] = aq
        self._replaced = True
        lost = 8.0 * self.matrix.k * EPS * self.condition
        self.error2[rows] = (2.0 * self.matrix.rounding) ** 2 * self.rho[rows] * aq + (lost * aq) ** 2

    def _recompute(self) -> None:
        for part, rows in self.matrix.blocks():
            self.aq[part] = self._inverse.solve(rows)[1]
        self.error2[:] = 0.0

    @property
    def picks(self) -> list[int]:
        """Rows absorbed, in order."""
        return self._inverse.picks

    @property
    def condition(self) -> float:
        """Upper bound of the condition number of `M_S`: 1 + alpha sum |g_i|^2 over the picks."""
        return self._inverse.kappa

    @property
    def tolerance(self) -> float:
        """Relative tie tolerance, see `logdet_tolerance`."""
        return logdet_tolerance(self._inverse.kappa)
