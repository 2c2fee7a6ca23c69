"""How good a chosen set is, whatever chose it: an upper bound of what any set of its budget could hold.

Information U is monotone and submodular for the log-det forms, so for every set S and every set B of s rows

    U(B) <= U(S) + sum of the s largest gains given S                     (Nemhauser, Wolsey and Fisher 1978)

which holds for the chosen set ("online"), for the empty set, and for every prefix of the run ("prefix"): the smallest
bound wins. Under a token budget the sum is the fractional knapsack of gains over tokens, which no set of whole rows
exceeds. The bound speaks of information alone: it certifies a penalized selection as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spicerack.information.diagonal import DiagonalFisher
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix, as_row_matrix, second_moment
from spicerack.information.state import InformationState


@dataclass(frozen=True)
class Certificate:
    """What is known of a set's information.

    Attributes:
        information: U(S) of the chosen set.
        upper_bound: no set within the same budget holds more.
        share: information / upper_bound, in [0, 1]; 1 where both are zero.
        curvature: total curvature c in [0, 1] of the pool, for the full Fisher form; greedy on the pure log-det
            reaches at least (1 - e^-c) / c of the optimum. None for other forms.
        method: the bound that won.
    """

    information: float
    upper_bound: float
    share: float
    curvature: float | None
    method: Literal["online", "empty set", "prefix"]

    def sentence(self) -> str:
        """The certificate in words, the share rounded down."""
        percent = math.floor(self.share * 1000.0) / 10.0
        return f"at least {percent:.1f} % of the best possible information for this budget"


@dataclass(frozen=True)
class Allowance:
    """The sets a bound speaks of: `count` rows, or rows holding `capacity` of the `tokens` (n,) together."""

    count: int | None = None
    capacity: int | None = None
    tokens: IntArray | None = None

    def best_sum(self, gains: FloatArray, rows: IntArray) -> float:
        """Upper bound of the sum of `gains` (n,) over any allowed subset of `rows`."""
        offered = np.maximum(gains[rows], 0.0)
        if self.count is not None:
            if self.count >= offered.size:
                return float(offered.sum())
            return float(np.partition(offered, offered.size - self.count)[offered.size - self.count :].sum())
        if self.tokens is None or self.capacity is None:
            raise ValueError("an allowance without a count needs tokens and a capacity")
        return _fractional_knapsack(offered, self.tokens[rows], self.capacity)


class PrefixBounds:
    """Smallest bound over the prefixes of a greedy run; pass `watch` to `greedy`.

    Each look costs O(n); prefixes are looked at ever more sparsely, about 10 log(s) times in all.

    Args:
        allowance: the sets that the bound speaks of.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.smallest = math.inf
        self._allowance = allowance
        self._next = 0

    def watch(self, step: int, state: InformationState, alive: BoolArray) -> None:
        """Look at the state before the pick number `step`."""
        if step < self._next:
            return
        self._next = max(step + 1, int(step * 1.1))
        self.smallest = min(self.smallest, _online(state, np.flatnonzero(alive), self._allowance))


def certify(
    state: FullFisher | DiagonalFisher,
    indices: IntArray,
    *,
    eligible: BoolArray,
    allowance: Allowance,
    prefixes: PrefixBounds | None = None,
) -> Certificate:
    """The certificate of a chosen set.

    Args:
        state: a log-det state that has absorbed exactly `indices`.
        indices: the chosen rows (s,).
        eligible: rows that could have been chosen, (n,).
        allowance: the sets that the bound speaks of; the chosen set is one of them.
        prefixes: what a greedy run's prefixes gave; None where the set did not come from one greedy run.
    """
    rest = eligible.copy()
    rest[indices] = False
    bounds: dict[Literal["online", "empty set", "prefix"], float] = {
        "online": _online(state, np.flatnonzero(rest), allowance),
        "empty set": allowance.best_sum(state.base(), np.flatnonzero(eligible)),
    }
    if prefixes is not None:
        bounds["prefix"] = prefixes.smallest
    method = min(bounds, key=lambda name: bounds[name])
    # Rounding may leave a tight bound a few ulps below the information it bounds.
    upper = max(bounds[method], state.value)
    share = state.value / upper if upper > 0.0 else 1.0
    curvature = total_curvature(state.matrix, state.alpha, eligible) if isinstance(state, FullFisher) else None
    return Certificate(state.value, upper, share, curvature, method)


def total_curvature(G: npt.NDArray[Any] | RowMatrix, alpha: float, eligible: BoolArray | None = None) -> float:
    """`c = 1 - min_x gain_x(D without x) / gain_x(empty)` of the log-det over all eligible rows D.

    One factorization of `M_D`. With the leverage `h_x = g_x^T M_D^{-1} g_x`, `gain_x(D without x) =
    -log(1 - alpha h_x)`; with fewer rows than dimensions the Gram side gives it as `-log (K^{-1})_xx`,
    `K = I + alpha G G^T`. Rows of zero length have no gain to lose and are left out; without any other c is 0.
    """
    matrix = as_row_matrix(G)
    base = np.log1p(alpha * matrix.squared_norms)
    counted = base > 0.0 if eligible is None else eligible & (base > 0.0)
    if not counted.any():
        return 0.0
    rows = np.flatnonzero(counted)
    left = _left_on_gram_side(matrix, alpha, rows) if rows.size < matrix.k else _left(matrix, alpha, counted)
    return float(np.clip(1.0 - np.min(left / base[rows]), 0.0, 1.0))


def _left(matrix: RowMatrix, alpha: float, counted: BoolArray) -> FloatArray:
    M = np.eye(matrix.k) + alpha * second_moment(matrix, counted)
    inverse_root = np.linalg.inv(np.linalg.cholesky(M))
    leverage = np.empty(matrix.n)
    for part, rows in matrix.blocks():
        X = rows @ inverse_root.T
        leverage[part] = alpha * np.einsum("ij,ij->i", X, X)
    return _minus_log(1.0 - leverage[counted])


def _left_on_gram_side(matrix: RowMatrix, alpha: float, rows: IntArray) -> FloatArray:
    X = matrix.rows_at(rows)
    root = np.linalg.inv(np.linalg.cholesky(np.eye(rows.size) + alpha * (X @ X.T)))
    return _minus_log(np.einsum("ij,ij->j", root, root))


def _minus_log(rest: FloatArray) -> FloatArray:
    return -np.log(np.clip(rest, np.finfo(np.float64).tiny, 1.0))


def _online(state: InformationState, rest: IntArray, allowance: Allowance) -> float:
    return state.value + allowance.best_sum(state.gains() + state.slack(), rest)


def _fractional_knapsack(gains: FloatArray, tokens: IntArray, capacity: int) -> float:
    free = tokens == 0
    gains, tokens, given = gains[~free], tokens[~free], float(gains[free].sum())
    fits = tokens <= capacity
    gains, tokens = gains[fits], tokens[fits]
    order = np.argsort(-gains / tokens, kind="stable")
    used = np.cumsum(tokens[order])
    whole = int(np.searchsorted(used, capacity, side="right"))
    total = given + float(gains[order[:whole]].sum())
    if whole < order.size:
        spent = int(used[whole - 1]) if whole else 0
        total += float(gains[order[whole]]) * (capacity - spent) / int(tokens[order[whole]])
    return total
