"""Loops over vectors of all rows, compiled to machine code; they hold no lock, so threads run them side by side.

`follow` makes one loop of what takes numpy twelve, a fifth of the time; `best` and `above` two of what takes it ten.

Compiled code is kept beside this file or in the user's cache; where neither can be written, each process compiles anew,
in a second or two. Imported only once rows are many: see `matrix.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "nsz", "contract"},
}  # sums in any order; NaN stays what it is


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, for the types it is called with."""
    try:
        kept: Callable[..., Any] = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder to keep compiled code in
        kept = numba.njit(**OPTIONS)(function)
    return kept


def follow(
    p: npt.NDArray[np.float64],
    r: npt.NDArray[np.float64],
    vectors: Sequence[npt.NDArray[np.float64]],
    factors: Sequence[float],
    doubts: Sequence[float],
) -> None:
    """What a pick changes in the vectors of `transductive.Transductive`, in place.

        den = max(den - lower p^2, 1);      av = max(av + cross p r + raised p^2, 0);     gains = av / den
        error2 += along p^2 + across r^2;   slack by `transductive.slack_of`

    Args:
        p: (n,).
        r: (n,).
        vectors: den, av, error2, gains, slack, rho and av0, (n,) each.
        factors: lower, cross, raised, along and across.
        doubts: those of `transductive.Doubts`.
    """
    _follow(p, r, *vectors, *factors, *doubts)


def best(vectors: Sequence[npt.NDArray[Any]], weight: float, slope: float) -> tuple[int, float, float]:
    """What `contest.Field.best` finds: the first row of the largest score, the score, the largest bound.

    Args:
        vectors: gains, conflict, mask of the open rows, and what `slope` is multiplied with, (n,) each.
        weight: of the conflict.
        slope: of the bound.
    """
    row, score, most = _best(*vectors, weight, slope)
    return int(row), float(score), float(most)


def above(vectors: Sequence[npt.NDArray[Any]], weight: float, slope: float, least: float) -> npt.NDArray[np.int64]:
    """What `contest.Field.above` finds: the rows whose bound is `least` or more; arguments as for `best`."""
    found = np.empty(len(vectors[0]), dtype=np.int64)
    return found[: _above(*vectors, weight, slope, least, found)].copy()


@compiled
def _best(gains: Any, conflict: Any, open_: Any, vector: Any, weight: float, slope: float) -> Any:
    row, score, most = -1, -np.inf, -np.inf
    for i in range(gains.shape[0]):
        if open_[i]:
            own = gains[i] - weight * conflict[i]
            if own > score:
                row, score = i, own
            most = max(most, own + slope * vector[i])
    return row, score, most


@compiled
def _above(
    gains: Any, conflict: Any, open_: Any, vector: Any, weight: float, slope: float, least: float, found: Any
) -> int:
    count = 0
    for i in range(gains.shape[0]):
        if open_[i] and gains[i] - weight * conflict[i] + slope * vector[i] >= least:
            found[count] = i
            count += 1
    return count


@compiled
def _follow(
    p: Any,
    r: Any,
    den: Any,
    av: Any,
    error2: Any,
    gains: Any,
    slack: Any,
    rho: Any,
    av0: Any,
    lower: float,
    cross: float,
    raised: float,
    along: float,
    across: float,
    passes: float,
    second: float,
    of_den: float,
    wide: float,
) -> None:
    for i in range(p.shape[0]):
        square = p[i] * p[i]
        den[i] = max(den[i] - lower * square, 1.0)
        av[i] = max(av[i] + cross * (p[i] * r[i]) + raised * square, 0.0)
        error2[i] += along * square + across * (r[i] * r[i])
        gains[i] = av[i] / den[i]
        of_q = of_den * rho[i]
        error = passes * math.sqrt(error2[i] * rho[i]) + second * rho[i] + wide * av0[i] + gains[i] * of_q
        slack[i] = error / max(den[i] - of_q, 1.0)
