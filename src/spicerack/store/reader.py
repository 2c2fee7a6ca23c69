"""Read a store: rows in blocks through memory maps, the table, checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import StoreCorruptError, StoreError
from spicerack.store import files
from spicerack.store.layout import MANIFEST, ROWS, Shard, manifest_shards, read_manifest

RowForm = Literal["plain", "unit"]


class GradientStore:
    """A finished gradient store: n rows of k columns, and a table with a row per sample."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Use `open`, which checks the files."""
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> GradientStore:
        """Open a finished store.

        Args:
            path: its folder.
            verify: compare every file with its checksum (about a second a gigabyte); sizes are compared in any case.

        Raises:
            StoreError: no store there, or an unfinished one.
            StoreCorruptError: a file is missing, truncated or altered.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        if manifest is None:
            raise StoreError(f"{folder} is not a gradient store: it has no {MANIFEST}")
        store = cls(folder, manifest)
        if not store.complete:
            done, planned = len(manifest["shards"]), len(store._shards)
            raise StoreError(
                f"{folder} is unfinished, {done} of {planned} shards; repeat the command that made it to go on"
            )
        store.verify(checksums=verify)
        return store

    def __repr__(self) -> str:
        return f"GradientStore({str(self.path)!r}, n={self.n}, k={self.k})"

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.manifest["n"])

    @property
    def k(self) -> int:
        """Columns of a row."""
        return int(self.manifest["k"])

    @property
    def settings(self) -> dict[str, Any]:
        """What the store was made with."""
        return dict(self.manifest["settings"])

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints."""
        return tuple(checkpoint["name"] for checkpoint in self.manifest["checkpoints"])

    @property
    def complete(self) -> bool:
        """Whether every shard and the table are there."""
        return bool(self.manifest["complete"])

    @cached_property
    def _shards(self) -> list[Shard]:
        return manifest_shards(self.manifest)

    @cached_property
    def _table(self) -> pa.Table:
        return pq.read_table(self.path / ROWS)

    def rows_table(self) -> pa.Table:
        """The table, n rows: ids, sources, losses, token counts, norms, flags."""
        return self._table

    def column(self, name: str) -> np.ndarray:
        """One column of the table, (n,); text columns have dtype object.

        Raises:
            StoreError: no such column.
        """
        if name not in self._table.column_names:
            raise StoreError(f"{self.path} has no column {name!r}; it has {', '.join(self._table.column_names)}")
        return np.asarray(self._table.column(name).to_numpy(zero_copy_only=False))

    def block(
        self,
        start: int,
        stop: int,
        *,
        rows: RowForm = "plain",
        checkpoint: str | None = None,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> np.ndarray:
        """Rows `start` to `stop`, (stop - start, k), plain or at unit length.

        A row is stored at unit length, rounded to the store's type; `plain` multiplies it by its float32 norm.
        """
        result = np.empty((stop - start, self.k), dtype=dtype)
        for shard in self._shards:
            low, high = max(start, shard.start), min(stop, shard.stop)
            if low < high and shard.checkpoint == (checkpoint or self.checkpoints[0]):
                matrix = np.load(self.path / shard.matrix_file, mmap_mode="r", allow_pickle=False)
                result[low - start : high - start] = matrix[low - shard.start : high - shard.start]
        if rows == "plain":
            result *= self._norms[start:stop, None].astype(dtype)
        return result

    @cached_property
    def _norms(self) -> np.ndarray:
        return self.column("sketch_norm")

    def matrix(
        self, rows: RowForm = "plain", *, checkpoint: str | None = None, dtype: type[np.floating[Any]] = np.float32
    ) -> np.ndarray:
        """All rows, G (n, k), in memory."""
        return self.block(0, self.n, rows=rows, checkpoint=checkpoint, dtype=dtype)

    def blocks(self, size: int, *, rows: RowForm = "plain") -> Iterator[tuple[int, np.ndarray]]:
        """Start and rows of each block of `size` rows, in order."""
        for start in range(0, self.n, size):
            yield start, self.block(start, min(start + size, self.n), rows=rows)

    def excluded(self) -> list[tuple[int, str]]:
        """Rows that may never be selected, each with the reason."""
        trained, finite = self.column("trained_tokens"), self.column("finite")
        reasons = np.where(trained == 0, "no trained tokens", np.where(finite, "", "non-finite gradient"))
        return [(int(i), str(reasons[i])) for i in np.flatnonzero(reasons != "")]

    def fingerprint(self) -> str:
        """SHA-256 over the settings and the shards' checksums."""
        content = {"settings": self.settings, "shards": self.manifest["shards"], "rows": self.manifest["rows_sha256"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def verify(self, *, checksums: bool = True) -> None:
        """Compare every file that the manifest names with its size and checksum.

        Raises:
            StoreCorruptError: the first file that is missing, truncated or altered.
        """
        for shard in self._shards:
            entry = self.manifest["shards"].get(shard.matrix_file)
            if entry is not None:
                path = self.path / shard.matrix_file
                size = path.stat().st_size if path.is_file() else -1
                _check(path, size == entry["bytes"], f"it has {size} bytes, not {entry['bytes']}")
                if checksums:
                    _check_sum(path, entry["sha256"])
                    _check_sum(self.path / shard.rows_file, entry["rows_sha256"])
        if self.complete:
            _check_sum(self.path / ROWS, self.manifest["rows_sha256"])


def _check_sum(path: Path, expected: str) -> None:
    _check(path, path.is_file() and files.sha256(path) == expected, "its bytes do not have their checksum")


def _check(path: Path, whole: bool, problem: str) -> None:
    if whole:
        return
    state = f"truncated or altered ({problem})" if path.is_file() else "missing"
    raise StoreCorruptError(
        f"{path} is {state}; delete it and repeat the command that made the store: only that part is computed again"
    )
