"""Near-duplicates: rows whose direction is nearly that of a row before them.

SemDeDup (Abbas et al. 2023) on the rows given, usually gradients, and exact: it compares all rows, not those of a
cluster alone. A row x of unit length has coordinates p in a subspace of few dimensions, and a rest of length r. By
Cauchy-Schwarz

    <x, y> <= <p, q> + r s

is a product of short rows, and only pairs whose bound reaches the cosine asked for are compared whole: of gradients of
real pools one in a thousand at a cosine of 0.9, one in thirty at 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.clusters import Blocks, sample_rows
from spicerack.information.matrix import BoolArray, FloatArray, IntArray

DIMENSION = 128
SAMPLE = 1024
ROWS_AT_ONCE = 512
KEPT_AT_ONCE = 16384
PAIRS_AT_ONCE = 2048
SLACK = 1e-4
"""What rounding may take off a bound, in float32."""
ROUNDING = 1e-6
"""What it may take off the cosine of a row and its copy."""

RowsAt = Callable[[IntArray], npt.NDArray[np.float32]]


def near_duplicates(
    blocks: Blocks, rows_at: RowsAt, n: int, order: IntArray, cosine: float, *, always: int = 0
) -> IntArray:
    """The row that each row is a near-duplicate of, (n,); -1 for rows that are none, and for those not in `order`.

    Rows are gone through in `order`; one is a near-duplicate if its cosine with a row that was kept before it is at
    least `cosine`. Which one of several is named depends on nothing but the order: the first.

    Args:
        blocks: gives all rows (n, k) at unit length, float32, a block at a time, each time it is called.
        rows_at: rows of some numbers, (r, k), at unit length.
        n: how many rows there are.
        order: numbers of the rows that count, distinct, (u,).
        cosine: in [0.1, 1]; 1: but for rounding.
        always: how many rows of `order`, from its beginning, are kept whatever they are like.
    """
    heads = _heads(blocks, n, order)
    found = np.full(n, -1, dtype=np.int64)
    kept = np.empty(order.size, dtype=np.int64)
    kept_heads = np.empty((order.size, heads.shape[1]), dtype=np.float32)
    kept[:always], kept_heads[:always] = order[:always], heads[order[:always]]
    count = always
    for start in range(always, order.size, ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        for at in range(0, count, KEPT_AT_ONCE):
            part = slice(at, min(at + KEPT_AT_ONCE, count))
            left = rows[found[rows] < 0]
            for i, j in _pairs(heads[left] @ kept_heads[part].T, left, kept[part], rows_at, cosine):
                if found[i] < 0:
                    found[i] = j
        left = rows[found[rows] < 0]
        within = np.tril(heads[left] @ heads[left].T, -1)
        for i, j in _pairs(within, left, left, rows_at, cosine):
            if found[i] < 0 and found[j] < 0:
                found[i] = j
        new = rows[found[rows] < 0]
        kept[count : count + new.size], kept_heads[count : count + new.size] = new, heads[new]
        count += new.size
    return found


def _pairs(
    bounds: npt.NDArray[np.floating[Any]], rows: IntArray, others: IntArray, rows_at: RowsAt, cosine: float
) -> Iterator[tuple[int, int]]:
    """Pairs of a row and another whose cosine is high enough: rows in their order, the others of each in theirs."""
    here, there = np.nonzero(bounds >= cosine - SLACK)
    for at in range(0, here.size, PAIRS_AT_ONCE):
        i, j = rows[here[at : at + PAIRS_AT_ONCE]], others[there[at : at + PAIRS_AT_ONCE]]
        near = np.einsum("ij,ij->i", _gathered(rows_at, i), _gathered(rows_at, j)) >= cosine - ROUNDING
        yield from zip(i[near].tolist(), j[near].tolist(), strict=True)


def _gathered(rows_at: RowsAt, numbers: IntArray) -> npt.NDArray[np.float32]:
    """Rows of numbers that come more than once, each read once."""
    distinct, place = np.unique(numbers, return_inverse=True)
    return rows_at(distinct)[place]


def _heads(blocks: Blocks, n: int, order: IntArray) -> npt.NDArray[np.float32]:
    """Coordinates in the subspace and the length of the rest, (n, d + 1)."""
    usable: BoolArray = np.zeros(n, dtype=bool)
    usable[order] = True
    sample = sample_rows(blocks, usable, SAMPLE, np.random.Generator(np.random.PCG64(0)))
    basis = _basis(sample.astype(np.float64)).astype(np.float32)
    heads = np.empty((n, basis.shape[1] + 1), dtype=np.float32)
    for part, rows in blocks():
        heads[part, :-1] = rows @ basis
        heads[part, -1] = np.sqrt(np.maximum(0.0, 1.0 - (heads[part, :-1].astype(np.float64) ** 2).sum(axis=1)))
    return heads


def _basis(sample: FloatArray) -> FloatArray:
    """Orthonormal columns (k, d) that span the leading directions of the sample's rows (m, k)."""
    vectors = np.linalg.eigh(sample @ sample.T)[1][:, ::-1]
    return np.asarray(np.linalg.qr(sample.T @ vectors[:, : min(DIMENSION, sample.shape[1])])[0])
