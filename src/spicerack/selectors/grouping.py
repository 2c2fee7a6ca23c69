"""Groups of rows that nobody labeled: clusters of gradients, for quotas, and for trimming the worst of each.

Gradients of one kind of task point one way, so their clusters are tasks without names. Within a cluster losses can be
compared: a wrong answer is harder than right ones of its own kind, while across kinds a high loss means a hard kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spicerack.errors import ConfigurationError
from spicerack.information.clusters import cluster_directions
from spicerack.selectors.rows import Rows

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
            of the gradients' directions.

    Raises:
        ConfigurationError: a column without a store, clusters without gradients, or another number of labels.
    """
    if isinstance(groups, str) and (match := _CLUSTERS.fullmatch(groups)):
        gradients = rows.array("gradient")
        usable = gradients.included & (gradients.norms > 0.0)
        if not usable.any():
            raise ConfigurationError("groups are to be clusters of gradients, and every row is zero")
        labels = cluster_directions(lambda: gradients.stream("unit"), usable, int(match[1]), seed=SEED)
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
