"""The rows of a pool as the states read them: a working copy for the passes, exact rows for the decisions.

A pass over all rows (`product`) is bound by memory, so it runs in the dtype of the working copy, float32 as a rule.
Whatever decides a pick reads the *exact rows*: float64, from the source itself. The two may differ by rounding, and
`rounding` says by how much, so that a pick never depends on the precision of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
RowsAt = Callable[[IntArray], FloatArray]

BLOCK_BYTES = 32 << 20
"""Size of a float64 block when all rows are streamed: large enough for a matrix product, small beside any pool."""

EPS = float(np.finfo(np.float64).eps)


class RowMatrix:
    """Rows `G` of shape (n, k) with their exact float64 form.

    Args:
        G: float32 or float64 working copy; never altered. A float64 copy is taken for the exact rows.
        rows_at: gives the exact rows, float64 (r, k), of an int64 array of r row numbers. Default: the rows of `G`.
    """

    def __init__(self, G: npt.NDArray[Any], rows_at: RowsAt | None = None) -> None:
        self.G = G
        self.n, self.k = int(G.shape[0]), int(G.shape[1])
        self._rows_at = rows_at
        self._wide = bool(G.dtype == np.float64)
        self._known: dict[bytes, int] = {}

    def rows_at(self, rows: IntArray) -> FloatArray:
        """Exact rows, float64 (r, k)."""
        if self._rows_at is not None:
            return self._rows_at(rows)
        return np.asarray(self.G[rows], dtype=np.float64)

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """All exact rows, a block at a time, in order."""
        step = max(1, BLOCK_BYTES // (8 * self.k))
        for start in range(0, self.n, step):
            stop = min(start + step, self.n)
            yield slice(start, stop), self.rows_at(np.arange(start, stop))

    @cached_property
    def squared_norms(self) -> FloatArray:
        """|g_i|^2 of the exact rows, (n,)."""
        squared = np.empty(self.n)
        for part, rows in self.blocks():
            squared[part] = np.einsum("ij,ij->i", rows, rows)
        return squared

    @property
    def wide(self) -> bool:
        """Whether `product` already runs on the exact rows in float64."""
        return self._wide

    def widen(self) -> None:
        """From now on run `product` on the exact rows: slower, for rows that float32 cannot tell apart."""
        self._wide = True

    @property
    def rounding(self) -> float:
        """Largest |product(v)_i - g_i . v| in units of |g_i| |v|.

        Casting both sides costs one unit roundoff; summing k terms in BLAS order was measured at up to
        0.12 sqrt(k) units on one-hot, constant and heavy-tailed rows (k from 8 to 8192). Twice that, and a floor.
        """
        eps = EPS if self._wide else float(np.finfo(np.float32).eps)
        return float(eps * (4.0 + 0.25 * np.sqrt(self.k)))

    def product(self, v: FloatArray) -> FloatArray:
        """`g_i . v` of all rows, (n,) float64, each within `rounding * |g_i| |v|`."""
        if self._wide and self.G.dtype != np.float64:
            out = np.empty(self.n)
            for part, rows in self.blocks():
                out[part] = rows @ v
            return out
        scale = float(np.abs(v).max())  # v may lie outside float32's range
        if scale == 0.0:
            return np.zeros(self.n)
        return np.asarray(self.G @ (v / scale).astype(self.G.dtype), dtype=np.float64) * scale

    @cached_property
    def _copies(self) -> IntArray:
        return np.full(self.n, -1, dtype=np.int64)

    def copies(self, rows: IntArray) -> IntArray:
        """A number for each of `rows` that only bitwise equal rows share, (r,)."""
        new = rows[self._copies[rows] < 0]
        step = max(1, BLOCK_BYTES // (8 * self.k))
        for start in range(0, new.size, step):
            part = new[start : start + step]
            for row, values in zip(part.tolist(), self.rows_at(part), strict=True):
                digest = blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()
                self._copies[row] = self._known.setdefault(digest, row)
        return self._copies[rows]


def as_row_matrix(G: npt.NDArray[Any] | RowMatrix) -> RowMatrix:
    """`G` itself, or the array wrapped with its own rows as the exact ones."""
    return G if isinstance(G, RowMatrix) else RowMatrix(G)


def second_moment(matrix: npt.NDArray[Any] | RowMatrix, among: BoolArray | None = None) -> FloatArray:
    """`C = sum_j t_j t_j^T` over the rows in the mask `among` (default: all), float64 (k, k)."""
    matrix = as_row_matrix(matrix)
    total = np.zeros((matrix.k, matrix.k))
    for part, rows in matrix.blocks():
        kept = rows if among is None else rows[among[part]]
        total += kept.T @ kept
    return total
