"""How good a chosen set is for the transductive objective, whatever chose it: an upper bound of what any set holds.

    value(B) = tr(C) - tr(C M_B^{-1}),  M_B = I + alpha sum_{i in B} g_i g_i^T

is not submodular, so the bounds of `certificate.py` do not apply. But `tr(C M_w^{-1})` is convex in relaxed weights,
and its tangents can be written so that nothing has to be solved exactly: for `C = R R^T` and every Y of R's shape

    value(B) <= |R - Y|_F^2 + sum over B of alpha |Y^T g_i|^2            equal at Y = M_B^{-1} R

(ridge regression of R: the residual and the penalty). Y may be scaled, and the best scale is known. Whatever Y the
steps arrive at in floating point is the Y of the bound; both terms are sums of squares, so rounding is relative to
them, and is added. Over an allowance the sum is at most that of the largest terms, or the fractional knapsack of them.

The steps follow from the same identity: with `b_i = alpha w_i Y^T g_i` the value of w is a minimum over b, hence
`w_i <- min(1, w_i |Y^T g_i| / nu)` never makes it worse. Twice that step, `|Y^T g_i|^2`, is used until it fails once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spicerack.information.certificate import Allowance, Certificate, Method
from spicerack.information.matrix import EPS, BoolArray, FloatArray, IntArray
from spicerack.information.moments import row_energies
from spicerack.information.relaxation import (
    LEAST,
    MIX,
    PATIENCE,
    ROUNDS,
    STEPS,
    affordable,
    candidates,
    costs_of,
    fill,
    per_cost,
)
from spicerack.information.tangent import inverse_root
from spicerack.information.transductive import Transductive


def certify_transductive(
    state: Transductive,
    indices: IntArray,
    *,
    eligible: BoolArray,
    allowance: Allowance,
    flops: float | None = None,
) -> Certificate:
    """The certificate of a chosen set.

    Args:
        state: has absorbed exactly `indices`, its gains are of now.
        indices: the chosen rows (s,).
        eligible: rows that could have been chosen, (n,).
        allowance: the sets that the bound speaks of; the chosen set is one of them.
        flops: floating-point operations that the relaxation may spend; default as for the log-det's.
    """
    rows = np.flatnonzero(eligible)
    partials, error = state.partials()
    drop = state.base() * (1.0 + state.rho)  # alpha g^T C g: the tangent at no pick at all
    bounds: dict[Method, float] = {
        "empty set": allowance.best_sum(drop, rows) * (1.0 + 1e-12),
        "online": state.value
        + allowance.best_sum(partials + error, rows)
        - float(np.maximum(partials - error, 0.0)[indices].sum()),
    }
    notes: list[str] = []
    if state.value < (1.0 - LEAST) * min(bounds.values()):
        flops = affordable(state.matrix, indices.size) if flops is None else flops
        bounds["relaxation"], skipped = _Search(state, rows, allowance, flops).run(indices, partials)
        if skipped is not None:
            notes.append(f"no relaxation bound: it {skipped}")
    method = min(bounds, key=lambda name: bounds[name])
    upper = max(bounds[method], state.value)  # a tight bound may lie a few ulps below what it bounds
    share = state.value / upper if upper > 0.0 else 1.0
    return Certificate(state.value, upper, share, None, method, notes=tuple(notes))


EIGEN_BELOW = 1024
"""Dimension up to which a singular C is decomposed into eigenvectors; beyond, they cost more than they save."""


@dataclass(frozen=True)
class _Tangent:
    """Y of some weights (d, r) in the candidates' coordinates, and the bound that the candidates alone give."""

    Y: FloatArray
    upper: float


class _Search:
    """Rounds of: choose candidates, step on them, bound over all rows."""

    def __init__(self, state: Transductive, rows: IntArray, allowance: Allowance, flops: float) -> None:
        self.matrix, self.alpha, self.value, self.rho = state.matrix, state.alpha, state.value, state.rho
        self.allowance, self.flops = allowance, flops
        self.costs = costs_of(allowance, self.matrix.n)
        self.rows = rows
        if allowance.capacity is not None:
            self.rows = rows[self.costs[rows] <= allowance.capacity]
        self.total = float(allowance.count if allowance.count is not None else allowance.capacity or 0)
        self.unit = 4.0 * EPS * (self.matrix.k + 16)
        self.R = _root(state.C)
        self.beyond = self._beyond(state.C)

    def run(self, indices: IntArray, partials: FloatArray) -> tuple[float, str | None]:
        """The best bound, and why there is none, if so."""
        weights = np.zeros(self.matrix.n)
        weights[indices] = 1.0
        bound = math.inf
        for number in range(ROUNDS):
            if self.rows.size == 0:
                break
            chosen = candidates(self.rows, self.costs, weights, partials, self.matrix.k)
            whole = chosen.size == self.rows.size
            once, step = self._cost(chosen.size)
            steps = min(STEPS * (ROUNDS if whole else 1), int((self.flops - once) / step))
            if steps < PATIENCE:
                needed = f"needs {once + PATIENCE * step:.1e} floating-point operations, {self.flops:.1e} may be spent"
                return bound, needed if math.isinf(bound) else None
            self.flops -= once + steps * step
            own, Y = self._improve(chosen, weights[chosen], number, steps)
            weights = np.zeros(self.matrix.n)
            weights[chosen] = own
            partials = self._partials(Y)
            before, bound = bound, min(bound, self._upper(Y, self.allowance.best_sum(partials, self.rows)))
            if whole or self.value / bound - self.value / before < LEAST:
                break
        return bound, None

    def _cost(self, m: int) -> tuple[float, float]:
        """Floating-point operations of a round with m candidates, and of a step of it."""
        k, r = float(self.matrix.k), float(self.R.shape[1])
        d = min(float(m), k)
        reduce = 4.0 * k * d * d + 4.0 * d * k * r + 2.0 * d * d * r if m < k else 0.0
        r = min(r, d) if m < k else r
        return reduce + 2.0 * self.matrix.n * k * self.R.shape[1], 2.0 * m * d * (d + r) + 2.0 * d**3 + 4.0 * d * d * r

    def _improve(self, chosen: IntArray, weights: FloatArray, number: int, steps: int) -> tuple[FloatArray, FloatArray]:
        """The best weights found on the candidates, and their Y (k, r) in the coordinates of the rows."""
        X, R, basis = self.matrix.rows_at(chosen), self.R, None
        if chosen.size < self.matrix.k:  # outside the candidates' span Y is R
            basis, T = np.linalg.qr(X.T)
            X, inner = np.ascontiguousarray(T.T), basis.T @ R
            R = inner if R.shape[1] <= chosen.size else _root(inner @ inner.T)
        costs, allowance, everyone = self.costs[chosen], self.allowance.among(chosen), np.arange(chosen.size)
        worth = self._squares(X, self._solve(X, R, weights))
        mix = MIX / (number + 1)
        weights = (1.0 - mix) * weights + mix * fill(per_cost(worth, costs), costs, self.total)
        power, best, shares = 1.0, (weights, _Tangent(R, math.inf), worth), [0.0]
        for _ in range(steps):
            Y = self._solve(X, R, weights)
            squares = self._squares(X, Y)
            upper = _scaled(R, Y, allowance.best_sum(squares, everyone))[0]
            if upper < best[1].upper:
                best = (weights, _Tangent(Y, upper), squares)
            elif power == 1.0:
                power = 0.5
                weights, squares = best[0], best[2]
            shares.append(self.value / max(best[1].upper, self.value))
            if len(shares) > PATIENCE and shares[-1] - shares[-1 - PATIENCE] < LEAST:
                break
            rise = per_cost(squares, costs)
            top = float(rise[costs > 0.0].max(initial=0.0))
            weights = fill(weights * (rise / (top or 1.0)) ** power, costs, self.total)
        if basis is None:
            return best[0], best[1].Y
        return best[0], self.R - basis @ (inner - self._solve(X, inner, best[0]))

    def _solve(self, X: FloatArray, R: FloatArray, weights: FloatArray) -> FloatArray:
        """`M_w^{-1} R`."""
        U = inverse_root(X, self.alpha * weights)
        return np.asarray(U @ (U.T @ R))

    def _squares(self, X: FloatArray, Y: FloatArray) -> FloatArray:
        return np.asarray(self.alpha * row_energies(X, Y))

    def _partials(self, Y: FloatArray) -> FloatArray:
        """No less than `alpha |Y^T g_i|^2` of all rows, (n,); one pass over them.

        `|Y^T g|` errs by at most `unit |Y|_F |g|`.
        """
        out = np.empty(self.matrix.n)
        for part, rows in self.matrix.blocks():
            out[part] = self._squares(rows, Y)
        length = np.sqrt(out) + self.unit * float(np.linalg.norm(Y)) * np.sqrt(self.rho)
        return np.asarray(length * length * (1.0 + self.unit))

    def _upper(self, Y: FloatArray, total: float) -> float:
        """The bound of Y, at its best scale, where no allowed set's partials sum to more than `total`."""
        bound, scale = _scaled(self.R, Y, total * (1.0 + self.unit))
        # R - cY is rounded entry by entry before it is squared
        slip = EPS * (float(np.linalg.norm(self.R)) + 2.0 * scale * float(np.linalg.norm(Y)))
        return (math.sqrt(bound) + slip) ** 2 * (1.0 + self.unit) + self.beyond

    def _beyond(self, C: FloatArray) -> float:
        """Upper bound of what `C - R R^T`, which is rounding, adds to the value of any allowed set.

        `tr(E (I - M^{-1})) <= |E|_F |I - M^{-1}|_F`, and the latter is at most the root of its rank, and its trace.
        """
        error = float(np.linalg.norm(C - self.R @ self.R.T))
        error += EPS * math.sqrt(self.matrix.k) * float(np.linalg.norm(self.R)) ** 2
        shrunk = self.allowance.best_sum(self.rho, self.rows) if self.rows.size else 0.0
        return error * min(math.sqrt(self.matrix.k), shrunk)


def _scaled(R: FloatArray, Y: FloatArray, total: float) -> tuple[float, float]:
    """Least of `|R - c Y|_F^2 + c^2 total` over c >= 0, and that c; the former infinite where Y is not finite."""
    energy = float(np.einsum("ij,ij->", Y, Y)) + total
    if not math.isfinite(energy):
        return math.inf, 1.0
    scale = max(0.0, float(np.einsum("ij,ij->", R, Y)) / energy) if energy > 0.0 else 0.0
    rest = R - scale * Y
    return float(np.einsum("ij,ij->", rest, rest)) + scale * scale * total, scale


def _root(C: FloatArray) -> FloatArray:
    """R (k, r) with `R R^T = C` up to rounding: r is k, or the numerical rank of a singular C where that is quick."""
    try:
        return np.asarray(np.linalg.cholesky(C), dtype=np.float64)
    except np.linalg.LinAlgError:
        pass
    if len(C) > EIGEN_BELOW:
        shift = 4.0 * len(C) * EPS * float(np.trace(C))
        shifted = C + shift * np.eye(len(C))
        return np.asarray(np.linalg.cholesky(shifted), dtype=np.float64) if shift > 0.0 else np.zeros((len(C), 0))
    values, vectors = np.linalg.eigh(C)
    kept = values > EPS * max(float(values[-1]), 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
