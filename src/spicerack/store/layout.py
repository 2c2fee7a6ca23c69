"""What a store's folder holds, and the manifest that says so.

    manifest.json                     settings, shard plan, shard table with checksums; no times and no host names
    rows.parquet                      the table, one row per sample, once the pass is complete
    checkpoint-0/shard-00000.npy      (rows, k) unit rows; `numpy.load(..., mmap_mode="r")` reads it
    checkpoint-0/adam-00000.npy       the same of another named array, where there is one
    checkpoint-0/rows-00000.parquet   the shard's part of the table
    features/                         a store of the same samples without gradients: embeddings, losses, ratings
    .lock                             held while a process writes

Rows are stored at unit length in float16, bfloat16 or float32 (`numbers.py`), with their float32 norm in the table
(`norm_column`): half precision then neither overflows nor loses small gradients. A zero row has norm 0. A shard is done
when the manifest's table names it. Gradients at several checkpoints of a model are a folder of stores
(`collection.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from spicerack.errors import StoreCorruptError, StoreError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
ROWS = "rows.parquet"
LOCK = ".lock"
SHARDS = "checkpoint-0"
FEATURES = "features"
GRADIENT = "gradient"

TABLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("loss_mean", pa.float32()),
        ("loss_sum", pa.float32()),
        ("tokens", pa.int32()),
        ("trained_tokens", pa.int32()),
        ("cut_tokens", pa.int32()),
        ("gradient_norm", pa.float32()),
    ]
)
"""The table of a gradient store, but for what the writer adds: a norm for each array, and `finite`."""


@dataclass(frozen=True)
class Segment:
    """Columns `start` to `stop` of the gradient that belong to one tracked weight."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop`, in one file for each array and one for the table."""

    index: int
    start: int
    stop: int

    def file(self, array: str) -> str:
        """Path of an array's unit rows, from the store's folder."""
        return f"{SHARDS}/{'shard' if array == GRADIENT else array}-{self.index:05d}.npy"

    @property
    def rows_file(self) -> str:
        """Path of the shard's part of the table, from the store's folder."""
        return f"{SHARDS}/rows-{self.index:05d}.parquet"


def norm_column(array: str) -> str:
    """The table's column that holds the lengths of an array's rows."""
    return "sketch_norm" if array == GRADIENT else f"{array}_norm"


def shard_plan(n: int, shard_rows: int) -> list[dict[str, int]]:
    """Equal runs of rows, the last one shorter."""
    return [{"start": start, "stop": min(start + shard_rows, n)} for start in range(0, n, shard_rows)]


def manifest_shards(manifest: dict[str, Any]) -> list[Shard]:
    """The plan that a manifest records."""
    return [Shard(i, part["start"], part["stop"]) for i, part in enumerate(manifest["shard_plan"])]


def shard_files(manifest: dict[str, Any], shard: Shard) -> list[str]:
    """Every file of a shard."""
    return [*(shard.file(array) for array in manifest["arrays"]), shard.rows_file]


NEEDED = ("settings", "shards", "shard_plan", "n", "arrays", "columns", "complete", "rows_sha256")
"""What the manifest of a store names, whatever its state."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store's folder, or None where there is none.

    Raises:
        StoreCorruptError: it is not whole.
        StoreError: it is of a format that this version does not read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and "format_version" not in manifest:
            raise StoreError(_no_store(folder))
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            needed = ("checkpoints",) if "checkpoints" in manifest else NEEDED
            _ = [manifest[key] for key in needed]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"{path} is truncated or altered ({error}); delete the store {folder} and make it again"
        ) from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{folder} has store format {version}; this version of spicerack reads {FORMAT_VERSION}: make it again"
        )
    return manifest


def _no_store(folder: Path) -> str:
    """What to do where another manifest lies: of a run, a selection, a training."""
    inside = [folder / name for name in ("gradients", "features") if (folder / name / MANIFEST).is_file()]
    there = f"its store is {inside[0]}" if inside else "name a store's folder, or an empty one to make a store in"
    return f"{folder / MANIFEST} is not that of a store; {there}"


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """What an existing store was made with, or None where there is no store."""
    manifest = read_manifest(folder)
    return None if manifest is None or "settings" not in manifest else dict(manifest["settings"])
