"""A pool: a source, the format its rows are read as, and a stable id for every row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice, DataConfig
from spicerack.data.fields import without_nulls
from spicerack.data.formats import Detection, Sample, convert_row, detect_format, get_format
from spicerack.data.json_rows import canonical_json
from spicerack.data.sources import Source, open_source
from spicerack.data.unicode import writable
from spicerack.errors import DataError

if TYPE_CHECKING:
    import datasets

JSON_KINDS = ("jsonl", "json", "list")  # where a null is what the user wrote; a table puts one for every absent key


class Pool:
    """Rows, the samples they mean, their ids and their sources."""

    def __init__(
        self, source: Source, detection: Detection, ids: list[str], sources: list[str], id_choice: Choice | None = None
    ) -> None:
        """Use `load_pool`."""
        self.source = source
        self.format = detection.format
        self.detection_reason = detection.reason
        self.ids = ids
        self.sources = sources
        self.choices = [Choice("format", detection.format, detection.reason), *filter(None, [id_choice])]

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, i: int) -> Sample:
        """What row i means.

        Raises:
            FormatError: the row has not what its format needs.
        """
        row = self.source[i]
        if self.source.kind not in JSON_KINDS:
            row = without_nulls(row)
        return convert_row(row, self.format, where=self.where(i))

    def id(self, i: int) -> str:
        """Stable id of row i."""
        return self.ids[i]

    def where(self, i: int) -> str:
        """Where row i stands, for an error."""
        return self.source.where(i)

    def fingerprint(self) -> str:
        """SHA-256 of the content, in hex."""
        return self.source.fingerprint()


def load_pool(pool: str | Path | list[dict[str, Any]] | datasets.Dataset, config: DataConfig) -> Pool:
    """Open a pool, settle its format, and name its rows.

    An id is the row's `id_column`; by default its `id`, if every row has one and no two are equal; else the first 16
    hex digits of the SHA-256 of its content, with `-1`, `-2`, ... on exact duplicates in their order.

    Raises:
        DataError: the pool cannot be read, a named column is missing, or two rows have one id.
        FormatError: `auto` recognizes no format.
    """
    source = open_source(pool, config)
    if config.format == "auto":
        detection = detect_format(source)
    else:
        detection = Detection(get_format(config.format).name, "as stated")
    ids, id_choice = _ids(source, config.id_column)
    sources = _sources(source, config.source_column)
    for i, names in enumerate(zip(ids, sources, strict=True)):
        for name in names:
            writable(name, source.where(i))
    return Pool(source, detection, ids, sources, id_choice)


def count_duplicates(pool: Pool) -> int:
    """How many rows mean exactly what an earlier row means, whatever their ids and other columns."""
    counts = Counter(
        hashlib.sha256(repr(pool.sample(i)).encode("utf-8", "surrogatepass")).digest() for i in range(len(pool))
    )
    return sum(count - 1 for count in counts.values())


def _ids(source: Source, column: str | None) -> tuple[list[str], Choice | None]:
    """An id a row, and what is said of it where the rows' own cannot serve."""
    if column is not None:
        ids = [str(value) for value in _column(source, column, "id_column")]
        seen: dict[str, int] = {}
        for i, value in enumerate(ids):
            if value in seen:
                both = f"{source.where(seen[value])} and {source.where(i)}"
                raise DataError(f"{both} have the same {column} {value!r}; ids must be unique, name another id_column")
            seen[value] = i
        return ids, None
    if "id" not in source.columns:
        return _content_ids(source), None
    own = [source[i].get("id") for i in range(len(source))]
    ids = [str(value) for value in own]
    first: dict[str, int] = {}
    for i, found in enumerate(own):
        if found is None or first.setdefault(ids[i], i) != i:
            fault = "has none" if found is None else f"has the {found!r} of {source.where(first[ids[i]])}"
            reason = f"the column id names no row for sure: {source.where(i)} {fault}"
            return _content_ids(source), Choice("ids", "hashes of the content", reason)
    return ids, None


def _content_ids(source: Source) -> list[str]:
    seen: Counter[str] = Counter()
    ids = []
    for i in range(len(source)):
        content = content_hash(source[i])
        ids.append(f"{content}-{seen[content]}" if seen[content] else content)
        seen[content] += 1
    return ids


def content_hash(row: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a row's canonical JSON."""
    return hashlib.sha256(canonical_json(row)).hexdigest()[:16]


def _sources(source: Source, column: str | None) -> list[str]:
    if column is None and "source" not in source.columns:
        return [source.name] * len(source)
    if column is None:
        values = [source[i].get("source") for i in range(len(source))]
        return [source.name if value is None else str(value) for value in values]
    return [str(value) for value in _column(source, column, "source_column")]


def _column(source: Source, column: str, option: str) -> list[Any]:
    values = []
    for i in range(len(source)):
        row = source[i]
        if row.get(column) is None:
            found = ", ".join(row)
            raise DataError(f"{source.where(i)} has no {column!r}, which {option} names; found {found}")
        values.append(row[column])
    return values
