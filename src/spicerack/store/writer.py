"""Write a store, one shard at a time, so that whatever happens a rerun does only what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from spicerack.errors import StoreCorruptError, StoreError, StoreMismatchError
from spicerack.numbers import as_stored
from spicerack.store import files
from spicerack.store.layout import (
    FEATURES,
    FORMAT_VERSION,
    GRADIENT,
    LOCK,
    MANIFEST,
    ROWS,
    SHARDS,
    TABLE_SCHEMA,
    Segment,
    Shard,
    manifest_shards,
    norm_column,
    read_manifest,
    shard_files,
    shard_plan,
)
from spicerack.store.locks import acquire
from spicerack.store.reader import GradientStore
from spicerack.store.settings import differences


class StoreWriter:
    """The one process that writes a store; a context manager that holds the store's lock."""

    def __init__(self, path: Path, lock: FileLock, manifest: dict[str, Any], columns: pa.Schema) -> None:
        """Use `create_or_resume`."""
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._columns = columns

    @classmethod
    def create_or_resume(
        cls,
        path: str | Path,
        *,
        settings: Mapping[str, Any],
        n: int,
        arrays: Mapping[str, int],
        shard_rows: int,
        dtype: str = "float16",
        columns: pa.Schema = TABLE_SCHEMA,
        segments: Sequence[Segment] = (),
    ) -> StoreWriter:
        """Begin a store, or go on with one made with the same settings.

        Args:
            path: the store's folder.
            settings: everything that fixes the rows; JSON values.
            n: rows of the pool.
            arrays: name of every array with its columns; `gradient` is what selectors read unless they say otherwise.
            shard_rows: rows of a shard.
            dtype: of the stored unit rows, `float16`, `bfloat16` or `float32`.
            columns: of the table, but for those that the writer adds: a norm for each array, and `finite`.
            segments: the tracked weight behind each run of the gradient's columns, where they were not mixed.

        Raises:
            StoreLockedError: another process is writing it.
            StoreMismatchError: it was made with other settings, all of which are named.
            StoreCorruptError: a finished shard is truncated or altered. One that was deleted is done again.
            StoreError: the folder holds something else.
            OutputError: it cannot be written.
        """
        folder = Path(path)
        _make_folder(folder)
        lock = acquire(folder / LOCK, f"the store {folder}")
        try:
            manifest = read_manifest(folder)
            wanted = _new_manifest(settings, n, arrays, shard_rows, dtype, segments)
            if manifest is None:
                _refuse_foreign(folder)
                manifest = wanted
                _make_folder(folder / SHARDS)
                files.write_json(folder / MANIFEST, manifest)
            else:
                _compare(folder, manifest, wanted)
                _remove_partial(folder)
                _forget_missing(folder, manifest)
                GradientStore(folder, manifest).verify()
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, manifest, columns)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def missing(self) -> list[Shard]:
        """Shards that are not done, in order."""
        return [shard for shard in manifest_shards(self.manifest) if shard.rows_file not in self.manifest["shards"]]

    def write(self, shard: Shard, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any]) -> None:
        """Store one shard's rows and their part of the table; then, and only then, it is done.

        Args:
            shard: one of `missing()`.
            arrays: (rows, columns) float32 of every array, plain. A row that is not finite is stored as zeros, with
                `finite` false; in arrays beside the gradient its norm is NaN.
            table: the columns of the schema that the writer was given, each (rows,).

        Raises:
            OutputError: disk full or folder not writable; the shards already done are kept.
        """
        rows = shard.stop - shard.start
        norms: dict[str, np.ndarray] = {}
        all_finite = np.ones(rows, dtype=bool)
        for name, columns in self.manifest["arrays"].items():
            if arrays[name].shape != (rows, columns):
                raise StoreError(
                    f"shard {shard.index} got {name} rows of shape {arrays[name].shape}; expected {(rows, columns)}"
                )
            unit, norm, finite = _unit_rows(arrays[name])
            norms[norm_column(name)] = norm if name == GRADIENT else np.where(finite, norm, np.float32(np.nan))
            all_finite &= finite
            self._write(shard.file(name), as_stored(unit, self.manifest["dtype"]))
        part = pa.table({**table, **norms, "finite": all_finite})
        added = [*((name, pa.float32()) for name in norms), ("finite", pa.bool_())]
        schema = pa.schema([*self._columns, *(pa.field(name, kind) for name, kind in added)])
        part = part.select(schema.names).cast(schema)
        files.write_atomically(self.path / shard.rows_file, lambda file: pq.write_table(part, file))
        self.manifest["shards"][shard.rows_file] = {
            name: {"sha256": files.sha256(self.path / name), "bytes": (self.path / name).stat().st_size}
            for name in shard_files(self.manifest, shard)
        }
        files.write_json(self.path / MANIFEST, self.manifest)

    def _write(self, name: str, stored: np.ndarray) -> None:
        files.write_atomically(self.path / name, lambda file: np.save(file, stored, allow_pickle=False))

    def finish(self) -> GradientStore:
        """Merge the shards' tables into rows.parquet and open the store.

        Raises:
            StoreError: shards are missing.
        """
        if missing := self.missing():
            raise StoreError(f"{self.path} cannot be finished: {len(missing)} shards are missing")
        if not self.manifest["complete"]:
            parts = [self.path / shard.rows_file for shard in manifest_shards(self.manifest)]
            merged = pa.concat_tables([pq.read_table(part) for part in parts]).combine_chunks()
            files.write_atomically(self.path / ROWS, lambda file: pq.write_table(merged, file))
            self.manifest |= {"complete": True, "rows_sha256": files.sha256(self.path / ROWS)}
            files.write_json(self.path / MANIFEST, self.manifest)
        return GradientStore(self.path, self.manifest)


def _unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows at unit length, their float32 norms, and which are finite; a row that is not is zeros of norm 0.

    In float64: the inverse of the smallest norms is past float32.
    """
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    finite = np.isfinite(norms) & (norms <= np.finfo(np.float32).max)
    norms = np.where(finite, norms, 0.0)
    held = norms.astype(np.float32)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=held > 0)
    unit = np.where(finite[:, None], rows, 0) * scale[:, None]
    return unit.astype(np.float32), held, finite


def _new_manifest(
    settings: Mapping[str, Any],
    n: int,
    arrays: Mapping[str, int],
    shard_rows: int,
    dtype: str,
    segments: Sequence[Segment],
) -> dict[str, Any]:
    whole = [Segment(GRADIENT, 0, arrays[GRADIENT])] if GRADIENT in arrays else []
    return {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "n": n,
        "arrays": dict(sorted(arrays.items())),  # as the file gives them back: a resumed run writes alike
        "dtype": dtype,
        "columns": [{"name": s.name, "start": s.start, "stop": s.stop} for s in segments or whole],
        "shard_plan": shard_plan(n, shard_rows),
        "shards": {},
        "complete": False,
        "rows_sha256": None,
    }


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a store of other settings, naming each with both values."""
    if "checkpoints" in found:
        held = ", ".join(entry["name"] for entry in found["checkpoints"])
        raise StoreMismatchError(f"{folder} holds stores of the checkpoints {held}; choose another output folder")
    was, now = _compared(found), _compared(wanted)
    follows = ("shard_plan",) if was.get("shard_rows") != now.get("shard_rows") else ()
    if differing := differences(was, now, but=follows):
        raise StoreMismatchError(
            f"{folder} holds a store made with other settings: {differing}; "
            "choose another output folder or repeat those settings"
        )


def _compared(manifest: dict[str, Any]) -> dict[str, Any]:
    columns = {"k" if name == GRADIENT else f"columns of {name}": k for name, k in manifest["arrays"].items()}
    plan = {key: manifest[key] for key in ("n", "dtype", "shard_plan")}
    return {**plan, **columns, **manifest["settings"]}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.output_error(folder, error) from error


def _refuse_foreign(folder: Path) -> None:
    """A folder with other things in it is not a place for a store; an interrupted start is."""
    ours = {LOCK, SHARDS, FEATURES}
    foreign = [item.name for item in folder.iterdir() if item.name not in ours and item.suffix != files.PARTIAL]
    if any(folder.glob(f"{SHARDS}/*.npy")):
        raise StoreCorruptError(f"{folder} has shards but no {MANIFEST}; delete the folder and make the store again")
    if foreign:
        raise StoreError(f"{folder} holds other files ({foreign[0]!r}) and no store; choose an empty or new folder")


def _forget_missing(folder: Path, manifest: dict[str, Any]) -> None:
    """A finished shard whose file was deleted is to be done again: the way to mend a damaged store."""
    for shard in manifest_shards(manifest):
        if not all((folder / name).is_file() for name in shard_files(manifest, shard)):
            manifest["shards"].pop(shard.rows_file, None)
    planned = len(manifest_shards(manifest))
    if len(manifest["shards"]) < planned or not (folder / ROWS).is_file():
        manifest |= {"complete": False, "rows_sha256": None}


def _remove_partial(folder: Path) -> None:
    for partial in (*folder.glob(f"*{files.PARTIAL}"), *folder.glob(f"{SHARDS}/*{files.PARTIAL}")):
        partial.unlink(missing_ok=True)
