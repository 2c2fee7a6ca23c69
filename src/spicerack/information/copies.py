"""Which rows hold the same, bit for bit: of those the first stands for all when a tie is settled."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

BLOCK_BYTES = 32 << 20


class Copies:
    """Copies among rows, which are read and digested when they are first asked for.

    Args:
        rows_at: gives the exact rows, float64 (r, k), of row numbers.
        n: number of rows.
        k: entries of a row.
    """

    def __init__(self, rows_at: Callable[[IntArray], npt.NDArray[np.float64]], n: int, k: int) -> None:
        self._rows_at = rows_at
        self._step = max(1, BLOCK_BYTES // (8 * k))
        self._number = np.full(n, -1, dtype=np.int64)
        self._first: dict[bytes, int] = {}

    def numbers(self, rows: IntArray) -> IntArray:
        """A number for each of `rows` that only bitwise equal rows share, (r,)."""
        new = rows[self._number[rows] < 0]
        for start in range(0, new.size, self._step):
            part = new[start : start + self._step]
            for row, values in zip(part.tolist(), self._rows_at(part), strict=True):
                digest = blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()
                self._number[row] = self._first.setdefault(digest, row)
        return self._number[rows]

    def distinct(self, rows: IntArray) -> IntArray:
        """Of `rows`, (r,), those of which no bitwise equal one comes before."""
        if rows.size < 2:
            return rows
        first: dict[int, int] = {}
        for row, number in zip(rows.tolist(), self.numbers(rows).tolist(), strict=True):
            first.setdefault(number, row)
        return np.fromiter(first.values(), dtype=np.int64, count=len(first))
