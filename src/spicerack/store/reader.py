"""Read a store: rows in blocks through memory maps, the table, checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import StoreCorruptError, StoreError
from spicerack.numbers import as_float32
from spicerack.store import files
from spicerack.store.forms import RowForm, check_row_form, lengths_in
from spicerack.store.layout import (
    FEATURES,
    GRADIENT,
    MANIFEST,
    ROWS,
    Segment,
    Shard,
    manifest_shards,
    norm_column,
    read_manifest,
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the model: its name, its weight (all sum to 1), and the store of its gradients."""

    name: str
    weight: float
    store: GradientStore


class GradientStore:
    """A finished gradient store: n rows of k columns, and a table with a row per sample.

    Where gradients were taken at several checkpoints of a model, this is the store of the last one, and `checkpoints`
    holds them all.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        *,
        checkpoints: tuple[Checkpoint, ...] = (),
        root: Path | None = None,
    ) -> None:
        """Use `open`, which checks the files; `root` is the folder of a collection that this store ends."""
        self.path = path
        self.manifest = manifest
        self._checkpoints = checkpoints
        self._root = root or path

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
        if "checkpoints" in manifest:
            members = tuple(
                Checkpoint(entry["name"], float(entry["weight"]), cls.open(folder / entry["name"], verify=verify))
                for entry in manifest["checkpoints"]
            )
            last = members[-1].store
            return cls(last.path, last.manifest, checkpoints=members, root=folder)
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
        """Columns of a gradient row; 0 in a store of features only."""
        return int(self.manifest["arrays"].get(GRADIENT, 0))

    @property
    def settings(self) -> dict[str, Any]:
        """What the store was made with."""
        return dict(self.manifest["settings"])

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints of the model that gradients were taken at, at least one; this store is the last one's."""
        return self._checkpoints or (Checkpoint("checkpoint-0", 1.0, self),)

    @property
    def complete(self) -> bool:
        """Whether every shard and the table are there."""
        return bool(self.manifest["complete"])

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The tracked weight behind each run of the gradient's columns; one for all where they were mixed."""
        return tuple(Segment(s["name"], s["start"], s["stop"]) for s in self.manifest["columns"])

    @cached_property
    def features(self) -> GradientStore | None:
        """The finished store of features beside this one, or None.

        Raises:
            StoreError: it is of other samples.
        """
        folder = self._root / FEATURES
        manifest = read_manifest(folder)
        if manifest is None or not manifest["complete"]:  # an unfinished one is gone on with by whoever needs it
            return None
        store = GradientStore.open(folder)
        if not np.array_equal(store.column("id"), self.column("id")):
            raise StoreError(f"{folder} holds features of other samples than {self.path}; make it again from this pool")
        return store

    @property
    def more_features(self) -> Path:
        """Where features go that are not there yet: beside this store, or beside the last that are there."""
        return self._root / FEATURES if self.features is None else self.features.more_features

    @cached_property
    def arrays(self) -> dict[str, int]:
        """Columns of every named array: the store's own and its features'."""
        own = {name: int(columns) for name, columns in self.manifest["arrays"].items()}
        return own if self.features is None else {**self.features.arrays, **own}

    def holder(self, array: str) -> GradientStore:
        """The store that an array lies in: this one, the features beside it, or those beside them.

        Raises:
            StoreError: no such array.
        """
        if array in self.manifest["arrays"]:
            return self
        if array not in self.arrays or self.features is None:
            raise StoreError(f"{self.path} has no array {array!r}; it has {', '.join(self.arrays) or 'none'}")
        return self.features.holder(array)

    def array_files(self, array: str) -> list[tuple[Path, int, int]]:
        """Every file of an array with its first row and one past its last, in order.

        Raises:
            StoreError: no such array.
        """
        holder = self.holder(array)
        return [(holder.path / shard.file(array), shard.start, shard.stop) for shard in holder._shards]

    @cached_property
    def _shards(self) -> list[Shard]:
        return manifest_shards(self.manifest)

    @cached_property
    def _table(self) -> pa.Table:
        return pq.read_table(self.path / ROWS)

    def rows_table(self) -> pa.Table:
        """The table, n rows: ids, sources, losses, token counts, norms, flags."""
        return self._table

    @cached_property
    def column_names(self) -> list[str]:
        """Names of the table's columns and of the features', each once."""
        beside = self.features.column_names if self.features is not None else []
        return list(dict.fromkeys([*self._table.column_names, *beside]))

    def column(self, name: str) -> np.ndarray:
        """One column of the table or of the features' table, (n,); text columns have dtype object.

        Raises:
            StoreError: no such column.
        """
        if name in self._table.column_names:
            return np.asarray(self._table.column(name).to_numpy(zero_copy_only=False))
        if self.features is None or name not in self.column_names:
            raise StoreError(f"{self.path} has no column {name!r}; it has {', '.join(self.column_names)}")
        return self.features.column(name)

    def block(
        self,
        start: int,
        stop: int,
        *,
        rows: RowForm = "plain",
        array: str = GRADIENT,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> np.ndarray:
        """Rows `start` to `stop` of an array, (stop - start, columns), in a form (`RowForm`).

        A row is stored at unit length, rounded to the store's type; the other forms multiply it by its float32 norm,
        or by the square root of that.
        """
        check_row_form(rows)
        result = np.empty((stop - start, self.arrays.get(array, 0)), dtype=dtype)
        for path, first, end in self.array_files(array):
            low, high = max(start, first), min(stop, end)
            if low < high:
                matrix = np.load(path, mmap_mode="r", allow_pickle=False)
                result[low - start : high - start] = as_float32(matrix[low - first : high - first])
        if rows != "unit":
            result *= lengths_in(rows, self.column(norm_column(array))[start:stop])[:, None].astype(dtype)
        return result

    def matrix(
        self, rows: RowForm = "plain", *, array: str = GRADIENT, dtype: type[np.floating[Any]] = np.float32
    ) -> np.ndarray:
        """All rows of an array, G (n, k), in memory."""
        return self.block(0, self.n, rows=rows, array=array, dtype=dtype)

    def blocks(self, size: int, *, rows: RowForm = "plain", array: str = GRADIENT) -> Iterator[tuple[int, np.ndarray]]:
        """Start and rows of each block of `size` rows, in order."""
        for start in range(0, self.n, size):
            yield start, self.block(start, min(start + size, self.n), rows=rows, array=array)

    def excluded(self) -> list[tuple[int, str]]:
        """Rows that may never be selected, each with the reason."""
        trained, finite = self.column("trained_tokens"), self.column("finite")
        broken = "non-finite gradient" if GRADIENT in self.manifest["arrays"] else "non-finite features"
        reasons = np.where(trained == 0, "no trained tokens", np.where(finite, "", broken))
        return [(int(i), str(reasons[i])) for i in np.flatnonzero(reasons != "")]

    def fingerprint(self) -> str:
        """SHA-256 over the settings and the shards' checksums, of every checkpoint."""
        if self._checkpoints:
            parts = [(c.name, c.weight, c.store.fingerprint()) for c in self._checkpoints]
            return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        content = {"settings": self.settings, "shards": self.manifest["shards"], "rows": self.manifest["rows_sha256"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def verify(self, *, checksums: bool = True) -> None:
        """Compare every file that the manifest names with its size and checksum.

        Raises:
            StoreCorruptError: the first file that is missing, truncated or altered.
        """
        for done in self.manifest["shards"].values():
            for name, entry in done.items():
                path = self.path / name
                size = path.stat().st_size if path.is_file() else -1
                _check(path, size == entry["bytes"], f"it has {size} bytes, not {entry['bytes']}")
                if checksums:
                    _check_sum(path, entry["sha256"])
        if self.complete:
            _check_sum(self.path / ROWS, self.manifest["rows_sha256"])


def _check_sum(path: Path, expected: str) -> None:
    _check(path, path.is_file() and files.sha256(path) == expected, "its bytes do not have their checksum")


def _check(path: Path, whole: bool, problem: str) -> None:
    if whole:
        return
    there = path.is_file()
    state = f"truncated or altered ({problem}); delete it and" if there else "missing;"
    raise StoreCorruptError(
        f"{path} is {state} repeat the command that made the store: only that part is computed again"
    )
