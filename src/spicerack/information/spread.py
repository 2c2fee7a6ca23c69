"""Spread over a graph plus a bonus a pick: influence maximization with one round of independent attempts.

    F(S) = sum_u w_u (1 - prod_{v in S} (1 - p_vu)) + sum_{v in S} b_v

Monotone and submodular for w, b >= 0 and p in [0, 1] (Kempe, Kleinberg and Tardos 2003).
"""

from __future__ import annotations

import numpy as np

from spicerack.information.matrix import FloatArray, IntArray


class Spread:
    """The value of the picks, and any row's gain.

    Args:
        ends: whom each row reaches, (n, r).
        chances: p, with what probability, (n, r); 0 where a row reaches fewer.
        weights: w, (n,).
        bonus: b, (n,).
    """

    def __init__(self, ends: IntArray, chances: FloatArray, weights: FloatArray, bonus: FloatArray) -> None:
        self._ends, self._chances, self._weights, self._bonus = ends, chances, weights, bonus
        self._missed: FloatArray = np.ones(weights.size)  # prod (1 - p_vu) over the picks v
        self.value = 0.0

    def gains(self, rows: IntArray) -> FloatArray:
        """Gains of some rows given the picks, (r,)."""
        ends = self._ends[rows]
        reached = (self._chances[rows] * self._weights[ends] * self._missed[ends]).sum(axis=1)
        return np.asarray(reached + self._bonus[rows])

    def add(self, i: int) -> float:
        """Absorb row i. Returns its gain."""
        gain = float(self.gains(np.array([i]))[0])
        kept = self._chances[i] > 0.0
        self._missed[self._ends[i][kept]] *= 1.0 - self._chances[i][kept]
        self.value += gain
        return gain
