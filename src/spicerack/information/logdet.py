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
    """

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, alpha: float) -> None:
        self.matrix = as_row_matrix(G)
        self.alpha = alpha
        self.value = 0.0
        self._inverse = Inverse(self.matrix, alpha)
        self._rho = alpha * self.matrix.squared_norms
        self._aq = self._rho.copy()

    def gains(self) -> FloatArray:
        """`log(1 + alpha q_i)`, (n,)."""
        return np.log1p(self._aq)

    def slack(self) -> FloatArray:
        """Bound on the rounding error of `gains()`.

        A pass errs by `d = rounding |g_i| |p|`, and `|p|^2 <= alpha`, so the square errs by about `2 |p.g_i| d`. The
        squares sum to the drop of `alpha q_i`; errors of different picks are independent, which leaves
        `2 rounding sqrt(rho_i drop_i)`. The second term is what float64 itself loses in p.
        """
        drop = np.maximum(self._rho - self._aq, 0.0)
        error = 2.0 * self.matrix.rounding * np.sqrt(self._rho * drop)
        error += self.matrix.rounding**2 * self._rho * len(self._inverse.picks)
        error += 8.0 * EPS * self._rho * (1.0 if not self._inverse.picks else self._inverse.kappa**0.5)
        return np.asarray(error / (1.0 + np.maximum(self._aq - error, 0.0)))

    def base(self) -> FloatArray:
        """`log(1 + alpha |g_i|^2)`, (n,)."""
        return np.log1p(self._rho)

    def add(self, i: int) -> float:
        """Absorb row i; one pass over all rows. Returns its gain."""
        gain, p = self._push(i)
        inner = self.matrix.product(p)
        self._aq = np.maximum(self._aq - inner * inner, 0.0)
        return gain

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows, then compute all gains exactly in one blocked product."""
        for i in rows.tolist():
            self._push(i)
        self._recompute()

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """`log(1 + alpha q_i)` of a few rows, (r,), solved in float64 with refinement."""
        return np.log1p(self._inverse.solve(self.matrix.rows_at(rows))[1])

    def sharpen(self) -> None:
        """Passes in float64 on exact rows from now on."""
        self.matrix.widen()
        self._recompute()

    @property
    def tolerance(self) -> float:
        """Relative tie tolerance, see `logdet_tolerance`."""
        return logdet_tolerance(self._inverse.kappa)

    def _push(self, i: int) -> tuple[float, FloatArray]:
        y, aq = self._inverse.push(i)
        gain = float(np.log1p(aq))
        self.value += gain
        return gain, y * (self.alpha / np.sqrt(1.0 + aq))

    def _recompute(self) -> None:
        for part, rows in self.matrix.blocks():
            self._aq[part] = self._inverse.solve(rows)[1]
