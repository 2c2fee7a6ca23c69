"""Products of a pool's rows with a few columns, streamed: influences of many samples on few targets.

    A (c, n) += columns (c, k) @ rows (n, k)^T

The pool is read a block at a time, the next one while one is multiplied. Equal rows must have equal products to the
last bit, or ties would not go to the first; but a matrix product sums a row in another order at its edge than in its
middle. So every product has the same shape, the last one filled up with zeros, and torch makes it, the rows along the
columns of its result: numpy's OpenBLAS takes rows by twelve where there is no AVX-512, and sums the second six of them
in another order (float32, 16 columns or more).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spicerack.numbers import as_tensor

Block = tuple[slice, npt.NDArray[Any]]
"""Numbers of the rows, and the rows (r, k)."""

T = TypeVar("T")

MULTIPLE = 192
"""Rows of a product are a multiple of it: kernels take up to 64 at once, or 12 or 24, so that no row is at an edge."""


def products(blocks: Iterable[Block], columns: npt.NDArray[Any]) -> Iterator[Block]:
    """Every block's product with the columns.

    Args:
        blocks: the rows in order, all but the last of one size, in the dtype of the product.
        columns: (c, k).

    Yields:
        The rows' numbers and their (c, r) products.
    """
    import torch

    padded: npt.NDArray[Any] | None = None
    for part, rows in read_ahead(blocks):
        if padded is None:
            padded = np.zeros((-(-len(rows) // MULTIPLE) * MULTIPLE, rows.shape[1]), dtype=rows.dtype)
        columns = columns.astype(rows.dtype, copy=False)
        if len(rows) < len(padded):
            padded[: len(rows)] = rows
            padded[len(rows) :] = 0.0
        whole = rows if len(rows) == len(padded) else padded
        yield part, torch.mm(as_tensor(columns), as_tensor(whole).T).numpy()[:, : len(rows)]


def add_products(A: npt.NDArray[Any], blocks: Iterable[Block], columns: npt.NDArray[Any]) -> None:
    """Add the products of all rows (n, k) with `columns` (c, k) to A (c, n), in place."""
    for part, values in products(blocks, columns):
        A[:, part] += values


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items; the next one is made in another thread while one is used."""
    source = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        pending = reader.submit(next, source, None)
        while (item := pending.result()) is not None:
            pending = reader.submit(next, source, None)
            yield item


ALIKE = 1e-6
"""Spread up to which a column of cosines in float32 is constant: a direction that no row of the pool has leaves as much
by rounding."""


def normalize(Z: npt.NDArray[np.float32], how: str, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Bring the columns of a pool to one scale, in place; a column without a scale becomes zeros.

    Args:
        Z: (m, n), a row for each column of the pool.
        how: "zscore": (x - mean) / standard deviation. "mad": (x - median) / median absolute deviation. "rank": rank
            / rows, ties at their mean rank, minus a half. "none": as they are.
        among: rows (n,) that count; the others get values too, but have no part in the scale.

    Returns:
        Columns that say nothing, (m,): all values that count are equal up to rounding (`ALIKE`), or (mad) more than
        half of them.
    """
    silent = np.zeros(len(Z), dtype=bool)
    for j, column in enumerate(Z):
        counted = column[among].astype(np.float64)
        middle, scale = _location(counted, how)
        silent[j] = scale == 0.0
        if silent[j]:
            column[:] = 0.0
        elif how == "rank":
            column[among] = _ranks(counted) / counted.size - 0.5
        elif how != "none":
            column[:] = (column - middle) / scale
    return silent


def _location(values: npt.NDArray[np.float64], how: str) -> tuple[float, float]:
    """Middle and scale of a column; the scale of a constant one is exactly zero."""
    if values.max() - values.min() <= ALIKE:
        return float(values[0]), 0.0
    if how == "mad":
        middle = float(np.median(values))
        return middle, float(np.median(np.abs(values - middle)))
    return float(values.mean()), float(values.std())


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from a half to the number of values less a half, ties at their mean."""
    order = np.argsort(values, kind="stable")
    fresh = np.concatenate([[True], np.diff(values[order]) > 0.0])
    starts = np.flatnonzero(fresh)
    ends = np.append(starts[1:], values.size)
    ranks = np.empty(values.size)
    ranks[order] = ((starts + ends) / 2.0)[np.cumsum(fresh) - 1]
    return ranks
