"""An order of rows that depends on what they hold and not on where they stand.

Random numbers dealt out in this order, or a network trained in it, give the same picks when the pool is shuffled.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from spicerack.information.matrix import IntArray, RowMatrix


def content_order(matrix: RowMatrix) -> IntArray:
    """All row numbers by a digest of the row, equal rows by their number, (n,)."""
    digests = np.empty(matrix.n, dtype=np.uint64)
    for part, rows in matrix.working_blocks():
        values = np.ascontiguousarray(rows)
        hashed = (blake2b(row.data, digest_size=8).digest() for row in values)
        digests[part] = np.frombuffer(b"".join(hashed), dtype=np.uint64)
    return np.argsort(digests, kind="stable").astype(np.int64)
