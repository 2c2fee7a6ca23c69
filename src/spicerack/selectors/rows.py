"""The rows a selector reads, in any form, from an array in memory or a gradient store.

A row is plain (as given), or scaled to unit length or to the square root of its length (`store/forms.py`). Rows with a
value that is not finite (in float32), and those a store marks, are excluded; they read as zeros. `row_matrix` pairs the
working copy with exact rows, so that picks do not depend on the precision of the working copy, nor on whether it is
held in memory or streamed from the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.errors import BudgetError, ConfigurationError, GradientError
from spicerack.information.device import DeviceRows
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix, StreamAt, many
from spicerack.selectors.sources import BLOCK_ROWS, ArraySource, JoinedSource, Source, StoreSource
from spicerack.selectors.stored import StoredRows
from spicerack.store.forms import RowForm, bring, check_row_form, lengths_in

Working = type[np.float32] | type[np.float64]

SMALLEST = 1e-30
BLOCK_BYTES = 16 << 20


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
        self._what = what
        self._cached: tuple[RowForm, npt.NDArray[Any]] | None = None
        self._source: Source
        if isinstance(source, (ArraySource, StoreSource, JoinedSource)):
            self._source = source
        else:
            if isinstance(source, (str, Path)):
                from spicerack.store.reader import GradientStore

                source = GradientStore.open(source)
            stored = hasattr(source, "rows_table")
            self._source = StoreSource(source) if stored else ArraySource(_as_array(source, what))
        self.n, self.k = self._source.n, self._source.k
        if self.n == 0 or (self.k == 0 and self.store is None):
            raise GradientError(
                f"{what} of shape ({self.n}, {self.k}) hold nothing; expected at least one row and column"
            )

    @classmethod
    def joined(cls, named: Mapping[str, Rows], *, what: str = "target") -> Rows:
        """Rows of several sources, one after the other.

        Raises:
            GradientError: their dimensions differ.
        """
        return cls(JoinedSource([(name, rows._source) for name, rows in named.items()]), what=what)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)."""
        return self.n, self.k

    @property
    def store(self) -> Any:
        """The `GradientStore` behind the rows, or None."""
        return getattr(self._source, "store", None)

    def array(self, name: str) -> Rows:
        """The same samples' rows of another named array of the store; an array stands for whatever is asked.

        Raises:
            ConfigurationError: the store has no such array; says how to make it.
        """
        return Rows(_of_array(self._source, name), what=self._what)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows of a store were made with; of the features beside it where they are features."""
        store = self.store
        if store is None:
            return {}
        name = self._source.name if isinstance(self._source, StoreSource) else None
        return dict((store.holder(name) if name in store.arrays else store).settings)

    @property
    def segments(self) -> tuple[Any, ...]:
        """The tracked module (`name`, `start`, `stop`) of each run of columns; one for all where it is not known."""
        from spicerack.store.layout import Segment

        return (Segment("gradient", 0, self.k),) if self.store is None else tuple(self.store.segments)

    @property
    def excluded(self) -> list[tuple[int, str]]:
        """Rows that may never be picked, ascending, each with its reason."""
        return self._source.excluded

    @cached_property
    def included(self) -> BoolArray:
        """Mask of the rows that may be picked, (n,)."""
        mask = np.ones(self.n, dtype=bool)
        mask[[i for i, _ in self.excluded]] = False
        return mask

    @cached_property
    def norms(self) -> FloatArray:
        """Length of every plain row, (n,); 0 for excluded rows."""
        if self._source.scale is not None:
            return self._source.scale
        norms = np.empty(self.n)
        for part in self._parts(BLOCK_ROWS):
            norms[part] = np.linalg.norm(self._source.native(part).astype(np.float64), axis=1)
        return norms

    def take(self, rows: IntArray | slice, form: RowForm = "plain") -> FloatArray:
        """The exact rows of these numbers, float64 (r, k); a row of zeros stays one in every form."""
        check_row_form(form)
        unit_stored = self._source.scale is not None
        values = (self.working(rows, form) if unit_stored else self._source.native(rows)).astype(np.float64)
        if form == "plain":
            return values
        lengths = np.linalg.norm(values, axis=1) if unit_stored else self.norms[rows]
        bring(values, lengths, lengths_in(form, self.norms[rows]))
        return values

    def working(self, rows: IntArray | slice, form: RowForm = "plain", dtype: Working = np.float32) -> npt.NDArray[Any]:
        """Rows of these numbers as the passes read them, (r, k); exact up to rounding to `dtype`."""
        check_row_form(form)
        if self._cached is not None and self._cached[0] == form and self._cached[1].dtype == dtype:
            return self._cached[1][rows]
        scale = self._source.scale
        if scale is None or dtype == np.float64:
            values = self.take(rows, form) if form != "plain" or scale is not None else self._source.native(rows)
            return values.astype(dtype, copy=False)
        values = self._source.native(rows)
        if form == "plain":
            values *= scale[rows].astype(np.float32)[:, None]
            return values
        lengths = np.linalg.norm(values, axis=1)  # not quite 1 in half precision
        bring(values, lengths, lengths_in(form, self.norms[rows]))
        return values

    def stream(self, form: RowForm = "plain", dtype: Working = np.float32) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """All working rows in order, a block of about 16 MB at a time: the whole matrix is never in memory."""
        for part in self._parts(max(1, BLOCK_BYTES // (np.dtype(dtype).itemsize * self.k))):
            yield part, self.working(part, form, dtype)

    def matrix(self, form: RowForm = "plain", dtype: Working = np.float32) -> npt.NDArray[Any]:
        """All working rows (n, k) in memory; the array itself where form and dtype are its own: never write to it."""
        source = self._source
        if isinstance(source, ArraySource) and form == "plain" and source.array.dtype == dtype and not source.excluded:
            return source.array
        if self._cached is not None and self._cached[0] == form and self._cached[1].dtype == dtype:
            return self._cached[1]
        matrix = np.empty(self.shape, dtype=dtype)
        for part, rows in self.stream(form, dtype):
            matrix[part] = rows
        self._cached = (form, matrix)
        return matrix

    def row_matrix(
        self, form: RowForm, dtype: Working, *, memory: int | None = None, device: str = "cpu", halves: bool = False
    ) -> RowMatrix:
        """Working copy and exact rows, for an information state.

        The copy is of `dtype`, or of a store's own half precision where that is faster or all that there is room for.

        Args:
            form: of the rows.
            dtype: of what is computed with the rows.
            memory: bytes that the working copy may take; a larger one is streamed from the store. None: no limit.
            device: the torch device that holds the working copy, in float32; "cpu": main memory.
            halves: whether passes have few columns, and are faster on half precision.
        """
        entries = self.n * self.k
        room = entries * 8 if memory is None or self.store is None else memory
        large = entries * np.dtype(dtype).itemsize > room
        stored = self._stored if dtype == np.float32 else None
        held: npt.NDArray[Any] | DeviceRows | None = None
        streamed: StreamAt | None = None
        lengths: FloatArray | None = None
        if device != "cpu":
            held = DeviceRows(self.stream(form, dtype), self.shape, device)
        elif stored and (halves or large) and stored.half and many(self.n, self.k) and 2 * entries <= room:
            held, lengths = stored.held(), stored.lengths(form, self.norms)
        elif not large:
            held = self.matrix(form, dtype)
        elif stored:
            streamed, lengths = stored.streamer(), stored.lengths(form, self.norms)
        matrix = RowMatrix(
            held,
            rows_at=lambda rows: self.take(rows, form),
            working_at=lambda rows: self.working(rows, form, dtype),
            stream_at=streamed,
            lengths=lengths,
            shape=self.shape,
        )
        squared = matrix.squared_norms
        if (squared[squared > 0.0] < SMALLEST**2).any():
            matrix.widen()  # float32 would read such rows as zeros
        return matrix

    @cached_property
    def _stored(self) -> StoredRows | None:
        return StoredRows(self._source) if isinstance(self._source, StoreSource) else None

    def tokens(self) -> IntArray:
        """Tokens of each row from the store's table, (n,).

        Raises:
            BudgetError: an array has no token counts.
        """
        if self.store is None:
            raise BudgetError("a token budget needs the tokens of each row: give a gradient store, or tokens=")
        return np.asarray(self._source.column("tokens"), dtype=np.int64)

    def column(self, name: str) -> FloatArray:
        """A column of the store's table or its features, (n,) float64.

        Raises:
            ConfigurationError: there is none of this name, or it holds no numbers.
        """
        values = self._source.column(name)
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConfigurationError(f"column {name!r} holds {values.ravel()[0]!r}, expected numbers") from None

    def label(self, name: str) -> npt.NDArray[Any]:
        """A column of the store's table as it is, (n,), text included.

        Raises:
            ConfigurationError: there is none of this name.
        """
        return self._source.column(name)

    def of_checkpoint(self, name: str) -> Rows:
        """The same samples' rows at another checkpoint of the model.

        Raises:
            ConfigurationError: the store does not hold it; an array holds one checkpoint only.
        """
        return Rows(_of_checkpoint(self._source, name, self._what), what=self._what)

    def description(self) -> dict[str, Any]:
        """What the manifest says of the rows."""
        return {"rows": self.n, "dimension": self.k, **self._source.description()}

    def _parts(self, rows: int) -> Iterator[slice]:
        for start in range(0, self.n, rows):
            yield slice(start, min(start + rows, self.n))


def free_memory() -> int:
    """Bytes of physical memory that are free now, at least 1 GB."""
    import psutil

    return max(1 << 30, int(psutil.virtual_memory().available))


def _of_array(source: Source, name: str) -> Source:
    if isinstance(source, JoinedSource):
        return JoinedSource([(part, _of_array(inner, name)) for part, inner in source.parts])
    return StoreSource(source.store, name) if isinstance(source, StoreSource) else source


def _of_checkpoint(source: Source, name: str, what: str) -> Source:
    if isinstance(source, JoinedSource):
        return JoinedSource([(part, _of_checkpoint(inner, name, what)) for part, inner in source.parts])
    held = {c.name: c.store for c in source.store.checkpoints} if isinstance(source, StoreSource) else {}
    if name not in held:
        raise ConfigurationError(
            f"the {what} holds no checkpoint {name!r} (it has {', '.join(held) or 'none: it is an array'}); take the "
            "gradients of pool and target at the same checkpoints"
        )
    return StoreSource(held[name], source.name) if isinstance(source, StoreSource) else source


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
