"""Nearest neighbors by inner product, a block of queries at a time: never all n x n products in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray, IntArray

BLOCK_BYTES = 64 << 20
FloatMatrix = npt.NDArray[np.floating]


def product_blocks(X: FloatMatrix, Y: FloatMatrix) -> Iterator[tuple[slice, FloatMatrix]]:
    """`X Y^T` a block of rows at a time."""
    size = max(1, BLOCK_BYTES // (X.dtype.itemsize * max(1, len(Y))))
    for start in range(0, len(X), size):
        part = slice(start, min(start + size, len(X)))
        yield part, X[part] @ Y.T


def nearest(
    X: FloatMatrix, Y: FloatMatrix, count: int, *, without_self: bool = False
) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """For each row of X the rows of Y of largest inner product: the nearest, where rows are of unit length.

    Args:
        X: queries (r, k).
        Y: rows (n, k).
        count: neighbors of each query; fewer where there are not so many.
        without_self: X is Y, and no row is its own neighbor.

    Returns:
        Row numbers and products, both (r, count), the nearest first; equal products in order of the row.
    """
    count = min(count, len(Y) - int(without_self))
    rows = np.empty((len(X), count), dtype=np.int64)
    products = np.empty((len(X), count), dtype=np.float32)
    for part, block in product_blocks(X, Y):
        if without_self:
            block[np.arange(len(block)), np.arange(part.start, part.stop)] = -np.inf
        rows[part] = largest(block, count)
        products[part] = np.take_along_axis(block, rows[part], axis=1)
    return rows, products


def largest(values: FloatMatrix, count: int) -> IntArray:
    """Columns of the `count` largest values of each row, the largest first, equal ones in order, (r, count)."""
    if count == 0:
        return np.zeros((len(values), 0), dtype=np.int64)
    if count >= values.shape[1]:
        return np.argsort(-values, axis=1, kind="stable")[:, :count]
    found = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    least = np.take_along_axis(values, found, axis=1).min(axis=1)
    for i in np.flatnonzero((values >= least[:, None]).sum(axis=1) > count):  # ties at the end: the first columns
        above = np.flatnonzero(values[i] > least[i])
        equal = np.flatnonzero(values[i] == least[i])[: count - above.size]
        found[i] = np.sort(np.concatenate([above, equal]))
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def best_products(X: FloatMatrix, Y: FloatMatrix) -> FloatArray:
    """Largest inner product of each row of X with a row of Y, (r,)."""
    best = np.empty(len(X))
    for part, block in product_blocks(X, Y):
        best[part] = block.max(axis=1)
    return best
