"""How good a chosen set is, whatever chose it: an upper bound of what any set of its budget could hold.

Information U is monotone and submodular for the log-det forms, so for every set S and every set B of s rows

    U(B) <= U(S) + sum of the s largest gains given S                     (Nemhauser, Wolsey and Fisher 1978)

which holds for the chosen set ("online"), for the empty set, and for every prefix of the run ("prefix"): the smallest
bound wins. Under a token budget the sum is the fractional knapsack of gains over tokens, which no set of whole rows
exceeds. The concave relaxation, improved from the chosen set, bounds tighter still ("relaxation", `relaxation.py`).
All of them speak of information alone: they certify a penalized selection as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spicerack.information.diagonal import DiagonalFisher
from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix, as_row_matrix
from spicerack.information.moments import second_moment
from spicerack.information.relaxation import LEAST, affordable, relaxation_bound
from spicerack.information.state import InformationState
from spicerack.information.tangent import TAME

Method = Literal["online", "empty set", "prefix", "relaxation", "greedy"]


@dataclass(frozen=True)
class Certificate:
    """What is known of a set's information.

    Attributes:
        information: U(S) of the chosen set.
        upper_bound: no set within the same budget holds more.
        share: information / upper_bound, in [0, 1]; 1 where both are zero.
        curvature: total curvature c in [0, 1] of the pool, for the full Fisher form. None for other forms, and where
            it would cost too much (`notes` says so).
        method: the bound that won.
        curvature_factor: (1 - e^-c) / c: what greedy on the pure log-det reaches of the optimum at least, for a budget
            in rows and penalty 0.
        greedy_factor: what this very run, penalty included, reaches of the optimum at least, by `greedy_factor`. None
            where the set did not come from one greedy run with a budget in rows.
        notes: what was left out, and why.
        measure: what is counted, in words.
    """

    information: float
    upper_bound: float
    share: float
    curvature: float | None
    method: Method
    curvature_factor: float | None = None
    greedy_factor: float | None = None
    notes: tuple[str, ...] = ()
    measure: str = "information"

    def sentence(self) -> str:
        """The certificate in words, the share rounded down."""
        percent = math.floor(self.share * 1000.0) / 10.0
        return f"at least {percent:.1f} % of the best possible {self.measure} for this budget"


@dataclass(frozen=True)
class Allowance:
    """The sets a bound speaks of: `count` rows, or rows holding `capacity` of the `tokens` (n,) together."""

    count: int | None = None
    capacity: int | None = None
    tokens: IntArray | None = None

    def among(self, rows: IntArray) -> Allowance:
        """The same allowance, its rows numbered as in `rows`."""
        return self if self.tokens is None else Allowance(capacity=self.capacity, tokens=self.tokens[rows])

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
    bounds: dict[Method, float] = {
        "online": _online(state, np.flatnonzero(rest), allowance),
        "empty set": allowance.best_sum(state.base(), np.flatnonzero(eligible)),
    }
    if prefixes is not None:
        bounds["prefix"] = prefixes.smallest
    notes: list[str] = []
    if state.value < (1.0 - LEAST) * min(bounds.values()):
        relaxed = relaxation_bound(state, indices, eligible=eligible, allowance=allowance)
        bounds["relaxation"] = relaxed.bound
        if relaxed.skipped is not None:
            notes.append(f"no relaxation bound: it {relaxed.skipped}")
    method = min(bounds, key=lambda name: bounds[name])
    # Rounding may leave a tight bound a few ulps below the information it bounds.
    upper = max(bounds[method], state.value)
    share = state.value / upper if upper > 0.0 else 1.0
    curvature = _affordable_curvature(state, indices.size, eligible, notes)
    factor = None if curvature is None else -math.expm1(-curvature) / curvature if curvature else 1.0
    return Certificate(state.value, upper, share, curvature, method, factor, notes=tuple(notes))


def greedy_factor(gains: FloatArray, scores: FloatArray, *, penalty: float, count: int) -> float:
    """What a greedy run by `gain - penalty * conflict` reaches of the best set of `count` rows at least.

    `1 - prod_t (1 - r_t / count)`, r_t the pick's gain over the largest on offer: each step closes that part of what is
    left to the optimum. No gain on offer exceeds the best score plus the penalty, so `r_t >= gain_t / (score_t +
    penalty)`.

    Args:
        gains: of the picks in order, (s,).
        scores: of the picks, (s,).
        penalty: lambda >= 0.
        count: rows that the best set may hold.
    """
    offered = scores + penalty
    ratio = np.divide(gains, offered, out=np.ones(gains.size), where=offered > 0.0)
    ratio = np.clip(ratio * (1.0 - 1e-6), 0.0, 1.0)  # ties are settled within a tolerance far below this
    return float(-np.expm1(np.log1p(-np.minimum(ratio / count, 1.0 - 1e-16)).sum()))


def _affordable_curvature(
    state: FullFisher | DiagonalFisher, count: int, eligible: BoolArray, notes: list[str]
) -> float | None:
    """The total curvature, unless its 4 n k min(n, k) operations are more than is `affordable`."""
    if not isinstance(state, FullFisher):
        return None
    n, k = int(np.count_nonzero(eligible)), state.matrix.k
    flops, limit = 4.0 * n * k * min(n, k), affordable(state.matrix, count)
    if flops > limit:
        notes.append(f"no curvature: it needs {flops:.1e} floating-point operations, {limit:.1e} may be spent")
        return None
    return total_curvature(state.matrix, state.alpha, eligible)


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
    inverse_root = np.linalg.inv(_root_of_all(matrix, alpha, counted)).T
    leverage = np.empty(matrix.n)
    for part, rows in matrix.blocks():
        X = rows @ inverse_root.T
        leverage[part] = alpha * np.einsum("ij,ij->i", X, X)
    return _minus_log(1.0 - leverage[counted])


def _root_of_all(matrix: RowMatrix, alpha: float, counted: BoolArray) -> FloatArray:
    """Upper triangular R with `R^T R = M_D`; where the moment would lose the identity, from the rows, longest first."""
    M = np.eye(matrix.k) + alpha * second_moment(matrix, counted)
    if float(np.trace(M)) < TAME:
        return np.asarray(np.linalg.cholesky(M).T, dtype=np.float64)
    rows = np.flatnonzero(counted)
    rows = rows[np.argsort(-matrix.squared_norms[rows], kind="stable")]
    R, size = np.zeros((0, matrix.k)), max(matrix.k, 1024)
    for start in range(0, rows.size, size):
        part = math.sqrt(alpha) * matrix.rows_at(rows[start : start + size])
        R = np.asarray(np.linalg.qr(np.vstack([R, part]), mode="r"), dtype=np.float64)
    return cholesky_of_moment(R)


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
