"""The paper's perturbation bound on epsilon (arXiv 2601.23155), held against a run.

It needs `rho = alpha |F_S|_2 < 1`, which the scale of real gradients rarely grants for more than a few picks: the share
of steps where the assumption fails is the first thing to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix


@dataclass(frozen=True)
class Perturbation:
    """The paper's bound `|epsilon_x(S)| <= C v_x` against what happened at each pick after the first.

    `v_x = alpha^2 sum_{y in S} (g_x.g_y)^2 / (1 + alpha |g_x|^2)`, `C = 1 / (1 - rho - alpha G_max^2 rho)`,
    `rho = alpha |F_S|_2 < 1`.

    Attributes:
        steps: picks looked at.
        assumption_fails: share of them with `rho >= 1`: the bound says nothing there.
        no_constant: share with `rho < 1` where C is not positive: the bound says nothing there either.
        holds: number of steps where the bound says something.
        violated: share of `holds` where `|epsilon|` is above the bound; None where `holds` is 0.
        above_leading_term: share of all steps with `|epsilon| > v_x`, the bound with C = 1, which nothing guarantees.
    """

    steps: int
    assumption_fails: float
    no_constant: float
    holds: int
    violated: float | None
    above_leading_term: float


def perturbation(
    matrix: RowMatrix, alpha: float, indices: IntArray, epsilon: FloatArray, eligible: BoolArray
) -> Perturbation:
    """Hold the perturbation bound against every pick after the first; `epsilon` (s,) is that of the picks.

    The spectral norm never falls along the run, so the steps where the bound says something come first: their end is
    found by bisection, and rho is computed at up to 33 sizes among them.
    """
    count = max(indices.size - 1, 0)
    if count == 0:
        return Perturbation(0, 0.0, 0.0, 0, None, 0.0)
    X = np.sqrt(alpha) * matrix.rows_at(indices)
    largest = alpha * float(matrix.squared_norms[eligible].max())
    assumed = _last(count, lambda size: _norm(X[:size]) < 1.0)
    holds = _last(assumed, lambda size: _norm(X[:size]) * (1.0 + largest) < 1.0)
    leading = _leading_terms(X)[1:]
    actual = np.abs(epsilon[1:])
    slack = 1e-12 * (
        1.0 + np.log1p(alpha * matrix.squared_norms[indices[1:]])
    )  # epsilon is a difference of two numbers as large as base
    return Perturbation(
        steps=count,
        assumption_fails=1.0 - assumed / count,
        no_constant=(assumed - holds) / count,
        holds=holds,
        violated=float((actual[:holds] > _bounds(X, leading, holds, largest) + slack[:holds]).mean())
        if holds
        else None,
        above_leading_term=float((actual > leading + slack).mean()),
    )


def _norm(X: FloatArray) -> float:
    """`|X^T X|_2`, from the smaller Gram matrix."""
    gram = X @ X.T if X.shape[0] < X.shape[1] else X.T @ X
    return float(np.linalg.eigvalsh(gram)[-1])


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """How many of the sizes 1 to `count` hold, given that those come first."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _bounds(X: FloatArray, leading: FloatArray, holds: int, largest: float) -> FloatArray:
    """`C v` of the first `holds` steps; rho of a size is that of the next one on a grid, which is no smaller."""
    grid = np.unique(np.linspace(1, holds, min(holds, 33)).astype(np.int64))
    norms = np.array([_norm(X[:size]) for size in grid.tolist()])
    rho = norms[np.searchsorted(grid, np.arange(1, holds + 1))]
    return np.asarray(leading[:holds] / (1.0 - rho - largest * rho))


def _leading_terms(X: FloatArray) -> FloatArray:
    """`sum_{y before x} (x.y)^2 / (1 + |x|^2)` of every row of X in order, in blocks."""
    total = np.empty(len(X))
    for start in range(0, len(X), 256):
        block = X[start : start + 256]
        inner = X[: start + len(block)] @ block.T
        before = np.arange(len(inner))[:, None] < np.arange(start, start + len(block))
        total[start : start + 256] = np.einsum("ij,ij->j", inner * before, inner)
    return np.asarray(total / (1.0 + np.einsum("ij,ij->i", X, X)))
