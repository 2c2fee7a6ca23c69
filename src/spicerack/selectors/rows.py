"""The rows a selector reads, from an array in memory or a gradient store: the only place that knows both.

A row is plain (as given) or scaled to unit length. Rows with a value that is not finite (in float32), and those a
store marks, are excluded; they read as zeros. `row_matrix` pairs the working copy with exact rows, so that picks do
not depend on the precision of the working copy.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from spicerack.errors import BudgetError, GradientError
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix

if TYPE_CHECKING:
    from spicerack.store.reader import GradientStore

RowForm = Literal["plain", "unit"]
Working = type[np.float32] | type[np.float64]

NON_FINITE = "non-finite gradient"
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 1e-30
BLOCK_ROWS = 4096


class Rows:
    """Rows of shape (n, k).

    Args:
        source: an array (n, k) or torch tensor of any float or integer dtype, a `GradientStore`, or the path of one.
        what: how errors call it.

    Raises:
        GradientError: not two-dimensional, empty, or not numbers.
        StoreError: a path without a finished store.
    """

    def __init__(self, source: Any, *, what: str = "gradients") -> None:
        self._store: GradientStore | None = None
        self._array: npt.NDArray[Any] | None = None
        self._cached: tuple[RowForm, npt.NDArray[Any]] | None = None
        if isinstance(source, (str, Path)):
            from spicerack.store.reader import GradientStore

            source = GradientStore.open(source)
        if hasattr(source, "rows_table"):
            self._store = cast("GradientStore", source)
            self.n, self.k = int(source.n), int(source.k)
        else:
            self._array = _as_array(source, what)
            self.n, self.k = self._array.shape
        if self.n == 0 or self.k == 0:
            raise GradientError(
                f"{what} of shape ({self.n}, {self.k}) hold nothing; expected at least one row and column"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)."""
        return self.n, self.k

    @cached_property
    def excluded(self) -> list[tuple[int, str]]:
        """Rows that may never be picked, ascending, each with its reason."""
        if self._store is not None:
            reasons = dict(self._store.excluded())
            norms = np.asarray(self._store.rows_table().column("sketch_norm").to_numpy(), dtype=np.float64)
            reasons.update({int(i): NON_FINITE for i in np.flatnonzero(~np.isfinite(norms)) if int(i) not in reasons})
            return sorted(reasons.items())
        return [(int(i), NON_FINITE) for i in np.flatnonzero(~self._finite)]

    @cached_property
    def included(self) -> BoolArray:
        """Mask of the rows that may be picked, (n,)."""
        mask = np.ones(self.n, dtype=bool)
        mask[[i for i, _ in self.excluded]] = False
        return mask

    @cached_property
    def norms(self) -> FloatArray:
        """Length of every plain row, (n,); 0 for excluded rows."""
        if self._store is not None:
            norms = np.asarray(self._store.rows_table().column("sketch_norm").to_numpy(), dtype=np.float64)
            return np.where(self.included, norms, 0.0)
        norms = np.empty(self.n)
        for start in range(0, self.n, BLOCK_ROWS):
            norms[start : start + BLOCK_ROWS] = np.linalg.norm(self._plain(slice(start, start + BLOCK_ROWS)), axis=1)
        return norms

    def matrix(self, form: RowForm = "plain", dtype: Working = np.float32) -> npt.NDArray[Any]:
        """All rows (n, k) in memory; the array itself where form and dtype are its own, so never write to it."""
        if self._array is not None and form == "plain" and self._array.dtype == dtype and bool(self._finite.all()):
            return self._array
        source = self._loaded(form) if self._store is not None else None
        if source is not None and source.dtype == dtype:
            return source
        matrix = np.empty(self.shape, dtype=dtype)
        for start in range(0, self.n, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, self.n))
            matrix[rows[0] : rows[-1] + 1] = self.take(rows, form)
        return matrix

    def block(self, start: int, stop: int, form: RowForm = "plain") -> FloatArray:
        """Rows `start` to `stop`, float64."""
        return self.take(np.arange(start, min(stop, self.n)), form)

    def take(self, rows: IntArray, form: RowForm = "plain") -> FloatArray:
        """The exact rows of these numbers, float64 (r, k); a row of zeros stays zero at unit length."""
        if self._store is None:
            values = self._plain(rows)
            lengths = self.norms[rows] if form == "unit" else None
        else:
            values = self._loaded(form)[rows].astype(np.float64)
            lengths = np.linalg.norm(values, axis=1) if form == "unit" else None
        if lengths is not None:
            values /= np.where(lengths > 0.0, lengths, 1.0)[:, None]
        return values

    def row_matrix(self, form: RowForm, dtype: Working) -> RowMatrix:
        """Working copy and exact rows, for an information state."""
        matrix = RowMatrix(self.matrix(form, dtype), lambda rows: self.take(rows, form))
        squared = matrix.squared_norms
        if (squared[squared > 0.0] < SMALLEST**2).any():
            matrix.widen()  # float32 would read such rows as zeros
        return matrix

    def tokens(self) -> IntArray:
        """Tokens of each row from the store's table, (n,).

        Raises:
            BudgetError: an array has no token counts.
        """
        if self._store is None:
            raise BudgetError("a token budget needs the tokens of each row: give a gradient store, or tokens=")
        return np.asarray(self._store.rows_table().column("tokens").to_numpy(), dtype=np.int64)

    def description(self) -> dict[str, Any]:
        """What the manifest says of the rows."""
        about: dict[str, Any] = {"rows": self.n, "dimension": self.k}
        if self._store is not None:
            return {**about, "kind": "store", "path": str(self._store.path), "fingerprint": self._store.fingerprint()}
        assert self._array is not None
        digest = hashlib.sha256(self._array.data).hexdigest()
        return {**about, "kind": "array", "dtype": str(self._array.dtype), "fingerprint": digest}

    @cached_property
    def _finite(self) -> BoolArray:
        finite = np.ones(self.n, dtype=bool)
        if self._array is not None and self._array.dtype.kind == "f":
            for start in range(0, self.n, BLOCK_ROWS):
                block = self._array[start : start + BLOCK_ROWS]
                finite[start : start + BLOCK_ROWS] = (np.abs(block.astype(np.float64)) <= LARGEST).all(axis=1)
        return finite

    def _plain(self, rows: IntArray | slice) -> FloatArray:
        assert self._array is not None  # rows of a store are read by `_loaded`
        values = self._array[rows].astype(np.float64)
        values[~self._finite[rows]] = 0.0
        return values

    def _loaded(self, form: RowForm) -> npt.NDArray[Any]:
        """The store's rows in memory, float32, in one form at a time: stores hold half precision, so this is exact."""
        assert self._store is not None
        if self._cached is None or self._cached[0] != form:
            matrix = self._store.matrix(rows=form, dtype=np.float32)
            matrix[~self.included] = 0.0
            for start in range(0, self.n, BLOCK_ROWS):
                block = matrix[start : start + BLOCK_ROWS]
                if not np.isfinite(block).all():
                    row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                    raise GradientError(
                        f"row {row} of {self._store.path} is not finite, though the store's table says so"
                    )
                if form == "unit":  # a unit row rounded to half precision is not of unit length
                    lengths = np.linalg.norm(block, axis=1, keepdims=True)
                    block /= np.where(lengths > 0.0, lengths, 1.0)
            self._cached = (form, matrix)
        return self._cached[1]


def _as_array(source: Any, what: str) -> npt.NDArray[Any]:
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = (source.float() if str(source.dtype) == "torch.bfloat16" else source).numpy()
    try:
        array = np.asarray(source)
    except ValueError as error:
        raise GradientError(f"{what} are not a rectangular array: {error}") from error
    if array.ndim != 2:
        raise GradientError(f"{what} have shape {array.shape}; expected (rows, dimension)")
    if array.dtype.kind not in "fiu" and array.dtype != np.bool_:
        raise GradientError(f"{what} have dtype {array.dtype}; expected numbers")
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    return np.ascontiguousarray(array)
