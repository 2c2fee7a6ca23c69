"""What all rows say together: mean, second moment, energies, and the alpha that goes with their lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import BLOCK_BYTES, BoolArray, FloatArray, RowMatrix, as_row_matrix


def mean_row(matrix: RowMatrix, eligible: BoolArray) -> FloatArray:
    """Mean of the eligible rows, (k,) float64."""
    total = np.zeros(matrix.k)
    for part, rows in matrix.blocks():
        total += rows[eligible[part]].sum(axis=0)
    return total / max(1, int(np.count_nonzero(eligible)))


def second_moment(matrix: npt.NDArray[Any] | RowMatrix, weights: BoolArray | FloatArray | None = None) -> FloatArray:
    """`C = sum_j w_j t_j t_j^T`, float64 (k, k).

    Args:
        matrix: rows t (n, k).
        weights: w >= 0, (n,), or a mask; default: 1 for all.
    """
    matrix = as_row_matrix(matrix)
    total = np.zeros((matrix.k, matrix.k))
    for part, rows in matrix.blocks():
        if weights is None:
            total += rows.T @ rows
            continue
        kept = np.flatnonzero(weights[part])
        total += (rows[kept] * weights[part][kept, None]).T @ rows[kept]
    return total


def median_alpha(matrix: RowMatrix, eligible: BoolArray) -> tuple[float, str]:
    """Alpha such that `alpha * median |g|^2 = 1`, and the reason: norms of real models span orders of magnitude.

    Over the eligible rows; where most of them are zero, over those that are not; where all are, 1.
    """
    squared = matrix.squared_norms[eligible]
    median, of = float(np.median(squared)), "eligible rows"
    if median == 0.0 and squared.any():
        median, of = float(np.median(squared[squared > 0.0])), "non-zero rows, most rows being zero"
    if median == 0.0:
        return 1.0, "every row is zero, so any alpha gives the same picks"
    return 1.0 / median, f"alpha * median |g|^2 = 1 over the {of}"


def row_energies(X: FloatArray, Z: FloatArray) -> FloatArray:
    """`|Z^T x_i|^2` of the rows of X, (r,), without holding `X Z`."""
    out = np.empty(len(X))
    step = max(1, BLOCK_BYTES // (8 * max(1, Z.shape[1])))
    for start in range(0, len(X), step):
        XZ = X[start : start + step] @ Z
        out[start : start + step] = np.einsum("ij,ij->i", XZ, XZ)
    return out
