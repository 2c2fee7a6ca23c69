"""Rows that are never picked because a column's value is high: a share of every group, or all above a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        groups: as for `read_groups`; default: `GROUPS`. A share is cut of each; whatever is cut, rows that stay
            stand for the whole of theirs.

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
        if self:
            return
        for name, does in (("groups", "say which rows a trim compares"), ("by", "says what a trim compares rows by")):
            if getattr(self, name) is not None:
                raise ConfigurationError(f"trim_{name} {does}, and there is none; give trim=0.1 or trim_above=VALUE")

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


class Cut:
    """A trim of a pool: the rows that it leaves out, and what those that stay stand for.

    Args:
        trim: what is cut.
        rows: the pool's.
        values: of the trim's column, (n,); None where nothing is cut. A loss that is not finite counts as the highest;
            a row without another value stays.
        eligible: rows that may be picked, (n,).
        forced: rows that stay whatever their value is; they count in their groups.
    """

    def __init__(
        self, trim: Trim, rows: Rows, values: FloatArray | None, eligible: BoolArray, forced: Sequence[int] = ()
    ) -> None:
        self.trim, self.pool, self.before = trim, rows, eligible.copy()
        self.rows: IntArray = np.zeros(0, dtype=np.int64)
        self.choices: list[Choice] = []
        if values is not None:
            known = eligible if trim.column == LOSS else eligible & np.isfinite(values)
            self.rows = np.setdiff1d(self._highest(values, known), forced)
            self.choices = [self._told(int(np.count_nonzero(eligible & ~known)))]

    @cached_property
    def labels(self) -> IntArray:
        """Number of each row's group, (n,)."""
        names = read_groups(self.pool, GROUPS if self.trim.groups is None else self.trim.groups)
        return np.unique(np.array([str(name) for name in names], dtype=object), return_inverse=True)[1]

    def standing(self, left: BoolArray) -> FloatArray:
        """For how many rows each that is left stands, (n,): its group's number before over after; 0 for the others.

        A bound takes more of some kinds of samples than of others. With these weights a kind counts in the whole as it
        did, and what was cut does not (post-stratification; Holt and Smith 1979). A group of which nothing is left
        counts no more.

        Args:
            left: rows that may be picked after the cut, (n,).
        """
        if not self.rows.size:
            return left.astype(np.float64)
        before, after = (np.bincount(self.labels, weights=mask) for mask in (self.before, left))
        return np.where(left, (before / np.maximum(after, 1.0))[self.labels], 0.0)

    def _highest(self, values: FloatArray, known: BoolArray) -> IntArray:
        if self.trim.above is None:
            return worst_of_groups(values, self.labels, known, float(self.trim.share))
        return np.flatnonzero(known & ~(values <= self.trim.above))

    def _told(self, unknown: int) -> Choice:
        trim = self.trim
        groups = GROUPS if trim.groups is None else trim.groups if isinstance(trim.groups, str) else "the groups given"
        of = f"of the highest {trim.column} within their own groups ({groups})"
        reason = f"{self.rows.size} rows {of if trim.above is None else f'with {trim.column} above it'} are left out"
        if unknown:
            reason += f"; {unknown} rows have no {trim.column}, and stay"
        name, value = ("trim", trim.share) if trim.above is None else ("trim_above", trim.above)
        return Choice(name, float(value), reason)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
