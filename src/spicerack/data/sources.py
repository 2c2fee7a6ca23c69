"""Rows as the user has them, unchanged, whatever they are kept in.

JSON Lines are read by offset, so a pool of millions costs eight bytes a row; Arrow tables are memory-mapped or the
caller's own. A source knows where each of its rows stands, so that an error can say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from spicerack.config import DataConfig
from spicerack.data.csv_table import read_csv
from spicerack.data.fields import EXTRAS, OUTPUTS, TURNS
from spicerack.data.json_rows import JsonLines, Records, hash_rows, read_array
from spicerack.errors import DataError, first_line

if TYPE_CHECKING:
    import datasets

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
HUB_ID = re.compile(r"^([A-Za-z0-9][\w.-]*/[\w.-]+|[\w-]+)$")  # a name without an owner has no suffix, or it is a file
CSV_TEXTS = ("id", "source", "instruction", *EXTRAS, *OUTPUTS, "prompt", "text", "system", *TURNS)


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
    if path.suffix in SUFFIXES + COMPRESSED or path.exists():
        return _file(path, config)
    if HUB_ID.match(str(pool)):
        return _hub(str(pool), str(pool), config)
    raise DataError(f"no such file: {pool}; expected a file ({', '.join(SUFFIXES)}), an Arrow folder or a hub id")


def _file(path: Path, config: DataConfig) -> Source:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.suffix in COMPRESSED:
        raise DataError(f"{path} is compressed, which is not supported; unpack it first")
    try:
        if path.suffix == ".jsonl":
            return JsonLines(path)
        if path.suffix == ".json":
            return read_array(path)
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return ArrowRows(pq.read_table(path, memory_map=True), path.name, "parquet")
        if path.suffix == ".csv":
            named = filter(None, (config.id_column, config.source_column))
            return ArrowRows(read_csv(path, (*CSV_TEXTS, *named)), path.name, "csv")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path}: {first_line(error)}") from error
    raise DataError(f"{path} is of no known kind; expected {', '.join(SUFFIXES)}, an Arrow folder or a hub id")


class ArrowRows:
    """An Arrow table: Parquet, CSV, an Arrow folder, a hub data set."""

    def __init__(self, table: pa.Table, name: str, kind: str) -> None:
        """Take the table as it is.

        Raises:
            DataError: two columns have one name.
        """
        self.name, self.kind = name, kind
        self.columns = tuple(table.column_names)
        if twice := sorted({column for column in self.columns if self.columns.count(column) > 1}):
            raise DataError(f"{name} has two columns named {', '.join(map(repr, twice))}; rename one of each")
        self._table = table
        decoders = {field.name: _decoder(field.type) for field in table.schema}
        self._decoders = {name: decode for name, decode in decoders.items() if decode is not None}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._decoded(self._table.slice(i, 1).to_pylist()[0])

    def where(self, i: int) -> str:
        """Row and name."""
        return f"row {i} of {self.name}"

    def fingerprint(self) -> str:
        """Of the rows' JSON, so that a Parquet and an Arrow copy of one pool agree."""
        batches = self._table.to_batches(max_chunksize=1024)
        return hash_rows(self._decoded(row) for batch in batches for row in batch.to_pylist())

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows with their own schema."""
        return self._table.take(pa.array(np.asarray(indices, dtype=np.int64)))

    def _decoded(self, row: dict[str, Any]) -> dict[str, Any]:
        for name, decode in self._decoders.items():
            row[name] = decode(row[name])
        return row


def _decoder(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What turns a value of a type with Arrow's JSON somewhere in it into objects; None where there is no JSON.

    `datasets` keeps values of mixed types (the arguments of tool calls, often whole messages) as JSON texts.
    """
    if getattr(kind, "extension_name", None) == "arrow.json":
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _decoder(kind.value_type)
        return inner and (lambda values: None if values is None else [inner(value) for value in values])
    if pa.types.is_struct(kind):
        decoders = {field.name: _decoder(field.type) for field in kind}
        fields = {name: decode for name, decode in decoders.items() if decode is not None}
        if fields:
            return lambda value: value and {k: fields[k](v) if k in fields else v for k, v in value.items()}
    return None


def _arrow_folder(path: Path, config: DataConfig) -> ArrowRows:
    import datasets

    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as error:  # the loader raises many kinds; each is a folder that is damaged
            raise DataError(f"cannot read the Arrow folder {path}: {first_line(error)}; save it again") from error
        return _dataset(loaded, path.name, "arrow", config)
    return _hub(str(path), path.name, config)  # a hub data set's own layout, copied or cloned


def _hub(location: str, name: str, config: DataConfig) -> ArrowRows:
    import datasets

    try:
        loaded = datasets.load_dataset(location, config.subset, split=config.split, revision=config.revision)
    except Exception as error:  # the loader raises many kinds; each is a pool that cannot be had
        raise DataError(f"no such file, and the data set {location!r} cannot be loaded: {first_line(error)}") from error
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
