"""Quotas as a user writes them: least and most rows of a group, as numbers or as shares of the budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spicerack.errors import BudgetError, UnknownNameError
from spicerack.information.matrix import BoolArray
from spicerack.information.room import Quotas

LEGAL = "expected LEAST..MOST with whole numbers or percentages of the budget ('10..50', '..30%', '5%..'), or a number"
PROPORTIONAL = "proportional"
OTHERS = "*"

_BOUND = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")

QuotaLike = str | int | Sequence[Any]


def read_quotas(
    given: str | Mapping[str, QuotaLike], groups: Sequence[Any], eligible: BoolArray, count: int | None
) -> Quotas:
    """Quotas over groups of rows.

    Args:
        given: "proportional": every group gets its share of the eligible rows, rounded down or up; or group name ->
            "10..50", "..30%", "5%..", 20 (exactly), or (least, most) with None for no bound. The name "*" stands for
            every group that is not named.
        groups: a label per row, (n,); None for no group.
        eligible: rows that may be picked, (n,).
        count: rows of the budget, None for a token budget, which cannot have shares.

    Raises:
        BudgetError: a quota that is no range, or a share under a token budget.
        UnknownNameError: a group that no row has; names the nearest.
    """
    labels = [None if label is None else str(label) for label in groups]
    names = tuple(sorted({label for label in labels if label is not None}))
    number = {name: i for i, name in enumerate(names)}
    group = np.array([-1 if label is None else number[label] for label in labels], dtype=np.int64)
    if given == PROPORTIONAL:
        if count is None:
            raise BudgetError("proportional quotas are shares of a budget in rows; this one counts tokens")
        share = np.bincount(group[eligible & (group >= 0)], minlength=len(names)) * count / eligible.sum()
        return Quotas(names, group, np.floor(share).astype(np.int64), np.ceil(share).astype(np.int64))
    if isinstance(given, str):
        raise BudgetError(f"quotas {given!r}; expected {PROPORTIONAL!r} or a range for each group")
    for name in given:
        if name != OTHERS and str(name) not in number:
            raise UnknownNameError("group", str(name), names)
    bounds = {str(name): _range(str(name), value, count) for name, value in given.items()}
    others = bounds.pop(OTHERS, (0, len(labels)))
    both = [bounds.get(name, others) for name in names]
    least, most = (np.array([pair[side] for pair in both], dtype=np.int64) for side in (0, 1))
    return Quotas(names, group, least, np.minimum(most, len(labels)))


def _range(name: str, value: QuotaLike, count: int | None) -> tuple[int, int]:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = str(int(value))
    if isinstance(value, str):
        low, dots, high = value.partition("..")
        low, high = (low, high) if dots else (low, low)
    elif isinstance(value, Sequence) and len(value) == 2:
        low, high = ("" if bound is None else str(bound) for bound in value)
    else:
        raise BudgetError(f"quota of {name!r} is {value!r}; {LEGAL}")
    least = _bound(name, low, count, math.ceil) if low.strip() else 0
    most = _bound(name, high, count, math.floor) if high.strip() else np.iinfo(np.int64).max
    return least, int(most)


def _bound(name: str, text: str, count: int | None, rounded: Any) -> int:
    match = _BOUND.fullmatch(text)
    if match is None or ("." in match[1] and not match[2]):
        raise BudgetError(f"quota of {name!r} has the bound {text!r}; {LEGAL}")
    if not match[2]:
        return int(match[1])
    if count is None:
        raise BudgetError(f"quota of {name!r} is a share ({text}), and the budget counts tokens; give numbers of rows")
    return int(rounded(round(float(match[1]) / 100.0 * count, 9)))
