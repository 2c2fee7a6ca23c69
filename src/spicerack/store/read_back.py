"""Files that a run left, read back: what is cut off or altered is named, with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import DataError, StoreCorruptError, first_line

Read = TypeVar("Read")


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds; `remedy` is what to do where it is damaged."""
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")), remedy)


def read_table(path: Path, remedy: str) -> pa.Table:
    """A Parquet file's table."""
    return _read(path, lambda: pq.read_table(path), remedy)


def read_array(path: Path, remedy: str) -> np.ndarray:
    """A file of one numpy array."""
    return _read(path, lambda: np.asarray(np.load(path, allow_pickle=False)), remedy)


def read_indices(path: Path) -> np.ndarray:
    """Pool rows in the order picked, (s,) int64, of a file that a user may have named.

    Raises:
        DataError: no such file, or no row numbers in it.
    """
    try:
        indices = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read {path} ({first_line(error)}); name a selection's folder or an indices.npy of row numbers"
        ) from error
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or indices.dtype.kind not in "iu" or not indices.size:
        raise DataError(f"{path} does not hold a list of row numbers; expected the indices.npy of a selection")
    rows = indices.astype(np.int64)
    if rows.min() < 0:
        raise DataError(f"{path} names row {rows.min()}; expected row numbers from 0")
    return rows


def _read(path: Path, read: Callable[[], Read], remedy: str) -> Read:
    """Read a file.

    Raises:
        DataError: there is none.
        StoreCorruptError: it cannot be read, or is not what its name says.
    """
    try:
        return read()
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; {remedy}") from error
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise StoreCorruptError(f"{path} is truncated or altered ({first_line(error)}); {remedy}") from error
