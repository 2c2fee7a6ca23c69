"""What a finished cell trained on and what it found, and what is known of the pool that it picked from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.compare.bench import SAMPLES, of_the_cell, read_result
from spicerack.compare.plan import Cell
from spicerack.errors import DataError
from spicerack.store.read_back import read_table

if TYPE_CHECKING:
    from spicerack.compare.selections import Picked
    from spicerack.data.records import Pool
    from spicerack.store.reader import GradientStore

FALSE = ("", "0", "false", "no", "none")


@dataclass(frozen=True)
class PoolFacts:
    """What is known of every pool row: source, tokens, trained tokens, and the flag, None where none was named."""

    sources: np.ndarray
    tokens: np.ndarray
    trained_tokens: np.ndarray
    flagged: np.ndarray | None

    @classmethod
    def of(cls, pool: Pool, store: GradientStore, flag_column: str | None) -> PoolFacts:
        """Read them.

        Raises:
            DataError: no row has the flag's column.
        """
        flagged = None if flag_column is None else read_flags(pool, flag_column)
        sources = np.asarray(pool.sources, dtype=object)
        return cls(sources, store.column("tokens"), store.column("trained_tokens"), flagged)

    def of_all(self) -> dict[str, Any]:
        """What the table says of the whole pool."""
        return self.of_rows(np.arange(len(self.sources)))

    def of_rows(self, rows: np.ndarray) -> dict[str, Any]:
        """What the table says of some rows."""
        return {
            "samples": len(rows),
            "tokens": int(self.tokens[rows].sum()),
            "trained_tokens": int(self.trained_tokens[rows].sum()),
            "flagged": None if self.flagged is None or not len(rows) else float(self.flagged[rows].mean()),
            "mix": dict(sorted(Counter(map(str, self.sources[rows])).items())),
        }


def read_flags(pool: Pool, column: str) -> np.ndarray:
    """Which rows a column marks, (n,) bool: neither absent, nor zero, nor empty, nor the words false and no.

    Raises:
        DataError: no row has the column.
    """
    values = [pool.source[i].get(column) for i in range(len(pool))]
    if all(value is None for value in values):
        found = ", ".join(map(str, pool.source[0]))
        raise DataError(f"no row of {pool.source.name} has the column {column!r} of --flag-column; found {found}")
    return np.array([value is not None and str(value).strip().lower() not in FALSE for value in values])


@dataclass(frozen=True)
class Outcome:
    """A finished cell; all that a summary needs of it.

    Attributes:
        cell: which.
        result: what stands in its `result.json`.
        selection: facts of the rows that it trained on, and the `seconds` of picking them.
        picks: these rows, (s,) int64, in the order picked.
        losses: of every held-out row, (m,) float64, in nats.
        groups: the group of every held-out row, (m,); None where nothing is grouped.
        origin: whose gradients and which target the picks were made by, see `origins`; None in older tables.
    """

    cell: Cell
    result: Mapping[str, Any]
    selection: Mapping[str, Any]
    picks: np.ndarray
    losses: np.ndarray
    groups: tuple[str, ...] | None
    origin: Mapping[str, Any] | None = None

    @classmethod
    def read(
        cls, cell: Cell, picked: Picked, folder: Path, facts: PoolFacts, origin: Mapping[str, Any] | None = None
    ) -> Outcome:
        """From the cell's folder and its selection."""
        table = read_table(folder / SAMPLES, "delete the cell's folder, and compare again: that cell alone is run anew")
        groups = tuple(table.column("group").to_pylist()) if "group" in table.column_names else None
        selection = {**facts.of_rows(picked.indices), "seconds": picked.seconds}
        losses = table.column("loss").to_numpy()
        result = {**(read_result(folder) or {}), **of_the_cell(cell)}  # its budget in the words of this comparison
        return cls(cell, result, selection, picked.indices, losses, groups, origin)


@dataclass(frozen=True)
class Cells:
    """Finished cells of one pool, facts of all its rows, and the seconds of the passes that the cells share."""

    outcomes: Sequence[Outcome]
    pool: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
