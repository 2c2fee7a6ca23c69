"""Rows as a store holds them, for passes that read half precision: in memory, or streamed from the store.

Stored rows are at unit length up to rounding, so products of them are multiplied with lengths, by the form asked for.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray, StreamAt
from spicerack.numbers import is_half
from spicerack.selectors.sources import BLOCK_ROWS, StoreSource
from spicerack.store.forms import RowForm, lengths_in

BLOCK_BYTES = 16 << 20


class StoredRows:
    """The rows of a named array of a store, in its own dtype."""

    def __init__(self, source: StoreSource) -> None:
        self._source = source

    def held(self) -> npt.NDArray[Any]:
        """All of them, (n, k)."""
        source = self._source
        rows = np.empty((source.n, source.k), dtype=source.dtype)
        step = max(1, BLOCK_BYTES // (rows.itemsize * source.k))
        for start in range(0, source.n, step):
            part = slice(start, min(start + step, source.n))
            source.stored(part, rows[part])
        return rows

    def streamer(self) -> StreamAt:
        """What gives a run of them.

        A thread's rows are good until it asks for the next ones: fresh memory for each run of rows takes the system as
        long as half of the reading.
        """
        source = self._source
        kept = threading.local()

        def stream(part: slice) -> npt.NDArray[Any]:
            count = part.stop - part.start
            if len(getattr(kept, "rows", ())) < count:
                kept.rows = np.empty((count, source.k), dtype=source.dtype)
            return source.stored(part, kept.rows[:count])

        return stream

    @property
    def half(self) -> bool:
        """Whether they are stored in half precision."""
        return is_half(self._source.dtype)

    def lengths(self, form: RowForm, norms: FloatArray) -> FloatArray:
        """What makes rows of this form of the stored ones, (n,); `norms` are the lengths of the plain rows."""
        return norms if form == "plain" else self._to_unit * lengths_in(form, norms)

    @cached_property
    def _to_unit(self) -> FloatArray:
        """One over the length of every stored row, (n,): half precision leaves no row at unit length exactly."""
        source = self._source
        lengths = np.ones(source.n)
        for start in range(0, source.n, BLOCK_ROWS):
            part = slice(start, min(start + BLOCK_ROWS, source.n))
            lengths[part] = np.linalg.norm(source.native(part).astype(np.float64), axis=1)
        return np.asarray(1.0 / np.where(lengths > 0.0, lengths, 1.0))
