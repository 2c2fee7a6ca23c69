"""Blocks of working rows, wherever they lie, and the one thing that a refresh asks of them.

A refresh wants sums of squares of products with many columns, so only numbers by row leave the block: a block in a
device's memory (`device.py`) answers like one in main memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Block(Protocol):
    """Some working rows X, (r, k)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows, and of the columns that they are multiplied with."""
        ...

    def energies(
        self, columns: npt.NDArray[Any], first: npt.NDArray[np.int64], stop: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """`sum of (x_i . c_j)^2` over the columns `first[i] <= j < stop`, and `x_i` times the last column, each (r,).

        Args:
            columns: c, (m, k).
            first: the first column that counts for each row, (r,).
            stop: at most m.
        """
        ...


@dataclass(frozen=True)
class HostBlock:
    """Rows in main memory."""

    X: npt.NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return self.X.dtype

    def energies(
        self, columns: npt.NDArray[Any], first: npt.NDArray[np.int64], stop: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Rows that start at the same column are summed together: see `Block`."""
        Y = self.X @ columns.T
        starts, counts = np.unique(first, return_counts=True)
        usual = int(starts[counts.argmax()])
        energy = squares(Y[:, usual:stop])
        for start in starts[starts != usual].tolist():
            own = np.flatnonzero(first == start)
            energy[own] = squares(Y[own, start:stop])
        return energy, Y[:, -1].astype(np.float64)


def squares(Y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Sums of squares of rows, (r,); einsum would add them one after the other, and lose more than the products."""
    return np.asarray(np.vecdot(Y, Y), dtype=np.float64)
