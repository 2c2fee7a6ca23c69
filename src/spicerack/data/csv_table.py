"""A CSV file as an Arrow table: texts stay texts, and what is broken is named by its line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow

from spicerack.errors import DataError, first_line

BLOCK = 1 << 26  # bytes; a row must fit into one, and a column's type is told from the first


def read_csv(path: Path, texts: Sequence[str]) -> pa.Table:
    """Read a table. Arrow tells numbers from texts, but what a format reads as a text stays one: "007", an answer 3.

    Args:
        path: the file, UTF-8, its first line the names of the columns.
        texts: columns that are texts whatever they look like.

    Raises:
        DataError: a quote that is never closed (Arrow would take all that follows for one value), or rows of another
            length than the header; the line or row is named.
    """
    _check_quotes(path)
    try:
        return _read(path, texts, threads=True)
    except pa.ArrowInvalid:
        try:
            return _read(path, texts, threads=False)  # by one thread it knows which row it is at
        except pa.ArrowInvalid as error:
            raise DataError(f"cannot read {path}: {first_line(error)}") from error


def _read(path: Path, texts: Sequence[str], *, threads: bool) -> pa.Table:
    return arrow.read_csv(
        path,
        read_options=arrow.ReadOptions(block_size=BLOCK, use_threads=threads),
        parse_options=arrow.ParseOptions(newlines_in_values=True),
        convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(sorted(texts), pa.string())),
    )


def _check_quotes(path: Path) -> None:
    """Where the quotes do not pair up, read on to see whether a value has no end."""
    with open(path, "rb") as file:
        quotes = sum(block.count(b'"') for block in iter(lambda: file.read(BLOCK), b""))
    if quotes % 2 == 0:
        return
    limit, line = csv.field_size_limit(path.stat().st_size + 1), 1
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as text:
            rows = csv.reader(text, strict=True)
            for _ in rows:
                line = rows.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise DataError(
                f"{path}:{line}: a quote is opened in this row and never closed; close it, or double a quote that is "
                "part of the text"
            ) from error
    finally:
        csv.field_size_limit(limit)
