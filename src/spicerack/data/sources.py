"""Rows as the user has them, unchanged, whatever they are kept in.

JSON Lines are read by offset, so a pool of millions costs eight bytes a row; Arrow tables are memory-mapped or the
caller's own. A source knows where each of its rows stands, so that an error can say so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from spicerack.config import DataConfig
from spicerack.errors import DataError

if TYPE_CHECKING:
    import datasets

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


class Source(Protocol):
    """A pool's rows, in order."""

    name: str
    kind: str
    columns: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def where(self, i: int) -> str:
        """Where row i stands, for an error: `pool.jsonl:17`, `row 16 of train.parquet`."""

    def fingerprint(self) -> str:
        """SHA-256 of the content, in hex, whatever the path."""

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows of `indices` as an Arrow table.

        Raises:
            DataError: a column mixes types.
        """


def open_source(pool: str | Path | list[dict[str, Any]] | datasets.Dataset, config: DataConfig) -> Source:
    """Open a pool.

    Args:
        pool: a .jsonl, .json, .csv or .parquet file, an Arrow folder, a hub id, a `datasets.Dataset`, or a list of
        dicts.
        config: split, subset and revision of a hub id or a folder of several splits.

    Raises:
        DataError: not there, of no known kind, empty, or broken (the file and line are named).
    """
    source = _open(pool, config)
    if len(source) == 0:
        raise DataError(f"the pool {source.name} is empty; expected at least one row")
    return source


def _open(pool: str | Path | list[dict[str, Any]] | datasets.Dataset, config: DataConfig) -> Source:
    if isinstance(pool, list):
        return Records(pool, "list of dicts", "list")
    if not isinstance(pool, str | Path):
        return _dataset(pool, "Dataset", "dataset", config)
    path = Path(pool)
    if path.is_dir():
        return _arrow_folder(path, config)
    if path.suffix in SUFFIXES or path.exists():
        return _file(path)
    if HUB_ID.match(str(pool)):
        return _hub(str(pool), str(pool), config)
    raise DataError(f"no such file: {pool}; expected a file ({', '.join(SUFFIXES)}), an Arrow folder or a hub id")


def _file(path: Path) -> Source:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        if path.suffix == ".jsonl":
            return JsonLines(path)
        if path.suffix == ".json":
            return _json_array(path)
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return ArrowRows(pq.read_table(path, memory_map=True), path.name, "parquet")
        if path.suffix == ".csv":
            from pyarrow import csv

            options = csv.ParseOptions(newlines_in_values=True)
            return ArrowRows(csv.read_csv(path, parse_options=options), path.name, "csv")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    raise DataError(f"{path} is of no known kind; expected {', '.join(SUFFIXES)}, an Arrow folder or a hub id")


class JsonLines:
    """A JSON Lines file, kept as the offset of every row."""

    kind = "jsonl"

    def __init__(self, path: Path) -> None:
        """Read the file once: every line is parsed, so that a broken one is found now and not in mid-run."""
        self.name = path.name
        self._path = path
        offsets, lines, columns = [], [], {}
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = parse_json(line, f"{path}:{number}")
                    if not isinstance(row, dict):
                        raise DataError(f"{path}:{number} holds a {type(row).__name__}; expected an object, {{...}}")
                    offsets.append(offset)
                    lines.append(number)
                    columns.update(dict.fromkeys(row))
                    digest.update(line.strip() + b"\n")
                offset += len(line)
        self.columns = tuple(columns)
        self._offsets = np.array(offsets, dtype=np.int64)
        self._lines = np.array(lines, dtype=np.int64)
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, i: int) -> dict[str, Any]:
        with open(self._path, "rb") as file:
            file.seek(int(self._offsets[i]))
            row: dict[str, Any] = parse_json(file.readline(), self.where(i))
        return row

    def where(self, i: int) -> str:
        """File and line."""
        return f"{self._path}:{self._lines[i]}"

    def fingerprint(self) -> str:
        """Of the lines that are not blank."""
        return self._fingerprint

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows, missing keys as nulls."""
        return table_of([self[int(i)] for i in indices], self.name)


class Records:
    """Rows in memory."""

    def __init__(self, rows: list[dict[str, Any]], name: str, kind: str) -> None:
        """Take the rows as they are.

        Raises:
            DataError: one of them is not a dict.
        """
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise DataError(f"row {i} of {name} is a {type(row).__name__}; expected an object with named fields")
        self.name, self.kind = name, kind
        self.columns = tuple(dict.fromkeys(key for row in rows for key in row))
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._rows[i]

    def where(self, i: int) -> str:
        """Row and name."""
        return f"row {i} of {self.name}"

    def fingerprint(self) -> str:
        """Of the rows' JSON."""
        return _hash_rows(self._rows)

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows, missing keys as nulls."""
        return table_of([self._rows[int(i)] for i in indices], self.name)


class ArrowRows:
    """An Arrow table: Parquet, CSV, an Arrow folder, a hub data set."""

    def __init__(self, table: pa.Table, name: str, kind: str) -> None:
        """Take the table as it is."""
        self.name, self.kind = name, kind
        self.columns = tuple(table.column_names)
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table.slice(i, 1).to_pylist()[0]
        return row

    def where(self, i: int) -> str:
        """Row and name."""
        return f"row {i} of {self.name}"

    def fingerprint(self) -> str:
        """Of the rows' JSON, so that a Parquet and an Arrow copy of one pool agree."""
        batches = self._table.to_batches(max_chunksize=1024)
        return _hash_rows(row for batch in batches for row in batch.to_pylist())

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows with their own schema."""
        return self._table.take(pa.array(np.asarray(indices, dtype=np.int64)))


def parse_json(line: bytes, where: str) -> Any:
    """Parse one JSON text.

    Raises:
        DataError: not JSON or not UTF-8, with the place.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error


def table_of(rows: Sequence[dict[str, Any]], name: str) -> pa.Table:
    """An Arrow table with every key of any row as a column.

    Raises:
        DataError: a column mixes types.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    arrays = {}
    for column in columns:
        try:
            arrays[column] = pa.array([row.get(column) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(f"column {column!r} of {name} mixes types: {str(error).splitlines()[0]}") from error
    return pa.table(arrays)


def _hash_rows(rows: Any) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def _json_array(path: Path) -> Records:
    text = path.read_bytes()
    try:
        rows = json.loads(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON Lines, name it .jsonl" if error.msg == "Extra data" else ""
        raise DataError(
            f"{path}:{error.lineno} is not valid JSON: {error.msg} at column {error.colno}{hint}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}; expected an array of objects, [{{...}}, ...]")
    return Records(rows, path.name, "json")


def _arrow_folder(path: Path, config: DataConfig) -> ArrowRows:
    import datasets

    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _dataset(datasets.load_from_disk(str(path)), path.name, "arrow", config)
    return _hub(str(path), path.name, config)  # a hub data set's own layout, copied or cloned


def _hub(location: str, name: str, config: DataConfig) -> ArrowRows:
    import datasets

    try:
        loaded = datasets.load_dataset(location, config.subset, split=config.split, revision=config.revision)
    except Exception as error:  # the loader raises many kinds; each is a pool that cannot be had
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DataError(f"no such file, and the data set {location!r} cannot be loaded: {lines[0]}") from error
    return _dataset(loaded, f"{name}@{config.revision}" if config.revision else name, "hub", config)


def _dataset(loaded: Any, name: str, kind: str, config: DataConfig) -> ArrowRows:
    if isinstance(loaded, dict):
        if config.split not in loaded:
            raise DataError(f"{name} has no split {config.split!r}; it has {', '.join(loaded)}; name one with split")
        loaded = loaded[config.split]
    if not hasattr(loaded, "flatten_indices"):
        kinds = "a path, a hub id, a datasets.Dataset or a list of dicts"
        raise DataError(f"a pool of type {type(loaded).__name__} cannot be read; expected {kinds}")
    flat = loaded.flatten_indices() if loaded._indices is not None else loaded
    return ArrowRows(flat.data.table, name, kind)
