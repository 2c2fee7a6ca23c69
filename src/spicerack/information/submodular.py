"""Lazy greedy for values that only fall as picks are made, whatever they are (Minoux 1978).

A value computed some picks ago is an upper bound of the value now. The rows of largest bounds are computed afresh, a
batch at a time, until no bound reaches the best; of values that agree within a tolerance the smallest row wins. So the
picks are those of the plain loop that computes every value at every pick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spicerack.information.certificate import Allowance, Certificate, Method
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.room import Room

BATCH = 32
ONLINE: Method = "online"
GREEDY: Method = "greedy"
TIE = 1e-10
"""Relative difference up to which two values are equal."""


class Objective(Protocol):
    """A monotone submodular function of the picks."""

    value: float
    """Of the picks so far."""

    def gains(self, rows: IntArray) -> FloatArray:
        """Marginal gains of a few rows given the picks, (r,), exact."""
        ...

    def add(self, i: int) -> float:
        """Absorb row i. Returns its gain."""
        ...


@dataclass(frozen=True)
class LazyResult:
    """Picks in order (s,), their gains (s,), and every row's gain given all picks (n,), NaN if not eligible."""

    indices: IntArray
    gains: FloatArray
    left: FloatArray


class LazyMaximum:
    """The row of the largest value among those that are open.

    Args:
        values: row numbers (r,) to their values now, (r,), which never rise.
        bounds: upper bounds of all values, (n,); lowered in place as values are computed.
        batch: rows computed together.
    """

    def __init__(self, values: Callable[[IntArray], FloatArray], bounds: FloatArray, *, batch: int = BATCH) -> None:
        self._values, self.bounds, self._batch = values, bounds, batch

    def best(self, open_: BoolArray) -> tuple[int, float]:
        """The smallest row of the largest value, and that value. At least one row is open."""
        rows = np.flatnonzero(open_)
        size, known = self._batch, np.zeros(rows.size, dtype=bool)
        while True:
            stale = np.where(known, -np.inf, self.bounds[rows])
            new = np.arange(rows.size) if size >= rows.size else np.argpartition(-stale, size - 1)[:size]
            new = np.sort(new[~known[new]])
            self.bounds[rows[new]] = self._values(rows[new])
            known[new] = True
            best = float(self.bounds[rows[known]].max())
            least = best - TIE * abs(best)
            if known.all() or float(self.bounds[rows[~known]].max()) < least:
                first = int(rows[known & (self.bounds[rows] >= least)][0])
                return first, float(self.bounds[first])
            size *= 2


def lazy_picks(objective: Objective, bounds: FloatArray, room: Room, eligible: BoolArray) -> LazyResult:
    """Pick greedily by marginal gain until the room is full; the forced rows come first.

    Args:
        objective: without picks.
        bounds: upper bounds of the gains given the empty set, (n,).
        room: what may be picked, none taken yet.
        eligible: rows that may be picked at all, (n,).
    """
    lazy, gains = LazyMaximum(objective.gains, bounds.copy()), []
    for i in room.forced:
        gains.append(objective.add(i))
        room.take(i)
    while not room.full:
        i, _ = lazy.best(room.open)
        gains.append(objective.add(i))
        room.take(i)
    indices = np.array(room.taken, dtype=np.int64)
    left = np.full(eligible.size, np.nan)
    rest = eligible.copy()
    rest[indices] = False
    rows = np.flatnonzero(rest)
    left[rows] = objective.gains(rows)
    return LazyResult(indices, np.array(gains), left)


def lazy_certificate(
    objective: Objective, result: LazyResult, allowance: Allowance, measure: str, *, plain: bool
) -> Certificate:
    """The better of two bounds of every allowed set B (Nemhauser, Wolsey and Fisher 1978).

    From the chosen set: `F(B) <= F(S) + sum of the best gains given S`. And, for a budget in rows and nothing else,
    what greedy promises before it begins: `F(S) >= (1 - (1 - 1/s)^s) F(B)`.

    Args:
        objective: that has absorbed the picks.
        result: of `lazy_picks`.
        allowance: the sets that the bound speaks of.
        measure: what the objective measures, for the sentence.
        plain: no quotas narrowed the choice, and no row was forced.
    """
    rest = np.flatnonzero(np.isfinite(result.left))
    value, method = objective.value, ONLINE
    upper = value + allowance.best_sum(result.left, rest)
    factor = None
    if plain and allowance.count is not None and result.indices.size == allowance.count:
        factor = 1.0 - (1.0 - 1.0 / allowance.count) ** allowance.count
        if value / factor < upper:
            upper, method = value / factor, GREEDY
    share = min(1.0, value / upper) if upper > 0.0 else 1.0
    return Certificate(value, upper, share, None, method, greedy_factor=factor, measure=measure)
