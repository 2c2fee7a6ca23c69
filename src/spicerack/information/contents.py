"""An order of rows that depends on what they hold and not on where they stand.

Random numbers dealt out in this order, or a network trained in it, give the same picks when the pool is shuffled.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray, IntArray, RowMatrix


def content_order(matrix: RowMatrix) -> IntArray:
    """All row numbers by a digest of the row, equal rows by their number, (n,)."""
    return np.argsort(_digests(matrix), kind="stable").astype(np.int64)


def deal(matrix: RowMatrix, draws: FloatArray) -> FloatArray:
    """Random numbers (n,) dealt out to the rows in the order of their contents, (n,).

    Of equal rows the first gets the largest, which changes nothing but which of the copies it is.
    """
    digests = _digests(matrix)
    order = np.lexsort((np.arange(matrix.n), digests))
    group = np.concatenate([[0], np.cumsum(np.diff(digests[order]) != 0)])
    dealt = np.empty(matrix.n)
    dealt[order] = draws[np.lexsort((-draws, group))]
    return dealt


def _digests(matrix: RowMatrix) -> npt.NDArray[np.uint64]:
    digests = np.empty(matrix.n, dtype=np.uint64)
    for part, rows in matrix.working_blocks():
        values = np.ascontiguousarray(rows)
        hashed = (blake2b(row.data, digest_size=8).digest() for row in values)
        digests[part] = np.frombuffer(b"".join(hashed), dtype=np.uint64)
    return digests
