"""JSON rows: a file of JSON Lines kept as offsets, and rows in memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa


class JsonLines:
    """A JSON Lines file, kept as the offset of every row."""

    kind = "jsonl"

    def __init__(self, path: Path) -> None:
        """Read the file once: every line is parsed, so that a broken one is found now and not in mid-run."""
        self.name = path.name
        self._path = path
        offsets, lines = array("q"), array("q")  # eight bytes a row, where a list of ints takes forty
        columns: dict[str, None] = {}
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
        return hash_rows(self._rows)

    def arrow(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """The rows, missing keys as nulls."""
        return table_of([self._rows[int(i)] for i in indices], self.name)


def read_array(path: Path) -> Records:
    """A .json file: an array of objects.

    Raises:
        DataError: it holds anything else.
    """
    rows = parse_json(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}; expected an array of objects, [{{...}}, ...]")
    return Records(rows, path.name, "json")


def parse_json(text: bytes, where: str) -> Any:
    """Parse one JSON text.

    Raises:
        DataError: not JSON or not UTF-8, with the place; nested too deep, or with a number too long, for Python.
    """
    try:
        return json.loads(text.decode("utf-8-sig").rstrip())  # a text that is cut ends where it was cut
    except json.JSONDecodeError as error:
        line, hint = "", ""
        if b"\n" in text.strip():  # a whole file, not a line of one
            line = f":{error.lineno}"
            hint = "; one object a line is JSON Lines, name it .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{where}{line} is not valid JSON: {error.msg} at column {error.colno}{hint}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep to be read; expected an object of a few levels") from error
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {str(error).split(';')[0]}") from error


def table_of(rows: Sequence[dict[str, Any]], name: str) -> pa.Table:
    """An Arrow table with every key of any row as a column.

    Raises:
        DataError: a column mixes types.
    """
    import pyarrow as pa

    columns = dict.fromkeys(key for row in rows for key in row)
    arrays = {}
    for column in columns:
        try:
            arrays[column] = pa.array([row.get(column) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(f"column {column!r} of {name} mixes types: {first_line(error)}") from error
        except UnicodeEncodeError as error:
            raise DataError(
                f"column {column!r} of {name} has half of a surrogate pair, which is no character and fits no table"
            ) from error
    return pa.table(arrays)


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the canonical JSON of rows, one a line, in hex."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row) + b"\n")
    return digest.hexdigest()


def canonical_json(row: Mapping[str, Any]) -> bytes:
    """The JSON of a row with its keys sorted; half of a surrogate pair, which JSON lets pass, is kept."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "surrogatepass")
