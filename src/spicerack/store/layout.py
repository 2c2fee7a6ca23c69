"""What a store's folder holds, and the manifest that says so.

    manifest.json                     settings, shard plan, shard table with checksums; no times and no host names
    rows.parquet                      the table, one row per sample, once the pass is complete
    checkpoint-0/shard-00000.npy      (rows, k) unit rows, float16 or float32; `numpy.load(..., mmap_mode="r")` reads it
    checkpoint-0/rows-00000.parquet   the shard's part of the table
    .lock                             held while a process writes

Rows are stored at unit length, whatever their type, with their float32 norm in the table's `sketch_norm`: half
precision then neither overflows nor loses small gradients. A zero row has norm 0. A shard is done when the manifest's
table names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from spicerack.errors import StoreCorruptError, StoreError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ROWS = "rows.parquet"
LOCK = ".lock"

ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("loss_mean", pa.float32()),
        ("loss_sum", pa.float32()),
        ("tokens", pa.int32()),
        ("trained_tokens", pa.int32()),
        ("cut_tokens", pa.int32()),
        ("sketch_norm", pa.float32()),
        ("gradient_norm", pa.float32()),
        ("finite", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of one checkpoint, in one file."""

    checkpoint: str
    index: int
    start: int
    stop: int

    @property
    def matrix_file(self) -> str:
        """Path of the unit rows, from the store's folder."""
        return f"{self.checkpoint}/shard-{self.index:05d}.npy"

    @property
    def rows_file(self) -> str:
        """Path of the shard's part of the table, from the store's folder."""
        return f"{self.checkpoint}/rows-{self.index:05d}.parquet"


def shard_plan(checkpoints: list[str], n: int, shard_rows: int) -> list[Shard]:
    """Equal runs of rows, the last one shorter, for every checkpoint."""
    starts = range(0, n, shard_rows)
    return [Shard(c, i, start, min(start + shard_rows, n)) for c in checkpoints for i, start in enumerate(starts)]


def manifest_shards(manifest: dict[str, Any]) -> list[Shard]:
    """The plan that a manifest records."""
    plan = manifest["shard_plan"]
    return [Shard(c["name"], i, s["start"], s["stop"]) for c in manifest["checkpoints"] for i, s in enumerate(plan)]


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
        version = manifest["format_version"]
        _ = manifest["settings"], manifest["shards"], manifest["shard_plan"], manifest["n"], manifest["k"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"{path} is truncated or altered ({error}); delete the store {folder} and make it again"
        ) from error
    if version != FORMAT_VERSION:
        raise StoreError(f"{folder} has store format {version}; this version of spicerack reads {FORMAT_VERSION}")
    return manifest


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """What an existing store was made with, or None where there is no store."""
    manifest = read_manifest(folder)
    return None if manifest is None else dict(manifest["settings"])
