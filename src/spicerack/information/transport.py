"""Optimal transport of a target's mass to its nearest rows, kept apart by density (TSDS, arXiv 2410.11303).

Every target sample sends the mass 1/m to rows, at the cost of their distance. Left alone, all of it goes to the nearest
row; a regularizer that asks for equal mass spreads it over more, and counts rows that lie close together as one: a row
of kernel density rho takes at most 1 / (m S rho) from each target sample, S being common to all. S grows for as long
as spreading is worth its cost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray, IntArray
from spicerack.information.neighbors import product_blocks


def densities(X: npt.NDArray[np.floating], bandwidth: float) -> FloatArray:
    """Kernel density `rho_i = sum_j max(0, 1 - |x_i - x_j|^2 / sigma^2)` of rows of unit length, itself included, (n,).

    Args:
        X: rows (n, k) of unit length.
        bandwidth: sigma >= 0; 0: every density is 1.
    """
    if bandwidth == 0.0:
        return np.ones(len(X))
    found = np.empty(len(X))
    for part, cosines in product_blocks(X, X):
        apart = np.maximum(2.0 - 2.0 * cosines, 0.0)
        found[part] = np.maximum(1.0 - apart / bandwidth**2, 0.0).sum(axis=1, dtype=np.float64)
    return np.maximum(found, 1.0)  # a row is as near to itself as can be, whatever rounding says


def transport(distances: FloatArray, density: FloatArray, *, alpha: float, scale: float) -> tuple[FloatArray, float]:
    """Mass that each target sample sends to each of its nearest rows, (m, K), each row of it summing to 1/m; and S.

    S is the smallest at which `alpha / C * cost >= (1 - alpha) * m`, the cost being what S units would save if all of
    them went to the row that is next in line: `sum_j (d_next S - sum_i d_i / rho_i)`. Where it never does, all K rows
    are filled.

    Args:
        distances: to the K nearest rows, ascending, (m, K).
        density: rho >= 1 of these rows, (m, K).
        alpha: in (0, 1]: weight of the cost; 1 - alpha: of the spread.
        scale: C > 0: of distances.
    """
    targets, K = distances.shape
    room = np.cumsum(1.0 / density, axis=1)
    size = float(room[:, -1].max())
    if K > 1:
        cost = distances[:, 1:] * room[:, :-1] - np.cumsum(distances / density, axis=1)[:, :-1]
        steps = np.diff(cost, axis=1, prepend=0.0)
        at = room[:, :-1].T.ravel()  # by neighbor, then by target: the order in which ties are walked
        order = np.argsort(at, kind="stable")
        total = np.cumsum(steps.T.ravel()[order])
        enough = np.flatnonzero(alpha / scale * total >= (1.0 - alpha) * targets)
        if enough.size:
            size = float(at[order[enough[0]]])
    filled = np.minimum(room, size) / size
    mass = np.diff(filled, axis=1, prepend=0.0) / targets
    mass[:, -1] += np.maximum(1.0 / targets - mass.sum(axis=1), 0.0)
    return mass, size


def transport_truth(
    distances: FloatArray, density: FloatArray, *, alpha: float, scale: float
) -> tuple[FloatArray, float]:
    """The same, walking S from one full row to the next: the truth for tests."""
    targets, K = distances.shape
    events = sorted((float((1.0 / density[j, : i + 1]).sum()), i, j) for j in range(targets) for i in range(K - 1))
    costs, size = [0.0] * targets, float((1.0 / density).sum(axis=1).max())
    for at, i, j in events:
        costs[j] = float(((distances[j, i + 1] - distances[j, : i + 1]) / density[j, : i + 1]).sum())
        if alpha / scale * sum(costs) >= (1.0 - alpha) * targets:
            size = at
            break
    mass = np.zeros((targets, K))
    for j in range(targets):
        left = 1.0 / targets
        for i in range(K):
            mass[j, i] = min(left, 1.0 / (targets * size * density[j, i])) if i + 1 < K else left
            left -= mass[j, i]
    return mass, size


def mass_of_rows(mass: FloatArray, neighbors: IntArray, n: int) -> FloatArray:
    """What each of n rows takes from all target samples together, (n,), summing to 1."""
    return np.asarray(np.bincount(neighbors.ravel(), mass.ravel(), minlength=n), dtype=np.float64)
