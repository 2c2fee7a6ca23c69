"""A pass over all rows: their products with a few columns, part by part on all cores.

Such a pass is bound by memory. So rows are read as they lie, half precision included, in pieces that stay in a cache
until they are multiplied; and what follows from the products of a part is done by the thread that made them, while
they are in its cache. Streamed parts have many pieces, so that little is done for each in Python, where one thread
runs at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.numbers import TORCH_ABOVE, as_tensor

FloatArray = npt.NDArray[np.float64]
Pieces = Iterator[tuple[int, npt.NDArray[Any]]]
"""Number of the first row, and rows (r, k): one after the other, each good until the next is asked for."""
Then = Callable[[slice, FloatArray], None]
"""Given a run of rows and their products (c, r), once they are known; called side by side for different runs."""

STREAMS = max(1, min(8, os.cpu_count() or 1))
"""Threads of a pass. Where rows are streamed, each reads and multiplies its own blocks: a block that is handed from one
thread to another has left the cache."""


def products(
    parts: Iterable[slice],
    read: Callable[[slice], Pieces],
    columns: FloatArray,
    scale: FloatArray,
    n: int,
    *,
    lengths: FloatArray | None = None,
    then: Then | None = None,
) -> FloatArray:
    """`scale_j g_i . c_j` of all rows, (c, n), by compiled loops.

    Args:
        parts: runs of rows that together are all of them, in the order in which they are begun.
        read: gives the rows of a part.
        columns: c, (c, k), of moderate size.
        scale: (c, 1).
        n: rows.
        lengths: what the products of each row are to be multiplied with, (n,), for rows that are read at unit length.
        then: told of each part as soon as it is multiplied.
    """
    from spicerack.information.lanes import COLUMNS, multiply

    count = len(columns)
    found = np.empty((-(-count // COLUMNS) * COLUMNS, n))
    filled = np.concatenate([columns, np.zeros((len(found) - count, columns.shape[1]))])
    columns_of = {dtype: filled.astype(dtype) for dtype in (np.float32, np.float64)}

    def one(part: slice) -> None:
        for first, rows in read(part):
            few = columns_of[np.float64 if rows.dtype == np.float64 else np.float32]
            for start in range(0, len(found), COLUMNS):
                multiply(rows, few[start : start + COLUMNS], found[start : start + COLUMNS], first)
        run = found[:count, part]
        run *= scale if lengths is None else scale * lengths[part]
        if then is not None:
            then(part, run)

    left = iter(list(parts))

    def some(_: int) -> None:
        for part in left:  # one iterator for all threads: each takes the next run that nobody has
            one(part)

    for _ in _streams().map(some, range(STREAMS)):
        pass
    return found[:count]


def taken(G: npt.NDArray[Any], rows: npt.NDArray[np.int64] | slice) -> npt.NDArray[Any]:
    """Rows of an array; many that are scattered are copied on all cores, by torch."""
    if isinstance(rows, slice) or rows.size * G.shape[1] < TORCH_ABOVE:
        return np.asarray(G[rows])
    import torch

    found = np.empty((rows.size, G.shape[1]), dtype=G.dtype)
    torch.index_select(as_tensor(G), 0, as_tensor(rows), out=torch.from_numpy(found))
    return found


@cache
def _streams() -> ThreadPoolExecutor:
    """The threads of products, kept: to start them anew for each costs a tenth of a pass over 200 MB."""
    return ThreadPoolExecutor(STREAMS, "product")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_streams.cache_clear)  # a fork has none of the threads
