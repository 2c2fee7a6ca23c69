"""A graph of samples: weighted edges to the most alike, and whom a sample reaches in two steps along them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray, IntArray
from spicerack.information.neighbors import nearest

BLOCK_ENTRIES = 1 << 22
DECIMALS = 5


def edges(X: npt.NDArray[np.float32], count: int) -> tuple[IntArray, FloatArray]:
    """For each row of unit length the `count` most alike others, and the ReLU of their cosines, both (n, count).

    Cosines are rounded to what float32 can tell apart, so that copies have equal edges.
    """
    neighbors, cosines = nearest(X, X, count, without_self=True)
    return neighbors, np.asarray(np.round(np.maximum(cosines, 0.0), DECIMALS), dtype=np.float64)


def reach(neighbors: IntArray, weights: FloatArray, keep: int) -> tuple[IntArray, FloatArray]:
    """Entries of the squared row-normalized adjacency, the `keep` largest of each row.

    Args:
        neighbors: ends of each row's edges, (n, d).
        weights: of the edges, >= 0, (n, d).
        keep: entries kept a row.

    Returns:
        Columns and values, both (n, keep); where a row has fewer entries, column 0 of value 0.
    """
    n, degree = neighbors.shape
    columns, values = np.zeros((n, keep), dtype=np.int64), np.zeros((n, keep))
    if degree == 0:
        return columns, values
    total = weights.sum(axis=1, keepdims=True)
    step = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0.0)
    size = max(1, BLOCK_ENTRIES // degree**2)
    for start in range(0, n, size):
        part = np.arange(start, min(start + size, n))
        columns[part], values[part] = _two_steps(neighbors, step, part, keep)
    return columns, values


def _two_steps(neighbors: IntArray, step: FloatArray, part: IntArray, keep: int) -> tuple[IntArray, FloatArray]:
    n = len(neighbors)
    first = neighbors[part]  # (b, d)
    ends = neighbors[first]  # (b, d, d)
    paths = step[part][:, :, None] * step[first]
    own = np.broadcast_to(np.arange(part.size)[:, None, None], ends.shape)
    pairs, which = np.unique((own * n + ends).ravel(), return_inverse=True)
    sums = np.bincount(which.ravel(), paths.ravel(), minlength=pairs.size)
    row, column = pairs // n, pairs % n
    order = np.lexsort((column, -sums, row))
    row, column, sums = row[order], column[order], sums[order]
    begins = np.searchsorted(row, np.arange(part.size))
    place = np.arange(row.size) - begins[row]
    kept = place < keep
    columns, values = np.zeros((part.size, keep), dtype=np.int64), np.zeros((part.size, keep))
    columns[row[kept], place[kept]] = column[kept]
    values[row[kept], place[kept]] = sums[kept]
    return columns, values
