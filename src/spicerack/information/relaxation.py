"""A tighter upper bound on the information of any set within a budget: the concave relaxation of D-optimal design.

    maximize f(w) = log det(I + alpha sum_i w_i g_i g_i^T),  0 <= w <= 1,  sum w = s  (or sum tokens_i w_i <= capacity)

A set is a w of zeros and ones, so no set holds more than the maximum, and any tangent of the concave f lies above it.
Every nonsingular Z gives such a tangent (log x <= x - 1 on the eigenvalues of `Z M_B Z^T`, Z scaled at its best):

    log det M_B <= d log((|Z|_F^2 + T) / d) - 2 log|det Z|,   T = largest sum over an allowed B of alpha |Z g_i|^2

in d dimensions, equal where `Z^T Z = M_B^{-1}`. So the bound rests on no solution being exact: whatever Z the steps
arrive at in floating point is the Z of the bound, and rounding enters only where the right-hand side is evaluated.
That error is bounded by the standard forward bounds of sums and products and added.

With few picks among nearly orthogonal rows the relaxation is loose: it may split a row. The product form then serves,
for any M >= I, here that of damped weights (a determinant grows with its matrix, and `log det` is submodular):

    log det M_B <= log det M + sum over B of log(1 + alpha g_i^T M^{-1} g_i)

The steps are of the minorize-maximize kind: f is convex in log w (a log of a sum of exponentials, by Cauchy-Binet), so
`w_i <- min(1, w_i q_i / nu)`, with q the partials of f, never lowers f. The square of `q_i / nu` was measured to
converge twice as fast on isotropic, power-law, heavy-tailed and real rows; it is used until it fails once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spicerack.information.diagonal import DiagonalFisher
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.tangent import DiagonalForm, Form, FullForm, Tangent

if TYPE_CHECKING:
    from spicerack.information.certificate import Allowance

ROUNDS = 3
"""Passes over all rows; between two of them only the rows of largest partials take part."""

STEPS = 12
"""Steps of a round at most."""

PATIENCE, LEAST = 3, 1e-4
"""A round ends when this many steps have not improved the share by this much; so do the rounds."""

MIX = 0.3
"""Weight that the first round takes from the selection and gives to rows of large partials: zeros stay zeros."""

DAMPING = (0.01, 0.03, 0.1)
"""Multiples of the weights that the product form is tried at."""

SMALL_POOL = 1024
"""Rows up to which all of them take part in every step."""

CANDIDATE_BYTES = 256 << 20
FLOPS_FLOOR, FLOPS_CEILING = 2e12, 5e12


@dataclass(frozen=True)
class Relaxed:
    """The best bound found, and why no more was done, if so.

    Attributes:
        bound: no allowed set holds more information; infinite where nothing was computed.
        skipped: why nothing was computed, or None.
    """

    bound: float
    skipped: str | None = None


def relaxation_bound(
    state: FullFisher | DiagonalFisher,
    indices: IntArray,
    *,
    eligible: BoolArray,
    allowance: Allowance,
    flops: float | None = None,
) -> Relaxed:
    """Improve the dual bound from the chosen set's indicator, for a bounded amount of arithmetic.

    Args:
        state: has absorbed exactly `indices`.
        indices: the chosen rows (s,).
        eligible: rows that could have been chosen, (n,).
        allowance: the sets that the bound speaks of.
        flops: floating-point operations that may be spent; default 8 s n k within [2e12, 5e12]. Memory is that of the
            candidate rows (8 s of them, at most 256 MB unless the rows in use need more) and O(n + k^2).
    """
    matrix = state.matrix
    rows = np.flatnonzero(eligible)
    costs = costs_of(allowance, matrix.n)
    if allowance.capacity is not None:
        rows = rows[costs[rows] <= allowance.capacity]
    if rows.size == 0:
        return Relaxed(math.inf)
    if flops is None:
        flops = affordable(matrix, indices.size)
    search = _Search(state, rows, costs, allowance, flops)
    weights = np.zeros(matrix.n)
    weights[indices] = 1.0
    return search.run(weights, np.expm1(state.gains()), state.value)


def affordable(matrix: RowMatrix, count: int) -> float:
    """Floating-point operations that one part of a certificate may cost: 8 s n k, within [2e12, 5e12].

    A selection costs 2 s n k of them at the speed of memory, matrix products run an order of magnitude faster.
    """
    return min(FLOPS_CEILING, max(FLOPS_FLOOR, 8.0 * count * matrix.n * matrix.k))


class _Search:
    """Rounds of: choose candidates, step on them, bound over all rows."""

    def __init__(
        self,
        state: FullFisher | DiagonalFisher,
        rows: IntArray,
        costs: FloatArray,
        allowance: Allowance,
        flops: float,
    ) -> None:
        self.rows, self.costs, self.allowance, self.flops = rows, costs, allowance, flops
        self.matrix, self.alpha = state.matrix, state.alpha
        self.form = FullForm if isinstance(state, FullFisher) else DiagonalForm
        self.total = float(allowance.count if allowance.count is not None else allowance.capacity or 0)

    def run(self, weights: FloatArray, partials: FloatArray, value: float) -> Relaxed:
        """All rounds, then the product form at the weights they found."""
        bound, skipped = math.inf, None
        last: tuple[Form, FloatArray, float] | None = None
        reserve, self.flops = self.flops / 2.0, self.flops / 2.0
        for number in range(ROUNDS):
            chosen = candidates(self.rows, self.costs, weights, partials, self.matrix.k)
            whole = chosen.size == self.rows.size
            once, step = self.form.cost(self.matrix, chosen.size, whole)
            steps = min(STEPS * (ROUNDS if whole else 1), int((self.flops - once) / step))
            if steps < PATIENCE:
                needed = once + PATIENCE * step
                skipped = f"needs {needed:.1e} floating-point operations, {self.flops:.1e} may be spent"
                break
            self.flops -= once + steps * step
            form = self.form(self.matrix, self.alpha, chosen, whole)
            own, tangent, seen = self._improve(form, weights[chosen], number, steps, value)
            before = bound
            last = form, own, once + len(DAMPING) * step
            if whole:
                bound = seen
                break
            weights = np.zeros(self.matrix.n)
            weights[chosen] = own
            partials = form.all_partials(tangent)
            bound = min(bound, form.upper(tangent, self.allowance.best_sum(partials, self.rows)))
            if value / bound - value / before < LEAST:
                break
        if last is not None and last[2] <= reserve + self.flops:
            bound = min(bound, self._product_form(last[0], last[1], bound))
        return Relaxed(bound, skipped if math.isinf(bound) else None)

    def _product_form(self, form: Form, weights: FloatArray, bound: float) -> float:
        """The product form at the best damping over the candidates, bounded over all rows if that is below `bound`."""
        allowance, everyone = self.allowance.among(form.rows), np.arange(form.rows.size)
        best = bound, form.tangent(weights), 0.0
        for damping in DAMPING:
            tangent = form.tangent(damping * weights)
            constant = tangent.constant + form.shortfall(damping * weights)
            total = allowance.best_sum(np.log1p(form.partials(tangent)), everyone)
            if constant + total < best[0]:
                best = constant + total, tangent, constant
        if best[0] == bound or everyone.size == self.rows.size:
            return best[0]
        return best[2] + self.allowance.best_sum(np.log1p(form.all_partials(best[1])), self.rows)

    def _improve(
        self, form: Form, weights: FloatArray, number: int, steps: int, value: float
    ) -> tuple[FloatArray, Tangent, float]:
        """Best weights, their tangent, and the bound that they give over the candidates alone."""
        costs, everyone = self.costs[form.rows], np.arange(form.rows.size)
        allowance = self.allowance.among(form.rows)
        mix = MIX / (number + 1)
        worth = form.partials(form.tangent(weights))
        weights = (1.0 - mix) * weights + mix * fill(per_cost(worth, costs), costs, self.total)
        power, best, shares = 2.0, (weights, form.tangent(weights), math.inf), [0.0]
        for _ in range(steps):
            tangent = form.tangent(weights)
            partials = form.partials(tangent)
            upper = form.upper(tangent, allowance.best_sum(partials, everyone))
            if upper < best[2]:
                best = (weights, tangent, upper)
            elif power == 2.0:
                power = 1.0
                weights, partials = best[0], form.partials(best[1])
            shares.append(value / max(best[2], value))
            if len(shares) > PATIENCE and shares[-1] - shares[-1 - PATIENCE] < LEAST:
                break
            rise = per_cost(partials, costs)
            top = float(rise[costs > 0.0].max(initial=0.0))
            weights = fill(weights * (rise / (top or 1.0)) ** power, costs, self.total)
        return best


def candidates(rows: IntArray, costs: FloatArray, weights: FloatArray, partials: FloatArray, k: int) -> IntArray:
    """Of `rows`, those in use and those of largest partials per cost, ascending; `costs` and the rest are (n,)."""
    used = int(np.count_nonzero(weights[rows] > 1e-3))
    width = CANDIDATE_BYTES // (8 * k)
    more = used + used // 4
    count = min(max(8 * math.ceil(weights.sum()), 256, more), max(width, more))
    if rows.size <= max(count, SMALL_POOL):
        return rows
    worth = partials[rows] / np.maximum(costs[rows], 1e-300)
    worth = np.where(weights[rows] > 1e-3, np.inf, worth)
    return np.sort(rows[np.argsort(-worth, kind="stable")[:count]])


def fill(worth: FloatArray, costs: FloatArray, total: float) -> FloatArray:
    """`w_i = min(1, worth_i / nu)` with nu such that `sum costs_i w_i = total`; 1 where a row costs nothing.

    This maximizes `sum costs_i worth_i log w_i` over `0 <= w <= 1` within the total.

    Args:
        worth: >= 0, (m,).
        costs: >= 0, (m,).
        total: > 0. If all rows of positive worth fit, they get 1.
    """
    relative = worth / max(float(worth.max(initial=0.0)), np.finfo(np.float64).tiny)
    paid = (costs > 0.0) & (relative > 1e-200)  # what is smaller could not be told from zero in the sums
    weights = np.where(costs > 0.0, 0.0, 1.0)
    value, cost = relative[paid], costs[paid]
    if cost.sum() <= total:
        weights[paid] = 1.0
        return weights
    order = np.argsort(-value, kind="stable")
    sorted_value, sorted_cost = value[order], cost[order]
    mass = np.cumsum((sorted_value * sorted_cost)[::-1])[::-1]  # of a row and all below it
    left = total - (np.cumsum(sorted_cost) - sorted_cost)  # once the rows above it are whole
    whole = (left > 0.0) & (sorted_value * left > mass)
    count = int(np.argmin(whole)) if not whole.all() else whole.size - 1
    nu = mass[count] / max(left[count], np.finfo(np.float64).tiny)
    weights[paid] = np.minimum(1.0, value / nu) if nu > 0.0 else 0.0
    return weights


def per_cost(partials: FloatArray, costs: FloatArray) -> FloatArray:
    """Partials over costs, (m,); 0 where a row costs nothing."""
    return np.divide(partials, costs, out=np.zeros(costs.size), where=costs > 0.0)


def costs_of(allowance: Allowance, n: int) -> FloatArray:
    """What each row takes of the allowance, (n,): 1, or its tokens."""
    return np.ones(n) if allowance.tokens is None else allowance.tokens.astype(np.float64)
