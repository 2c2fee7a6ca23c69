"""The rows of a pool as the states read them: a working copy for the passes, exact rows for the decisions.

A pass over all rows (`product`) is bound by memory, so it runs in the dtype of the working copy, float32 as a rule,
and where that copy lies: in main memory, in that of a GPU (`device.py`), or in a store that it is streamed from.
Whatever decides a pick reads the *exact rows*: float64, from the source itself. The two may differ by rounding, and
`rounding` says by how much, so that a pick never depends on the precision of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.blocks import Block, HostBlock
from spicerack.information.copies import Copies
from spicerack.information.device import DeviceRows
from spicerack.information.products import STREAMS, Pieces, Then, products, taken
from spicerack.information.products import FloatArray as FloatArray
from spicerack.numbers import as_float32, is_half

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
RowsAt = Callable[[IntArray | slice], FloatArray]
WorkingAt = Callable[[IntArray | slice], npt.NDArray[Any]]
StreamAt = Callable[[slice], npt.NDArray[Any]]

BLOCK_BYTES = 32 << 20
"""Size of a float64 block when all rows are streamed: large enough for a matrix product, small beside any pool."""

STREAM_BYTES = 4 << 20
"""Size of a float32 block of rows that are read ahead: it is still in the cache when it is multiplied."""

PASS_BYTES = 4 << 20
"""Size of a half-precision block of rows read by a thread of a pass: small enough for the cache, and large enough that
what Python does for each does not show."""

PASS_ROWS = 1 << 14
"""Most streamed rows of which the products are used together."""

NATIVE_ABOVE = 1 << 22
"""Entries of a matrix from which compiled loops multiply it (`lanes.py`): below, their import is not worth it."""

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)


class RowMatrix:
    """Rows `G` of shape (n, k) with their exact float64 form.

    Args:
        G: working copy in float16, bfloat16 (`numbers.py`), float32 or float64, never altered, or one on a device;
            None: working rows are read through `working_at` each time. Half precision is for rows that are stored so:
            passes with few columns read it in little more than half the time, and it is `many` rows or not worth it.
        rows_at: gives the exact rows, float64 (r, k), of row numbers (an int64 array or a slice). Default: those of
            `G`.
        working_at: gives the working rows, float32 or float64 (r, k); needed without `G`.
        stream_at: gives a run of rows for a pass without `G`, in half precision or as the working rows, good until the
            thread that asked asks again. Default: what `working_at` gives.
        lengths: what the products of the rows of `G` or `stream_at` are to be multiplied with, (n,), where those are at
            unit length.
        shape: (n, k); needed without `G`.
    """

    def __init__(
        self,
        G: npt.NDArray[Any] | DeviceRows | None,
        rows_at: RowsAt | None = None,
        *,
        working_at: WorkingAt | None = None,
        stream_at: StreamAt | None = None,
        lengths: FloatArray | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        if G is None and (rows_at is None or working_at is None or shape is None):
            raise ValueError("without G a RowMatrix needs rows_at, working_at and shape")
        self._G = np.ascontiguousarray(G) if isinstance(G, np.ndarray) else G
        self.n, self.k = (int(side) for side in (shape if G is None and shape else G.shape))  # type: ignore[union-attr]
        self._rows_at = rows_at
        self._working_at = working_at
        self._stream_at = stream_at or self.working_at
        self._lengths = lengths
        self._wide = bool(G is not None and G.dtype == np.float64)
        self._row: tuple[int, FloatArray] | None = None

    @property
    def device(self) -> str:
        """Where passes run now, as torch names it."""
        return "cpu" if self._away is None else self._away.device

    @property
    def many(self) -> bool:
        """Whether the rows are so many that compiled loops pay."""
        return many(self.n, self.k)

    @property
    def streamed(self) -> bool:
        """Whether no memory holds a working copy."""
        return self._G is None

    @property
    def _away(self) -> DeviceRows | None:
        """The rows on the device where passes run now."""
        return self._G if isinstance(self._G, DeviceRows) and not self._wide else None

    def rows_at(self, rows: IntArray | slice) -> FloatArray:
        """Exact rows, float64 (r, k)."""
        if self._rows_at is not None:
            return self._rows_at(rows)
        assert self._G is not None
        return np.asarray(self._G[rows], dtype=np.float64)

    def row_at(self, i: int) -> FloatArray:
        """One exact row, float64 (1, k); the last one is kept, since a pick asks for its row more than once."""
        if self._row is None or self._row[0] != i:
            self._row = i, self.rows_at(slice(i, i + 1))
        return self._row[1]

    def working_at(self, rows: IntArray | slice) -> npt.NDArray[Any]:
        """Working rows (r, k) in main memory; a slice of a copy there is a view."""
        if self._G is None:
            assert self._working_at is not None
            return self._working_at(rows)
        found = taken(self._G, rows) if isinstance(self._G, np.ndarray) else self._G[rows]
        found = as_float32(found) if is_half(found.dtype) else found
        return found if self._lengths is None else found * self._lengths[rows, None].astype(found.dtype)

    def among(self, rows: IntArray) -> RowMatrix:
        """Some of the rows, their working copy in main memory, numbered as in `rows`."""
        return RowMatrix(self.working_at(rows), lambda inner: self.rows_at(rows[inner]))

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """All exact rows, a block at a time, in order."""
        for part in self._parts(BLOCK_BYTES // (8 * self.k)):
            yield part, self.rows_at(part)

    def working_blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """All working rows, a block at a time, in order; the next block is read while one is used."""
        if self._G is not None:
            for part in self._parts(BLOCK_BYTES // (8 * self.k)):
                yield part, self.working_at(part)
            return
        parts = self._parts(STREAM_BYTES // (4 * self.k))
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            part = next(parts)
            ahead = reader.submit(self.working_at, part)
            for following in parts:
                ready = ahead.result()
                ahead = reader.submit(self.working_at, following)
                yield part, ready
                part = following
            yield part, ahead.result()

    @cached_property
    def squared_norms(self) -> FloatArray:
        """|g_i|^2 of the exact rows, (n,)."""
        squared = np.empty(self.n)
        for part, rows in self.blocks():
            squared[part] = np.einsum("ij,ij->i", rows, rows)
        return squared

    @property
    def wide(self) -> bool:
        """Whether `product` already runs on the exact rows in float64."""
        return self._wide

    def widen(self) -> None:
        """From now on run `product` on the exact rows: slower, for rows that float32 cannot tell apart."""
        self._wide = True

    @property
    def rounding(self) -> float:
        """Largest |product(v)_i - g_i . v| in units of |g_i| |v|, and of products of `working_at` with a matrix.

        Casting both sides costs one unit roundoff. What summing k terms costs depends on the order of the kernel, and
        is largest where every term is alike, so that each addition rounds the same way: constant rows and columns were
        measured at up to k / 8 units and 52 in blocked matrix products, k / 66 in the others (k from 8 to 16384);
        random, one-hot and heavy-tailed rows at 0.12 sqrt(k). A device has a bound of its own (`device.py`); the larger
        one holds, for pools are played in main memory.
        """
        here = (EPS if self._wide else EPS32) * (4.0 + max(min(self.k / 8.0, 52.0), self.k / 60.0))
        return here if self._away is None else max(here, self._away.rounding)

    @property
    def product_rounding(self) -> float:
        """The same of `product` alone, which where rows are many does not leave the order of its sums to a kernel."""
        if not self.many or self._away is not None:
            return self.rounding
        from spicerack.information.lanes import UNITS

        return UNITS * (EPS if self._wide else EPS32)

    def product(self, v: FloatArray, then: Then | None = None) -> FloatArray:
        """`g_i . v` of all rows, (n,) float64, each within `product_rounding |g_i| |v|`; for `v` (k, c), (n, c).

        Args:
            v: of which each column that comes back is contiguous.
            then: told of the products, a run of rows at a time, and may alter them.
        """
        columns = v[None] if v.ndim == 1 else np.ascontiguousarray(v.T)  # (c, k)
        scale = np.abs(columns).max(axis=1, keepdims=True)  # v may lie outside float32's range
        if not scale.any():
            out = np.zeros((len(columns), self.n))
        else:
            columns = columns / (scale if scale.all() else np.where(scale > 0.0, scale, 1.0))
            if self.many and self._away is None:
                out = products(
                    self._pass_parts(), self._read, columns, scale, self.n, lengths=self._pass_lengths, then=then
                )
                then = None
            else:
                out = self._multiply(columns)
                out *= scale
        if then is not None:
            then(slice(0, self.n), out)
        return out[0] if v.ndim == 1 else out.T

    def _multiply(self, columns: FloatArray) -> FloatArray:
        """Products of few rows, or of rows away, with columns (c, k), (c, n)."""
        if self._away is not None:
            return self._away.product(columns).astype(np.float64)
        found = np.empty((len(columns), self.n))
        for start, rows in self._read(slice(0, self.n)):
            found[:, start : start + len(rows)] = _times(rows, columns)
        return found if self._pass_lengths is None else found * self._pass_lengths

    def _read(self, part: slice) -> Pieces:
        """A run of rows as a pass multiplies them."""
        if self._held:
            assert isinstance(self._G, np.ndarray)
            yield part.start, self._G[part]
            return
        for piece in _parts(part.start, part.stop, PASS_BYTES // (2 * self.k)):
            yield piece.start, self.rows_at(piece) if self._wide else self._stream_at(piece)

    @property
    def _pass_lengths(self) -> FloatArray | None:
        return None if self._wide else self._lengths

    def _pass_parts(self) -> Iterator[slice]:
        """Runs of rows for the threads: equal shares of rows in memory, smaller ones of others."""
        return self._parts(-(-self.n // (2 * STREAMS)) if self._held else min(PASS_ROWS, -(-self.n // (8 * STREAMS))))

    @property
    def _held(self) -> bool:
        """Whether main memory holds the rows that the passes multiply now."""
        return isinstance(self._G, np.ndarray) and (not self._wide or self._G.dtype == np.float64)

    def pass_rows(self, rows: IntArray) -> npt.NDArray[Any]:
        """Rows in the precision of the passes, (r, k) in main memory."""
        where = _where(rows)
        return self.rows_at(where) if self._wide else self.working_at(where)

    def chunks(self, rows: IntArray, size: int) -> Iterator[tuple[IntArray, Block]]:
        """Rows in the precision of the passes, `size` at a time, with their numbers; read ahead from a store."""
        parts = [rows[start : start + size] for start in range(0, rows.size, size)]
        if self._away is not None:
            for part in parts:
                yield part, self._away.block(_where(part))
            return
        if self._G is not None or self._wide:
            for part in parts:
                yield part, HostBlock(self.pass_rows(part))
            return
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            ahead = [reader.submit(self.pass_rows, part) for part in parts[:1]]
            for i, part in enumerate(parts):
                ready = ahead.pop().result()
                if i + 1 < len(parts):
                    ahead.append(reader.submit(self.pass_rows, parts[i + 1]))
                yield part, HostBlock(ready)

    def _parts(self, rows: int) -> Iterator[slice]:
        return _parts(0, self.n, rows)

    @cached_property
    def copies(self) -> Copies:
        """Which of the exact rows are bitwise equal."""
        return Copies(self.rows_at, self.n, self.k)


def _parts(start: int, stop: int, rows: int) -> Iterator[slice]:
    for first in range(start, stop, max(1, rows)):
        yield slice(first, min(first + max(1, rows), stop))


def _times(X: npt.NDArray[Any], columns: FloatArray) -> FloatArray:
    """`columns X^T`, (c, r), in float32 at least; in a small X numpy's single columns are fastest."""
    X = as_float32(X) if is_half(X.dtype) else X
    found = np.empty((len(columns), len(X)))
    for own, column in zip(found, columns.astype(X.dtype), strict=True):
        own[:] = X @ column
    return found


def _where(rows: IntArray) -> IntArray | slice:
    """Row numbers, as a slice where they run without gaps: of a copy in memory that is a view."""
    run = rows.size > 0 and int(rows[-1]) - int(rows[0]) + 1 == rows.size and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if run else rows


def many(n: int, k: int) -> bool:
    """Whether a matrix of n rows of k entries is so large that compiled loops pay."""
    return n * k >= NATIVE_ABOVE


def as_row_matrix(G: npt.NDArray[Any] | RowMatrix) -> RowMatrix:
    """`G` itself, or the array wrapped with its own rows as the exact ones."""
    return G if isinstance(G, RowMatrix) else RowMatrix(G)
