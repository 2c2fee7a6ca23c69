"""Which features a method's needs come down to, and whether it needs gradients beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spicerack.errors import ConfigurationError
from spicerack.features.options import FEATURES
from spicerack.features.shard import COLUMNS

if TYPE_CHECKING:
    from spicerack.selectors.base import Needs
    from spicerack.store.reader import GradientStore

COUNTED = ("tokens", "trained_tokens", "cut_tokens")
"""Columns of every store: the pool's token counts, which need no model."""


def features_alone(needs: Needs) -> list[str] | None:
    """The features that stand for everything a method reads, at least `counts`; None where it reads gradients."""
    known = {name for columns in COLUMNS.values() for name in columns} | {*COUNTED}
    if not {*needs.read_arrays} <= {*FEATURES} or not {*needs.columns} <= known:
        return None
    return needed_features([needs], arrays=(), columns=COUNTED) or ["counts"]


def missing_features(store: GradientStore, needs: Sequence[Needs]) -> list[str]:
    """Features that methods read and a store does not have, in the order of `FEATURES`.

    Raises:
        ConfigurationError: an array or column that no feature pass gives.
    """
    return needed_features(needs, arrays=store.arrays, columns=store.column_names)


def needed_features(needs: Sequence[Needs], *, arrays: Iterable[str], columns: Iterable[str]) -> list[str]:
    """Features that give what methods read beside the arrays and columns that are there; see `missing_features`."""
    wanted: set[str] = set()
    for name in sorted({name for need in needs for name in need.read_arrays} - {*arrays}):
        if name not in FEATURES:
            raise ConfigurationError(
                f"a method reads the array {name!r}, which the store does not have and one pass over a model cannot "
                "give; make a store with it (for `adam`: spicerack warmup, then gradients with its checkpoints)"
            )
        wanted.add(name)
    for name in sorted({name for need in needs for name in need.columns} - {*columns}):
        feature = next((feature for feature, given in COLUMNS.items() if name in given), None)
        if feature is None:
            raise ConfigurationError(f"a method reads the column {name!r}, which no pass over the pool gives")
        wanted.add(feature)
    return [name for name in FEATURES if name in wanted]
