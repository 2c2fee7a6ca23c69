"""Rows that are never picked because a column's value is high: a share of every group, or all above a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.errors import ConfigurationError
from spicerack.information.clusters import worst_of_groups
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.selectors.grouping import read_groups
from spicerack.selectors.rows import Rows

LOSS = "loss_mean"
GROUPS = "clusters:12"
OPTIONS = ("trim", "trim_above", "trim_by", "trim_groups")
"""Of `select`, and of the configuration's section: the arguments of `Trim`, in its order."""


@dataclass(frozen=True)
class Trim:
    """What is cut: the share of each group with the highest values, or every row above a value; or nothing.

    Attributes:
        share: in [0, 1), of each group.
        above: the highest value that stays.
        by: the column of values; default: `LOSS`.
        groups: as for `read_groups`; default: `GROUPS`.

    Raises:
        ConfigurationError: a value out of its range, both cuts, or a column or groups for no cut.
    """

    share: float = 0.0
    above: float | None = None
    by: str | None = None
    groups: Sequence[Any] | str | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.share) or not 0.0 <= self.share < 1.0:
            raise ConfigurationError(f"trim={self.share!r}, expected a share of at least 0 and below 1")
        if self.above is not None and (not _is_number(self.above) or not math.isfinite(self.above)):
            raise ConfigurationError(f"trim_above={self.above!r}, expected a number")
        if self.share and self.above is not None:
            raise ConfigurationError("trim cuts a share and trim_above what is above a value; give one of them")
        if not self.share and self.groups is not None:
            raise ConfigurationError("trim_groups say which rows a trim compares, and there is none; give trim=0.1")
        if not self and self.by is not None:
            raise ConfigurationError(
                "trim_by says what a trim compares rows by, and there is none; give trim=0.1 or trim_above=VALUE"
            )

    def __bool__(self) -> bool:
        return bool(self.share) or self.above is not None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Trim:
        """The trim that options of `select` ask for; those left out have their defaults."""
        share, *others = (options.get(name) for name in OPTIONS)
        return cls(0.0 if share is None else share, *others)

    @property
    def column(self) -> str:
        """The column whose highest values are cut."""
        return LOSS if self.by is None else self.by

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read: one, or none."""
        return (self.column,) if self else ()

    @property
    def reason(self) -> str:
        """Why a row is left out."""
        if self.above is None:
            return f"trimmed: a high {self.column} within its group"
        return f"trimmed: {self.column} above {self.above:g}"

    def cut(self, rows: Rows, values: FloatArray | None, eligible: BoolArray) -> tuple[IntArray, list[Choice]]:
        """Rows to be left out, and what is said of it.

        Args:
            rows: the pool's.
            values: (n,), or None for the store's column.
            eligible: rows that may be picked, (n,).

        A loss that is not finite counts as the highest; a row without another value stays.

        Raises:
            ConfigurationError: rows without such a column.
        """
        if not self:
            return np.zeros(0, dtype=np.int64), []
        values = rows.column(self.column) if values is None else values
        known = eligible if self.column == LOSS else eligible & np.isfinite(values)
        if self.above is None:
            worst = worst_of_groups(values, self._labels(rows), known, float(self.share))
            choice = f"of the highest {self.column} within their own groups ({self._named()})"
        else:
            worst = np.flatnonzero(known & ~(values <= self.above))
            choice = f"with {self.column} above it"
        reason = f"{worst.size} rows {choice} are left out"
        if unknown := int(np.count_nonzero(eligible & ~known)):
            reason += f"; {unknown} rows have no {self.column}, and stay"
        name, value = ("trim", self.share) if self.above is None else ("trim_above", self.above)
        return worst, [Choice(name, float(value), reason)]

    def _labels(self, rows: Rows) -> IntArray:
        names = read_groups(rows, GROUPS if self.groups is None else self.groups)
        return np.unique(np.array([str(name) for name in names], dtype=object), return_inverse=True)[1]

    def _named(self) -> str:
        if self.groups is None:
            return GROUPS
        return self.groups if isinstance(self.groups, str) else "the groups given"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
