"""Information from the diagonal of the Fisher matrix: a log-det, and what the released SPICE code computes instead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.conflict import Conflict
from spicerack.information.logdet import TIE
from spicerack.information.matrix import FloatArray, IntArray, RowMatrix, as_row_matrix


class DiagonalState(ABC):
    """What the two diagonal forms share: gains are sums of non-negative terms, so their error is relative."""

    def __init__(self, G: npt.NDArray[Any] | RowMatrix, alpha: float) -> None:
        self.matrix = as_row_matrix(G)
        self.alpha = alpha
        self.value = 0.0
        self._picks = 0
        self._total = np.zeros(self.matrix.k)
        self._base = self._stream_exact()
        self._gains = self._base

    def gains(self) -> FloatArray:
        """Marginal gain of every row given the picks, (n,)."""
        return self._gains

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of `gains()[rows]`: relative, every term being non-negative."""
        return np.asarray(self._gains[rows] * (4.0 * self.matrix.rounding))

    def slack_bound(self) -> tuple[FloatArray, float, float]:
        """`slack()` itself: the gains (n,), a slope, and zero."""
        return self._gains, 4.0 * self.matrix.rounding, 0.0

    def base(self) -> FloatArray:
        """Gain of every row given the empty set, (n,)."""
        return self._base

    def add(self, i: int, rider: Conflict | None = None) -> float:
        """Absorb row i; one pass over all rows. Returns its gain. The conflict makes its own pass."""
        gain = self.push(i)
        self.refresh()
        return gain

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows, then compute all gains exactly."""
        for i in rows.tolist():
            self.push(i)
        self._gains = self._stream_exact()

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """Gains of a few rows, (r,), in float64."""
        return self.of(self.matrix.rows_at(rows))

    def sharpen(self) -> None:
        """Passes in float64 on exact rows from now on."""
        self.matrix.widen()
        self._gains = self._stream_exact()

    @property
    def tolerance(self) -> float:
        """Relative tie tolerance: there is no cancellation."""
        return TIE

    def push(self, i: int) -> float:
        """Absorb row i; `gains()` stay those of before, upper bounds, until `refresh`. Returns its gain."""
        row = self.matrix.rows_at(np.array([i]))
        gain = float(self.of(row)[0])
        self._total = self._total + self._share(row[0])
        self._picks += 1
        self.value += gain
        return gain

    def refresh(self) -> None:
        """Compute all gains afresh."""
        self._gains = self._stream_exact() if self.matrix.wide else self._stream()

    def _stream_exact(self) -> FloatArray:
        out = np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            out[part] = self.of(rows)
        return out

    def _stream(self) -> FloatArray:
        out = np.empty(self.matrix.n)
        for part, rows in self.matrix.working_blocks():
            out[part] = self.of(rows)
        return out

    @abstractmethod
    def of(self, rows: npt.NDArray[Any]) -> FloatArray:
        """Gains of `rows` (r, k) given the picks, in the dtype of the rows until the last sum."""

    @abstractmethod
    def _share(self, row: FloatArray) -> FloatArray:
        """What a picked row (k,) adds to the running total."""


class DiagonalFisher(DiagonalState):
    """State of `log det(I + alpha diag(F_S))`: `gain_x = sum_j log(1 + alpha g_xj^2 / (1 + alpha f_j))`.

    `f_j = sum_{i in S} g_ij^2`. Monotone and submodular, coordinate by coordinate.

    Args:
        G: rows (n, k), float32 or float64, or a `RowMatrix`.
        alpha: > 0.
    """

    def of(self, rows: npt.NDArray[Any]) -> FloatArray:
        """Gains of `rows` (r, k) given the picks."""
        scale = np.sqrt(self.alpha / (1.0 + self.alpha * self._total)).astype(rows.dtype)
        scaled = rows * scale
        return np.asarray(np.log1p(scaled * scaled).sum(axis=1), dtype=np.float64)

    def _share(self, row: FloatArray) -> FloatArray:
        return row * row


class AdaFisherCode(DiagonalState):
    """What SPICE's released code computes, for comparison: `gain_x = log(1 + alpha sum_j g_xj^2 / den_j)`.

    `den_j = 1 + alpha sum_{i in S} g_ij^4`. Not the log-det of any Fisher matrix; gains never rise.

    Args:
        G: rows (n, k), float32 or float64, or a `RowMatrix`.
        alpha: > 0.
    """

    def of(self, rows: npt.NDArray[Any]) -> FloatArray:
        """Gains of `rows` (r, k) given the picks."""
        scale = np.sqrt(self.alpha / (1.0 + self.alpha * self._total)).astype(rows.dtype)
        scaled = rows * scale
        return np.asarray(np.log1p(np.einsum("ij,ij->i", scaled, scaled), dtype=np.float64))

    def _share(self, row: FloatArray) -> FloatArray:
        return np.asarray(row**4)
