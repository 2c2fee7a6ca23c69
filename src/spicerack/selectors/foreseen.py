"""What a selection asks of the rows, checked before a pass, as far as a pool and its labels tell what is to come.

Ids, sources and token counts are those of the pool. What only a pass can tell (clusters of gradients, losses, rows that
turn out not finite) is left to `select`; whatever is refused here would have been refused there, after the pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.errors import BudgetError, ConfigurationError
from spicerack.information.clusters import share_of
from spicerack.information.matrix import BoolArray, IntArray
from spicerack.information.room import Room
from spicerack.selectors.base import MethodOptions, Selector
from spicerack.selectors.budget import BudgetLike, parse_budget, resolve
from spicerack.selectors.dedup import check_dedup
from spicerack.selectors.devices import require_device
from spicerack.selectors.grouping import count_clusters
from spicerack.selectors.quotas import PROPORTIONAL, QuotaLike, read_quotas
from spicerack.selectors.reading import check_groups, read_fixed, read_tokens
from spicerack.selectors.trim import GROUPS, LOSS, Trim


class Foreseen:
    """The rows of a pool as a store will have them.

    Args:
        labels: columns that are known, by name: `id`, `source`, `tokens` and `trained_tokens` at least; (n,) each.
        late: names of the columns that a pass may add.
        source: where the rows are from, for an error.
    """

    def __init__(self, labels: Mapping[str, Sequence[Any]], late: Collection[str], source: str) -> None:
        self.labels, self.late = labels, late
        self.store: Any = source
        self.n = len(labels["id"])

    @cached_property
    def included(self) -> BoolArray:
        """Mask of the rows that may be picked, (n,), as far as is known: some may turn out not finite."""
        return np.asarray(self.labels["trained_tokens"]) > 0

    @cached_property
    def excluded(self) -> list[tuple[int, str]]:
        """The others, each with its reason."""
        return [(int(i), "no trained tokens") for i in np.flatnonzero(~self.included)]

    def label(self, name: str) -> npt.NDArray[Any]:
        """A known column, (n,), text included."""
        return np.asarray(self.labels[name], dtype=object)

    def tokens(self) -> IntArray:
        """Tokens of each row, (n,)."""
        return np.asarray(self.labels["tokens"], dtype=np.int64)

    def tells(self, groups: str | None) -> bool:
        """Whether the labels of `groups` are known before a pass.

        Raises:
            ConfigurationError: no pass gives such a column.
        """
        name = groups or "source"
        if name in self.labels:
            return True
        if count_clusters(name) or name in self.late:
            return False
        raise ConfigurationError(
            f"groups are to be the column {name!r}, which the store of {self.store} will not have; it has "
            f"{', '.join(self.labels)}, and a column of the pool as `source` (source_column={name!r}), or give "
            "clusters:N"
        )


def check_given(selector: Selector, options: MethodOptions, subtasks: Sequence[str]) -> None:
    """What is known of a method's options without a pool: target, subtasks, device.

    Raises:
        ConfigurationError: a target that the options have no use for, or a device that is not there.
        UnknownNameError: a subtask that the target does not have.
    """
    if check := getattr(selector, "check_target", None):
        check(options, subtasks)
    require_device(getattr(options, "device", "cpu"))


def check_foreseen(
    rows: Foreseen,
    budget: BudgetLike,
    *,
    quotas: str | Mapping[str, QuotaLike] | None = None,
    groups: str | None = None,
    include: Sequence[int | str] = (),
    exclude: Sequence[int | str] = (),
    dedup: float | None = None,
    trim: float = 0.0,
    trim_above: float | None = None,
    trim_by: str | None = None,
    trim_groups: str | None = None,
) -> Room:
    """Refuse before a pass what `select` would refuse after it; the arguments are those of `select`.

    With dedup or a trim some rows will be missing: quotas that depend on how many are only read, not counted.

    Returns:
        What may be picked, the forced rows taken; without quotas where only a pass can tell the groups.

    Raises:
        UnknownNameError: a sample or group that does not exist.
        BudgetError: a budget, quotas or forced rows that cannot be met.
        ConfigurationError: a column that the store will not have, or groups without quotas.
        GradientError: `exclude` leaves no row.
    """
    eligible, forced = read_fixed(rows, include, exclude)
    check_groups(quotas, groups)
    check_dedup(dedup)
    cut = Trim(trim, trim_above, trim_by, trim_groups)
    if trim_groups is not None:
        rows.tells(trim_groups)
    if cut and cut.column not in {*rows.labels, *rows.late}:
        raise ConfigurationError(
            f"trim_by is to be the column {cut.column!r}, which the store of {rows.store} will not have; it may have "
            f"{', '.join(sorted({*rows.labels, *rows.late} - {'id', 'source', 'finite'}))}"
        )
    tokens = read_tokens(rows, None, eligible, budget)
    resolved = resolve(budget, eligible, tokens)
    every = cut.column == LOSS or cut.column in rows.labels  # else only a pass can tell how many rows have a value
    if trim and every and resolved.count is not None and resolved.share is None:
        _check_left(rows, eligible, forced, resolved.count, trim, trim_groups or GROUPS)
    limits = None
    if quotas is not None and rows.tells(groups):
        labels = [None if label is None else str(label) for label in rows.label(groups or "source")]
        limits = read_quotas(quotas, labels, eligible, resolved.count)
        if (cut or dedup is not None) and (quotas == PROPORTIONAL or isinstance(parse_budget(budget), float)):
            limits = None
    room = Room(
        eligible, count=resolved.count, capacity=resolved.tokens, tokens=tokens, quotas=limits, forced=tuple(forced)
    )
    room.take_forced()
    return room


def _check_left(rows: Foreseen, eligible: BoolArray, forced: Sequence[int], count: int, trim: float, name: str) -> None:
    """Refuse a number of rows above what a trim leaves, as far as its groups are known."""
    if clusters := count_clusters(name):  # each rounds its share down, and so do the rows of zeros, if there are any
        trimmed = max(0, ceil(round(trim * np.count_nonzero(eligible), 9)) - clusters - 1)
    elif name in rows.labels:
        sizes = np.unique(rows.label(name)[eligible].astype(str), return_counts=True)[1]
        trimmed = sum(share_of(size, trim) for size in sizes.tolist())
    else:
        return
    left = int(np.count_nonzero(eligible)) - max(0, trimmed - len(forced))
    if count > left:
        raise BudgetError(
            f"budget {count} is above the {left} rows that trim={trim:g} leaves (of {eligible.size}); lower one of them"
        )
