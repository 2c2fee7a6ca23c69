"""What a run's folder says, read back: manifest, scores, picks, trace, and rows if they were written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spicerack.config import RunConfig, load_config
from spicerack.errors import DataError, StoreCorruptError
from spicerack.store.read_back import read_array, read_json, read_table

REMEDY = "select again: `spicerack select` on the run's gradients, with its options, writes the same files"
"""What to do where a file of a selection is damaged."""


@dataclass(frozen=True)
class RunFolder:
    """A selection on disk.

    Attributes:
        path: its folder.
        manifest: options, choices, certificate, versions.
        config: the configuration that repeats it.
        scores: a row for every pool row.
        indices: pool rows in the order picked, (s,) int64.
        trace: a column of (s,) for everything recorded of a pick.
        cost: of the gradient pass, where it is there.
    """

    path: Path
    manifest: Mapping[str, Any]
    config: RunConfig
    scores: pa.Table
    indices: np.ndarray
    trace: Mapping[str, np.ndarray]
    cost: Mapping[str, Any] | None

    @classmethod
    def open(cls, folder: str | Path) -> RunFolder:
        """Read a run's or a selection's folder.

        Raises:
            DataError: it is none, or a file of it is missing.
            StoreCorruptError: a file of it is truncated or altered, or two do not belong together.
        """
        path = Path(folder)
        missing = [
            name
            for name in ("manifest.json", "config.yaml", "scores.parquet", "indices.npy", "trace.parquet")
            if not (path / name).is_file()
        ]
        if missing:
            raise DataError(
                f"{path} is no run's folder: it has no {', '.join(missing)}; name the output folder of `spicerack run` "
                "or `spicerack select`"
            )
        trace = read_table(path / "trace.parquet", REMEDY)
        cost = path / "cost.json"
        manifest = read_json(path / "manifest.json", REMEDY)
        if "method" not in manifest:
            raise StoreCorruptError(f"{path / 'manifest.json'} is not that of a selection; {REMEDY}")
        return cls(
            path,
            manifest,
            load_config(path / "config.yaml"),
            read_table(path / "scores.parquet", REMEDY),
            read_array(path / "indices.npy", REMEDY),
            {name: trace.column(name).to_numpy() for name in trace.column_names},
            read_json(cost, REMEDY) if cost.is_file() else None,
        )._checked()

    def _checked(self) -> RunFolder:
        """Itself, once its files belong together."""
        indices, rows = self.indices, self.scores.num_rows
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or (indices < 0).any():
            raise StoreCorruptError(f"{self.path / 'indices.npy'} does not hold row numbers; {REMEDY}")
        if len(indices) and indices.max() >= rows:
            raise StoreCorruptError(
                f"{self.path / 'indices.npy'} names row {indices.max()}, scores.parquet has {rows} rows; {REMEDY}"
            )
        for name, values in self.trace.items():
            if len(values) != len(indices):
                raise StoreCorruptError(
                    f"{self.path / 'trace.parquet'} has {len(values)} values of {name}, indices.npy {len(indices)} "
                    f"picks; {REMEDY}"
                )
        return self

    def column(self, name: str) -> np.ndarray | None:
        """A column of the scores' table, (n,), or None."""
        if name not in self.scores.column_names:
            return None
        return np.asarray(self.scores.column(name).to_numpy(zero_copy_only=False))

    def rows(self, ranks: list[int]) -> dict[int, dict[str, Any]]:
        """Picked rows by rank, where `selected.jsonl` is there."""
        path = self.path / "selected.jsonl"
        if not path.is_file():
            return {}
        wanted = set(ranks)
        with open(path, encoding="utf-8") as file:
            lines = itertools.islice(file, max(wanted, default=-1) + 1)
            return {rank: json.loads(line) for rank, line in enumerate(lines) if rank in wanted}
