"""Groups of rows that nobody labeled: clusters of gradients, for quotas, and for trimming the worst of each.

Gradients of one kind of task point one way, so their clusters are tasks without names. Within a cluster losses can be
compared: a wrong answer is harder than right ones of its own kind, while across kinds a high loss means a hard kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.errors import ConfigurationError
from spicerack.information.clusters import cluster_directions, worst_of_groups
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.selectors.rows import Rows

TRIM_GROUPS = "clusters:12"
LOSS = "loss_mean"
SEED = 0  # the same groups whatever the seed of a selection: methods that draw nothing stay so

_CLUSTERS = re.compile(r"clusters:([1-9][0-9]*)")


def count_clusters(groups: str) -> int:
    """How many clusters of gradients the groups are to be, as in `clusters:12`; 0 where they are something else."""
    match = _CLUSTERS.fullmatch(groups)
    return int(match[1]) if match else 0


def read_groups(rows: Rows, groups: Sequence[Any] | str | None) -> Sequence[Any]:
    """A label per row, None for no group.

    Args:
        rows: the pool's.
        groups: labels, (n,); a column of the store's table, by default its `source`; or `clusters:12`, so many clusters
            of the rows' directions.

    Raises:
        ConfigurationError: a column without a store, or another number of labels.
    """
    if isinstance(groups, str) and (match := _CLUSTERS.fullmatch(groups)):
        usable = rows.included & (rows.norms > 0.0)
        if not usable.any():
            raise ConfigurationError("groups are to be clusters of gradients, and every row is zero")
        labels = cluster_directions(lambda: rows.stream("unit"), usable, int(match[1]), seed=SEED)
        return [f"cluster-{label:02d}" if label >= 0 else None for label in labels.tolist()]
    if isinstance(groups, str) and groups.startswith("clusters:"):
        raise ConfigurationError(f"groups={groups!r}, expected clusters:N with a whole number N of at least 1")
    if groups is None or isinstance(groups, str):
        if rows.store is None:
            raise ConfigurationError("quotas need a label per row: give a gradient store, or groups=")
        return [None if label is None else str(label) for label in rows.label(groups or "source")]
    if len(groups) != rows.n:
        raise ConfigurationError(f"groups has {len(groups)} labels for {rows.n} rows")
    return groups


def trim_column(by: str | None) -> str:
    """The column whose highest values a trim takes."""
    return LOSS if by is None else by


def read_trim(
    rows: Rows,
    values: FloatArray | None,
    eligible: BoolArray,
    trim: float,
    groups: Sequence[Any] | str | None,
    *,
    by: str = LOSS,
) -> tuple[IntArray, list[Choice]]:
    """Rows to be left out: of every group the share of the highest losses. And what is said of it.

    Args:
        rows: the pool's.
        values: (n,), or None for the store's column `by`.
        eligible: rows that may be picked, (n,).
        trim: share in [0, 1); 0 leaves none out.
        groups: as for `read_groups`; None: `TRIM_GROUPS`.
        by: name of the values. A loss that is not finite counts as the highest; a row without another value stays.

    Raises:
        ConfigurationError: no share, or rows without such a column.
    """
    if isinstance(trim, bool) or not isinstance(trim, (int, float)) or not 0.0 <= trim < 1.0:
        raise ConfigurationError(f"trim={trim!r}, expected a share of at least 0 and below 1")
    if not trim:
        return np.zeros(0, dtype=np.int64), []
    values = rows.column(by) if values is None else values
    known = eligible if by == LOSS else eligible & np.isfinite(values)
    names = read_groups(rows, groups or TRIM_GROUPS)
    _, labels = np.unique(np.array([str(name) for name in names], dtype=object), return_inverse=True)
    worst = worst_of_groups(values, labels, known, float(trim))
    of = groups if isinstance(groups, str) else "the groups given" if groups is not None else TRIM_GROUPS
    reason = f"{worst.size} rows of the highest {by} within their own groups ({of}) are left out"
    if unknown := int(np.count_nonzero(eligible & ~known)):
        reason += f"; {unknown} rows have no {by}, and stay"
    return worst, [Choice("trim", float(trim), reason)]
