"""Read any rows of a store's array straight from its shard files, without mapping or holding them in memory."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.store.reader import GradientStore

DENSE = 4
"""A shard is read whole where at least one row in so many is asked for: one read instead of many."""


class RowGatherer:
    """Rows of one array of a store, in the type they are stored in.

    Memory maps would count every page they touch as resident; plain reads leave the rows in the system's cache.

    Args:
        store: a finished store.
        array: name of the array.
    """

    def __init__(self, store: GradientStore, array: str = "gradient") -> None:
        files = store.array_files(array)
        self.n, self.k = store.n, store.arrays[array]
        self._paths = [path for path, _, _ in files]
        self._starts = np.array([start for _, start, _ in files], dtype=np.int64)
        self._stops = np.array([stop for _, _, stop in files], dtype=np.int64)
        header = np.load(self._paths[0], mmap_mode="r", allow_pickle=False)
        self.dtype = header.dtype
        self._offsets = [os.path.getsize(path) - self._row_bytes * (stop - start) for path, start, stop in files]

    @property
    def _row_bytes(self) -> int:
        return int(self.k * self.dtype.itemsize)

    def take(self, rows: npt.NDArray[np.int64] | slice, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Rows of these numbers, (r, k), in the order given.

        Args:
            rows: of the store.
            out: where to write them, (r, k), contiguous and of their type; by default fresh memory.
        """
        count = len(range(*rows.indices(self.n))) if isinstance(rows, slice) else rows.size
        if out is None:
            out = np.empty((count, self.k), dtype=self.dtype)
        if isinstance(rows, slice):
            self._run(rows.indices(self.n)[0], out)
            return out
        shard_of = np.searchsorted(self._stops, rows, side="right")
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            self._gather(int(shard), rows[places] - self._starts[shard], out, places)
        return out

    def _run(self, start: int, out: npt.NDArray[Any]) -> None:
        """Fill `out` with the rows from `start` on."""
        stop = start + len(out)
        for shard in range(int(np.searchsorted(self._stops, start, side="right")), len(self._paths)):
            low, high = max(start, int(self._starts[shard])), min(stop, int(self._stops[shard]))
            if low >= high:
                break
            offset = self._offsets[shard] + (low - int(self._starts[shard])) * self._row_bytes
            with open(self._paths[shard], "rb", buffering=0) as file:
                _read_into(file.fileno(), out[low - start : high - start], offset)

    def _gather(
        self, shard: int, inside: npt.NDArray[np.int64], out: npt.NDArray[Any], places: npt.NDArray[np.int64]
    ) -> None:
        held = int(self._stops[shard] - self._starts[shard])
        if inside.size * DENSE >= held:
            whole = np.empty((held, self.k), dtype=self.dtype)
            self._run(int(self._starts[shard]), whole)
            out[places] = whole[inside]
            return
        with open(self._paths[shard], "rb", buffering=0) as file:
            for row, place in zip(inside.tolist(), places.tolist(), strict=True):
                _read_into(file.fileno(), out[place : place + 1], self._offsets[shard] + row * self._row_bytes)


def _read_into(file: int, target: npt.NDArray[Any], offset: int) -> None:
    view = memoryview(target.data).cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(file, [view[done:]], offset + done)
        if got == 0:
            raise EOFError(f"a shard ended {len(view) - done} bytes early")
        done += got
