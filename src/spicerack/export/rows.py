"""Write a selection: the selected rows as the pool has them, a score for every sample, the picks, the manifest.

selected.jsonl     the rows in the order picked, every column unchanged, ours behind them with the prefix spicerack_
selected.parquet   the same with the pool's own schema, where the rows make one
scores.parquet     every sample: id, source, score, rank, why it was left out, and the store's columns
indices.npy        pool rows in the order picked, int64
trace.parquet      gain, base, epsilon, conflict, score of each pick
manifest.json      every option with its resolved value, choices, fingerprints, versions, the certificate
config.yaml        repeats the run
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import DataError
from spicerack.store import files

if TYPE_CHECKING:
    from spicerack.data.records import Pool
    from spicerack.selectors.base import Selection

PREFIX = "spicerack_"


def write_selection(
    output_dir: Path,
    pool: Pool | None,
    selection: Selection,
    *,
    config_yaml: str,
    rows_table: pa.Table | None = None,
) -> dict[str, Path]:
    """Write everything a selection leaves; each file is whole or not there.

    Args:
        output_dir: an existing folder.
        pool: the rows selected from; without it, no selected rows are written.
        selection: what was selected.
        config_yaml: text of the configuration that repeats the run.
        rows_table: the store's table, n rows, whose columns go to `scores.parquet`.

    Returns:
        The files by name.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    written: dict[str, Path] = {}
    notes: list[str] = []

    def put(name: str, write: Callable[[IO[bytes]], object]) -> None:
        written[name] = output_dir / name
        files.write_atomically(written[name], write)

    if pool is None:  # an earlier selection's rows would not be this one's
        for name in ("selected.jsonl", "selected.parquet"):
            (output_dir / name).unlink(missing_ok=True)
    else:
        own = _own_columns(pool, selection)
        dropped = [column for column in pool.source.columns if column.startswith(PREFIX)]
        if dropped:
            notes.append(f"columns of an earlier selection were replaced: {', '.join(dropped)}")
        put("selected.jsonl", lambda file: _write_jsonl(file, pool, selection.indices, own))
        try:
            table = pool.source.arrow(selection.indices)
        except DataError as error:
            notes.append(f"no selected.parquet: {error}")
            (output_dir / "selected.parquet").unlink(missing_ok=True)  # an earlier run's would not be this one's
        else:
            put("selected.parquet", lambda file: pq.write_table(_with_columns(table, own), file))
    scores = _scores(selection, rows_table)
    put("scores.parquet", lambda file: pq.write_table(scores, file))
    put("indices.npy", lambda file: np.save(file, selection.indices, allow_pickle=False))
    trace = pa.table({name: selection.trace[name] for name in selection.trace.dtype.names or ()})
    put("trace.parquet", lambda file: pq.write_table(trace, file))
    put("config.yaml", lambda file: file.write(config_yaml.encode()))
    certificate = asdict(selection.certificate) if is_dataclass(selection.certificate) else None
    manifest = {**selection.manifest, "certificate": certificate, "notes": notes, "files": sorted(written)}
    put("manifest.json", lambda file: file.write((_json(manifest, indent=1) + "\n").encode()))
    return written


def _own_columns(pool: Pool, selection: Selection) -> dict[str, list[Any]]:
    """The columns that we add to the selected rows."""
    own: dict[str, list[Any]] = {
        "rank": list(range(len(selection.indices))),
        "index": selection.indices.tolist(),
        "id": [pool.id(int(i)) for i in selection.indices],
        "score": _finite(selection.scores[selection.indices]),
    }
    if "gain" in (selection.trace.dtype.names or ()):
        own["gain"] = _finite(selection.trace["gain"])
    return {PREFIX + name: values for name, values in own.items()}


def _write_jsonl(file: IO[bytes], pool: Pool, indices: np.ndarray, own: dict[str, list[Any]]) -> None:
    for rank, i in enumerate(indices.tolist()):
        row = {key: value for key, value in pool.source[i].items() if not str(key).startswith(PREFIX)}
        row |= {name: values[rank] for name, values in own.items()}
        file.write(_line(row))


def _line(row: dict[str, Any]) -> bytes:
    """JSON as it is read; half of a surrogate pair, which is no character, stays the escape that it came as."""
    try:
        return (json.dumps(row, ensure_ascii=False, default=_jsonable) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row, default=_jsonable) + "\n").encode()


def _with_columns(table: pa.Table, own: dict[str, list[Any]]) -> pa.Table:
    table = table.select([name for name in table.column_names if not name.startswith(PREFIX)])
    table = table.replace_schema_metadata(None)  # a data set's own notes on its columns would no longer be true
    for name, values in own.items():
        table = table.append_column(name, pa.array(values))
    return table


def _scores(selection: Selection, rows_table: pa.Table | None) -> pa.Table:
    n = len(selection.scores)
    rank = np.full(n, -1, dtype=np.int64)
    rank[selection.indices] = np.arange(len(selection.indices))
    reasons: list[str | None] = [None] * n
    for i, reason in zip(selection.excluded["index"].tolist(), selection.excluded["reason"].tolist(), strict=True):
        reasons[i] = str(reason)
    picked = rank >= 0
    columns = {
        "index": pa.array(np.arange(n)),
        "score": pa.array(selection.scores, mask=np.isnan(selection.scores)),
        "selected": pa.array(picked),
        "rank": pa.array(rank, mask=~picked),
        "excluded": pa.array(reasons, type=pa.string()),
    }
    table = pa.table(columns)
    for name in rows_table.column_names if rows_table is not None else ():
        table = table.append_column(name, rows_table.column(name))  # type: ignore[union-attr]
    return table


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_without_nan(value), indent=indent, sort_keys=True, ensure_ascii=False, default=_jsonable)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list | tuple) else value


def _jsonable(value: Any) -> Any:
    """What a Parquet pool may hold and JSON may not: times as ISO text, bytes as base64, decimals as text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise DataError(f"a {type(value).__name__} cannot be written as JSON; give the pool without that column")
