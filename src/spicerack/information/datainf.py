"""Influence of pool samples on a target's loss, block by block of the weights, by DataInf (arXiv 2310.00902).

With rows `g_il` of block l (one tracked weight, d_l columns), damping `lambda_l = 0.1 * mean_i |g_il|^2 / d_l` and a
target gradient v:

    r_l  = (1 / (n lambda_l)) sum_i [ v_l - (v_l . g_il) / (lambda_l + |g_il|^2) g_il ]
    I(i) = - sum_l r_l . g_il              negative: a proponent, training on it lowers the target's loss

DataInf swaps the mean over i and the inverse of `(1/n) sum_i g_il g_il^T + lambda_l 1`. "exact" solves with that matrix
itself, "identity" leaves it out (`r = v`). I is linear in v: the influence on the mean target gradient is the mean of
the influences on the targets. Everything is float64; the pool is read once for the damping, once for r, once for I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spicerack.information.influence import Block, products, read_ahead
from spicerack.information.matrix import BoolArray, FloatArray

Hessian = Literal["datainf", "exact", "identity"]
Stream = Callable[[], Iterable[Block]]
"""Starts the pool's rows (n, k) from the first; float64 blocks in order, all but the last of one size."""


@dataclass(frozen=True)
class Curvature:
    """The damped second moments of a pool's blocks.

    Attributes:
        stream: the pool's rows.
        counted: rows that the moments are of, (n,); at least one.
        blocks: columns of each block.
        damping: lambda of each block, (b,); 0 where no row has a gradient: such a block has no influence.
        hessian: which inverse is taken.
    """

    stream: Stream
    counted: BoolArray
    blocks: tuple[slice, ...]
    damping: FloatArray
    hessian: Hessian = "datainf"

    @classmethod
    def measure(
        cls, stream: Stream, counted: BoolArray, blocks: Sequence[slice], *, damping: float, hessian: Hessian
    ) -> Curvature:
        """Take every block's damping from the mean square of its rows; `damping` is its factor, > 0."""
        squares = np.zeros(len(blocks))
        for _, rows in _counted(stream, counted):
            squares += [float(np.einsum("ij,ij->", rows[:, block], rows[:, block])) for block in blocks]
        sizes = np.array([block.stop - block.start for block in blocks])
        lambdas = damping * squares / np.count_nonzero(counted) / sizes
        return cls(stream, counted, tuple(blocks), lambdas, hessian)

    def directions(self, V: FloatArray) -> FloatArray:
        """What every target gradient weighs the rows by: R (m, k) from V (m, k)."""
        R = np.zeros_like(V, dtype=np.float64)
        live = [
            (block, float(damping)) for block, damping in zip(self.blocks, self.damping, strict=True) if damping > 0
        ]
        if self.hessian == "identity":
            for block, _ in live:
                R[:, block] = V[:, block]
        elif self.hessian == "datainf":
            self._datainf(V, R, live)
        else:
            self._exact(V, R, live)
        return R

    def influences(self, R: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
        """I of the rows, a block of rows at a time: their numbers and (m, r) values; R as `directions` gives it."""
        for part, values in products(self.stream(), R):
            yield part, -values

    def _datainf(self, V: FloatArray, R: FloatArray, live: list[tuple[slice, float]]) -> None:
        weighted = np.zeros_like(R)
        for _, rows in _counted(self.stream, self.counted):
            for block, damping in live:
                own = rows[:, block]
                squares = np.einsum("ij,ij->i", own, own)
                weighted[:, block] += (V[:, block] @ own.T / (damping + squares)) @ own
        n = np.count_nonzero(self.counted)
        for block, damping in live:
            R[:, block] = (V[:, block] - weighted[:, block] / n) / damping

    def _exact(self, V: FloatArray, R: FloatArray, live: list[tuple[slice, float]]) -> None:
        moments = [np.zeros((block.stop - block.start,) * 2) for block, _ in live]
        for _, rows in _counted(self.stream, self.counted):
            for moment, (block, _) in zip(moments, live, strict=True):
                moment += rows[:, block].T @ rows[:, block]
        n = np.count_nonzero(self.counted)
        for moment, (block, damping) in zip(moments, live, strict=True):
            moment /= n
            moment[np.diag_indices_from(moment)] += damping
            R[:, block] = np.linalg.solve(moment, V[:, block].T).T


def _counted(stream: Stream, counted: BoolArray) -> Iterator[Block]:
    for part, rows in read_ahead(stream()):
        kept = counted[part]
        yield part, rows if kept.all() else rows[kept]
