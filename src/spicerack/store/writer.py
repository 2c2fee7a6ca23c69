"""Write a store, one shard at a time, so that whatever happens a rerun does only what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from spicerack.errors import StoreCorruptError, StoreError, StoreLockedError, StoreMismatchError
from spicerack.store import files
from spicerack.store.layout import (
    FORMAT_VERSION,
    LOCK,
    MANIFEST,
    ROW_SCHEMA,
    ROWS,
    Shard,
    manifest_shards,
    read_manifest,
    shard_plan,
)
from spicerack.store.reader import GradientStore


class StoreWriter:
    """The one process that writes a store; a context manager that holds the store's lock."""

    def __init__(self, path: Path, lock: FileLock, manifest: dict[str, Any]) -> None:
        """Use `create_or_resume`."""
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def create_or_resume(
        cls,
        path: str | Path,
        *,
        settings: Mapping[str, Any],
        n: int,
        k: int,
        shard_rows: int,
        dtype: str = "float16",
        checkpoints: Sequence[str] = ("checkpoint-0",),
    ) -> StoreWriter:
        """Begin a store, or go on with one made with the same settings.

        Args:
            path: the store's folder.
            settings: everything that fixes the rows; JSON values.
            n: rows of the pool.
            k: columns of a row.
            shard_rows: rows of a shard.
            dtype: of the stored unit rows, `float16` or `float32`.
            checkpoints: names, one folder of shards each.

        Raises:
            StoreLockedError: another process is writing it.
            StoreMismatchError: it was made with other settings, all of which are named.
            StoreCorruptError: a finished shard is truncated or altered. One that was deleted is done again.
            StoreError: the folder holds something else.
            OutputError: it cannot be written.
        """
        folder = Path(path)
        lock = _acquire(folder)
        try:
            manifest = read_manifest(folder)
            if manifest is None:
                _refuse_foreign(folder)
                manifest = _new_manifest(settings, n, k, shard_rows, dtype, checkpoints)
                for name in checkpoints:
                    _make_folder(folder / name)
                files.write_json(folder / MANIFEST, manifest)
            else:
                _compare(folder, manifest, _new_manifest(settings, n, k, shard_rows, dtype, checkpoints))
                _remove_partial(folder)
                _forget_missing(folder, manifest)
                GradientStore(folder, manifest).verify()
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, manifest)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def missing(self) -> list[Shard]:
        """Shards that are not done, in order."""
        return [shard for shard in manifest_shards(self.manifest) if shard.matrix_file not in self.manifest["shards"]]

    def write(self, shard: Shard, rows: np.ndarray, table: Mapping[str, Any]) -> None:
        """Store one shard's gradient rows and their part of the table; then, and only then, it is done.

        Args:
            shard: one of `missing()`.
            rows: (rows, k) float32, plain. A row that is not finite is stored as zeros with `finite` false.
            table: the columns of `ROW_SCHEMA` but `sketch_norm` and `finite`, each (rows,).

        Raises:
            OutputError: disk full or folder not writable; the shards already done are kept.
        """
        expected = (shard.stop - shard.start, self.manifest["k"])
        if rows.shape != expected:
            raise StoreError(f"shard {shard.index} got rows of shape {rows.shape}; expected {expected}")
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
        finite = np.isfinite(norms) & (norms <= np.finfo(np.float32).max)
        norms = np.where(finite, norms, 0.0).astype(np.float32)
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        unit = np.where(finite[:, None], rows, 0) * scale[:, None]
        stored = np.ascontiguousarray(unit, dtype=np.dtype(self.manifest["dtype"]).newbyteorder("<"))
        part = pa.table({**table, "sketch_norm": norms, "finite": finite}).select(ROW_SCHEMA.names).cast(ROW_SCHEMA)
        matrix_path, rows_path = self.path / shard.matrix_file, self.path / shard.rows_file
        files.write_atomically(matrix_path, lambda file: np.save(file, stored, allow_pickle=False))
        files.write_atomically(rows_path, lambda file: pq.write_table(part, file))
        self.manifest["shards"][shard.matrix_file] = {
            "sha256": files.sha256(matrix_path),
            "bytes": matrix_path.stat().st_size,
            "rows_sha256": files.sha256(rows_path),
        }
        files.write_json(self.path / MANIFEST, self.manifest)

    def finish(self) -> GradientStore:
        """Merge the shards' tables into rows.parquet and open the store.

        Raises:
            StoreError: shards are missing.
        """
        if missing := self.missing():
            raise StoreError(f"{self.path} cannot be finished: {len(missing)} shards are missing")
        if not self.manifest["complete"]:
            first = self.manifest["checkpoints"][0]["name"]
            parts = [self.path / s.rows_file for s in manifest_shards(self.manifest) if s.checkpoint == first]
            merged = pa.concat_tables([pq.read_table(part) for part in parts]).combine_chunks()
            files.write_atomically(self.path / ROWS, lambda file: pq.write_table(merged, file))
            self.manifest |= {"complete": True, "rows_sha256": files.sha256(self.path / ROWS)}
            files.write_json(self.path / MANIFEST, self.manifest)
        return GradientStore(self.path, self.manifest)


def _new_manifest(
    settings: Mapping[str, Any], n: int, k: int, shard_rows: int, dtype: str, checkpoints: Sequence[str]
) -> dict[str, Any]:
    plan = shard_plan(["any"], n, shard_rows)
    return {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "n": n,
        "k": k,
        "dtype": dtype,
        "columns": [{"name": "gradient", "start": 0, "stop": k}],
        "checkpoints": [{"name": name, "weight": 1.0 / len(checkpoints)} for name in checkpoints],
        "shard_plan": [{"start": shard.start, "stop": shard.stop} for shard in plan],
        "shards": {},
        "complete": False,
        "rows_sha256": None,
    }


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a store of other settings, naming each with both values."""
    keys = ("n", "k", "dtype", "checkpoints", "shard_plan")
    was = {**{key: found[key] for key in keys}, **found["settings"]}
    now = {**{key: wanted[key] for key in keys}, **wanted["settings"]}
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if "shard_rows" in names and "shard_plan" in names:
        names.remove("shard_plan")
    if names:
        differences = "; ".join(f"{name} was {_short(was.get(name))}, now {_short(now.get(name))}" for name in names)
        raise StoreMismatchError(
            f"{folder} holds a store made with other settings: {differences}; "
            "choose another output folder or repeat those settings"
        )


def _short(value: Any, width: int = 80) -> str:
    text = str(value)
    return text if len(text) <= width else f"{text[:width]}... ({len(value)} in all)"


def _acquire(folder: Path) -> FileLock:
    _make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StoreLockedError(
            f"another process is writing the store {folder}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise files.output_error(folder / LOCK, error) from error
    return lock


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.output_error(folder, error) from error


def _refuse_foreign(folder: Path) -> None:
    """A folder with other things in it is not a place for a store; an interrupted start is."""
    ours = {LOCK, MANIFEST + files.PARTIAL}
    foreign = [
        item.name for item in folder.iterdir() if item.name not in ours and not item.name.startswith("checkpoint-")
    ]
    if any(folder.glob("checkpoint-*/*.npy")):
        raise StoreCorruptError(f"{folder} has shards but no {MANIFEST}; delete the folder and make the store again")
    if foreign:
        raise StoreError(f"{folder} holds other files ({foreign[0]!r}) and no store; choose an empty or new folder")


def _forget_missing(folder: Path, manifest: dict[str, Any]) -> None:
    """A finished shard whose file was deleted is to be done again: the way to mend a damaged store."""
    for shard in manifest_shards(manifest):
        if not all((folder / name).is_file() for name in (shard.matrix_file, shard.rows_file)):
            manifest["shards"].pop(shard.matrix_file, None)
    planned = len(manifest_shards(manifest))
    if len(manifest["shards"]) < planned or not (folder / ROWS).is_file():
        manifest |= {"complete": False, "rows_sha256": None}


def _remove_partial(folder: Path) -> None:
    for partial in folder.rglob(f"*{files.PARTIAL}"):
        partial.unlink(missing_ok=True)
