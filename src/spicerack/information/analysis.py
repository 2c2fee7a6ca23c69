"""The epsilon-decomposition as an instrument: what a run's gains and conflicts looked like, on the user's own rows.

    gain_x(S) = base_x + epsilon_x(S),  base_x = log(1 + alpha |g_x|^2),  epsilon_x(S) <= 0

Everything is of the full Fisher form, measured along the picks in the order given, whoever picked them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spicerack.information.certificate import total_curvature
from spicerack.information.conflict import Conflict
from spicerack.information.inverse import Inverse
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BLOCK_BYTES, BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.overlap import spearman
from spicerack.information.perturbation import Perturbation, perturbation


@dataclass(frozen=True)
class Steps:
    """The decomposition of every pick, before it was absorbed, each (s,)."""

    gain: FloatArray
    base: FloatArray
    epsilon: FloatArray
    conflict: FloatArray


@dataclass(frozen=True)
class Decomposition:
    """Base, epsilon and conflict of every row given the first `size` picks, each (n,); of a pick, those of a repeat."""

    size: int
    information: float
    base: FloatArray
    epsilon: FloatArray
    conflict: FloatArray


@dataclass(frozen=True)
class SizeStatistics:
    """`Decomposition` over the eligible rows that are not picked yet.

    Attributes:
        size: number of picks absorbed.
        information: U of those picks.
        rows: rows counted.
        gain_median, gain_max: of the marginal gain.
        epsilon_median, epsilon_min: of epsilon.
        kept_median: median of gain / base: the part of a row's own information that the picks do not hold yet.
        conflict_mean, conflict_max: of the conflict.
        opposed: share of rows with a positive conflict.
        conflict_gain, conflict_epsilon: Spearman correlation of the conflict with the gain and with |epsilon|, over
            rows; None where either is constant.
    """

    size: int
    information: float
    rows: int
    gain_median: float
    gain_max: float
    epsilon_median: float
    epsilon_min: float
    kept_median: float
    conflict_mean: float
    conflict_max: float
    opposed: float
    conflict_gain: float | None
    conflict_epsilon: float | None


@dataclass(frozen=True)
class Third:
    """A third of the eligible rows by their cosine against the mean of the picks, and its own total curvature."""

    name: str
    rows: int
    conflict_mean: float
    curvature: float | None


@dataclass(frozen=True)
class Analysis:
    """What a selection's run looked like.

    Attributes:
        alpha: weight of a row.
        rows: eligible rows.
        picks: rows picked.
        information: U of the picks.
        gain_first, gain_last: of the first and the last pick.
        half_life: see `half_life`.
        conflict_mean: of the picks, each when it was picked.
        conflict_gain, conflict_epsilon: Spearman correlation over the picks of the conflict with the gain, and with
            |epsilon|; None where either is constant.
        perturbation: the paper's bound on epsilon against the run.
        thirds: curvature of the low, middle and high conflict third.
        sizes: over the rows not picked yet, at each size asked for.
    """

    alpha: float
    rows: int
    picks: int
    information: float
    gain_first: float
    gain_last: float
    half_life: int | None
    conflict_mean: float
    conflict_gain: float | None
    conflict_epsilon: float | None
    perturbation: Perturbation
    thirds: tuple[Third, ...]
    sizes: tuple[SizeStatistics, ...]


def analyze(
    matrix: RowMatrix, alpha: float, indices: IntArray, eligible: BoolArray, decompositions: Sequence[Decomposition]
) -> Analysis:
    """Every number of a selection.

    Args:
        matrix: rows (n, k).
        alpha: > 0.
        indices: at least one row, in the order picked.
        eligible: rows that could have been picked, (n,).
        decompositions: from `decompose`, for the sizes to report.
    """
    steps = replay(matrix, alpha, indices)
    numbers = (statistics(at, eligible, indices) for at in decompositions)
    return Analysis(
        alpha=alpha,
        rows=int(eligible.sum()),
        picks=indices.size,
        information=float(steps.gain.sum()),
        gain_first=float(steps.gain[0]),
        gain_last=float(steps.gain[-1]),
        half_life=half_life(steps.gain),
        conflict_mean=float(steps.conflict.mean()),
        conflict_gain=spearman(steps.conflict, steps.gain),
        conflict_epsilon=spearman(steps.conflict, np.abs(steps.epsilon)),
        perturbation=perturbation(matrix, alpha, indices, steps.epsilon, eligible),
        thirds=thirds(matrix, alpha, indices, eligible),
        sizes=tuple(number for number in numbers if number is not None),
    )


def default_sizes(count: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below `count`, and `count`."""
    series = (lead * 10**power for power in range(len(str(count))) for lead in (1, 2, 5))
    return [*(size for size in series if size < count), count]


def replay(matrix: RowMatrix, alpha: float, indices: IntArray) -> Steps:
    """Every pick's gain, base, epsilon and conflict, in float64 from exact rows; no pass over the pool."""
    inverse, opposed = Inverse(matrix, alpha), Conflict(matrix)
    gain, conflict = np.empty(indices.size), np.empty(indices.size)
    for step, i in enumerate(indices.tolist()):
        conflict[step] = opposed.exact(np.array([i]))[0]
        gain[step] = np.log1p(inverse.push(i)[1])
        opposed.add(i)
    base = np.log1p(alpha * matrix.squared_norms[indices])
    return Steps(gain, base, gain - base, conflict)


def decompose(matrix: RowMatrix, alpha: float, indices: IntArray, sizes: Sequence[int]) -> list[Decomposition]:
    """The decomposition of all rows after each of `sizes` picks (ascending); one pass of n k min(s, k) a size."""
    state, conflict, done = FullFisher(matrix, alpha), Conflict(matrix), 0
    base = state.base()
    found = []
    for size in sizes:
        state.absorb(indices[done:size])
        conflict.absorb(indices[done:size])
        done = size
        found.append(Decomposition(size, state.value, base, state.gains() - base, _conflict_of_all(conflict)))
    return found


def _conflict_of_all(conflict: Conflict) -> FloatArray:
    """In float64: the zeros of float32 rounding would count as opposition."""
    step = max(1, BLOCK_BYTES // (8 * conflict.matrix.k))
    starts = range(0, conflict.matrix.n, step)
    return np.concatenate([conflict.exact(np.arange(at, min(at + step, conflict.matrix.n))) for at in starts])


def statistics(at: Decomposition, eligible: BoolArray, indices: IntArray) -> SizeStatistics | None:
    """Numbers of one size over the eligible rows not among the first `size` of `indices`; None if there are none."""
    rest = eligible.copy()
    rest[indices[: at.size]] = False
    if not rest.any():
        return None
    base, epsilon, conflict = at.base[rest], at.epsilon[rest], at.conflict[rest]
    gain = base + epsilon
    kept = gain[base > 0.0] / base[base > 0.0]
    return SizeStatistics(
        size=at.size,
        information=at.information,
        rows=int(rest.sum()),
        gain_median=float(np.median(gain)),
        gain_max=float(gain.max()),
        epsilon_median=float(np.median(epsilon)),
        epsilon_min=float(epsilon.min()),
        kept_median=float(np.median(kept)) if kept.size else 1.0,
        conflict_mean=float(conflict.mean()),
        conflict_max=float(conflict.max()),
        opposed=float((conflict > 0.0).mean()),
        conflict_gain=spearman(conflict, gain),
        conflict_epsilon=spearman(conflict, np.abs(epsilon)),
    )


def half_life(gains: FloatArray) -> int | None:
    """Picks until the first gain of at most half the first pick's; None if the run ended before."""
    below = np.flatnonzero(gains <= 0.5 * gains[0]) if gains.size and gains[0] > 0.0 else np.empty(0, dtype=np.int64)
    return int(below[0]) if below.size else None


def thirds(matrix: RowMatrix, alpha: float, indices: IntArray, eligible: BoolArray) -> tuple[Third, ...]:
    """Total curvature inside the low, middle and high conflict third of the eligible rows that are not zero.

    Rows are ordered by the negative cosine with the mean of the picks: the conflict before it is cut off at zero, which
    most rows' is. A third is a ground set of its own; `4 (n / 3) k^2` operations each.
    """
    mean = matrix.rows_at(indices).mean(axis=0)
    rows = np.flatnonzero(eligible & (matrix.squared_norms > 0.0))
    opposition = np.empty(matrix.n)
    for part, X in matrix.blocks():
        opposition[part] = -(X @ mean)
    length = float(np.linalg.norm(mean)) or 1.0
    opposition = opposition[rows] / (np.sqrt(matrix.squared_norms[rows]) * length)
    order = rows[np.argsort(opposition, kind="stable")]
    conflict = np.zeros(matrix.n)
    conflict[rows] = np.maximum(opposition, 0.0)
    result = []
    for name, group in zip(("low", "middle", "high"), np.array_split(order, 3), strict=True):
        mask = np.zeros(matrix.n, dtype=bool)
        mask[group] = True
        average = float(conflict[group].mean()) if group.size else 0.0
        curvature = total_curvature(matrix, alpha, mask) if group.size else None
        result.append(Third(name, int(group.size), average, curvature))
    return tuple(result)
