"""Loops over all rows, compiled to machine code: products with three columns at once, at the speed of memory.

A BLAS is slower than that with so few columns: 100,000 x 512 rows in float32 are read in 5.7 ms on two cores, and their
products took 18 ms with one column, 6.3 with two, 9.3 with three. The loop here takes 5.7 for any three, so fewer are
filled up, and 3.7 where rows are in half precision. It holds no lock: threads run it side by side on different rows.

`follow` makes one loop of what takes numpy twelve, a fifth of the time; `best` and `above` two of what takes it ten.

Compiled code is kept beside this file or in the user's cache; where neither can be written, each process compiles anew,
in about a second. Imported only once rows are many: see `matrix.py`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import llvmlite.ir
import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

COLUMNS = 3
"""The columns that a pass takes at once."""

PART = 128
"""Entries of a row whose products are summed in the working precision; the sums of parts are added in float64."""

UNITS = 20.0
"""Bound of the error of a product in units of eps |x| |c|. Casting costs one at most. A part is summed by the lanes of
a vector register, four or more: 32 terms each at most, of which every addition but the first costs half a unit of the
sum of their magnitudes, and to add the lanes costs one (Higham, Accuracy and Stability of Numerical Algorithms, section
3.1). One term after the other, where there are no lanes, was measured at 16, sixteen lanes at 1.5."""

HALVES = platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86") or (
    getattr(numba.config, "CPU_NAME", None) is None
    and getattr(numba.config, "CPU_FEATURES", None) is None
    and bool(llvmlite.binding.get_host_cpu_features().get("f16c"))
)
"""Whether compiled code may widen half precision by itself: x86 has had the instruction since 2012, but numba can be
told to compile for an older processor. Else numpy does it, block by block."""

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "nsz", "contract"},
}  # sums in any order; NaN stays what it is


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, for the types it is called with."""
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder to keep compiled code in
        compiled = numba.njit(**OPTIONS)(function)
    return compiled


def multiply(X: npt.NDArray[Any], columns: npt.NDArray[Any], out: npt.NDArray[np.float64], start: int) -> None:
    """Write `x_i . c_j` to `out[j, start + i]`, j = 0, 1, 2.

    Args:
        X: rows (r, k), float16, float32 or float64.
        columns: c (3, k), contiguous, of the same type; for float16 rows float32.
        out: (3, n), contiguous.
        start: place of the first row.
    """
    if X.dtype == np.float16:
        X = X.view(np.uint16) if HALVES else X.astype(np.float32)
    _multiply(X, columns, out, start)


def follow(
    p: npt.NDArray[np.float64],
    r: npt.NDArray[np.float64],
    vectors: Sequence[npt.NDArray[np.float64]],
    factors: Sequence[float],
) -> float:
    """What a pick changes in the vectors of `transductive.Transductive`, in place.

        den = max(den - lower p^2, 1);      av = max(av + cross p r + raised p^2, 0);     gains = av / den
        error2 += along p^2 + across r^2

    Args:
        p: (n,).
        r: (n,).
        vectors: den, av, error2, gains and per_rho, (n,) each.
        factors: lower, cross, raised, along and across.

    Returns:
        The largest `error2 * per_rho`.
    """
    return float(_follow(p, r, *vectors, *factors))


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


_intrinsic: Callable[..., Any] = intrinsic


@_intrinsic
def _number(context: Any, x: Any) -> Any:
    """A number as it is; the bits of one in half precision, which numba does not know, as float32."""

    def widen(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.fpext(builder.bitcast(given[0], llvmlite.ir.HalfType()), llvmlite.ir.FloatType())

    if x == numba.types.uint16:
        return numba.types.float32(x), widen
    return x(x), lambda _, __, ___, given: given[0]


@_compiled
def _best(gains: Any, conflict: Any, open_: Any, vector: Any, weight: float, slope: float) -> Any:
    row, score, most = -1, -np.inf, -np.inf
    for i in range(gains.shape[0]):
        if open_[i]:
            own = gains[i] - weight * conflict[i]
            if own > score:
                row, score = i, own
            most = max(most, own + slope * vector[i])
    return row, score, most


@_compiled
def _above(
    gains: Any, conflict: Any, open_: Any, vector: Any, weight: float, slope: float, least: float, found: Any
) -> int:
    count = 0
    for i in range(gains.shape[0]):
        if open_[i] and gains[i] - weight * conflict[i] + slope * vector[i] >= least:
            found[count] = i
            count += 1
    return count


@_compiled
def _multiply(X: Any, columns: Any, out: Any, start: int) -> None:
    k = X.shape[1]
    for i in range(X.shape[0]):
        first, second, third = 0.0, 0.0, 0.0
        for low in range(0, k, PART):
            part = slice(low, low + PART)
            a, b, c = _dots(X[i, part], columns[0, part], columns[1, part], columns[2, part])
            first += a
            second += b
            third += c
        out[0, start + i], out[1, start + i], out[2, start + i] = first, second, third


@_compiled
def _dots(x: Any, a: Any, b: Any, c: Any) -> Any:
    first = second = third = a.dtype.type(0)
    for j in range(x.shape[0]):
        value = _number(x[j])
        first += value * a[j]
        second += value * b[j]
        third += value * c[j]
    return first, second, third


@_compiled
def _follow(
    p: Any,
    r: Any,
    den: Any,
    av: Any,
    error2: Any,
    gains: Any,
    per_rho: Any,
    lower: float,
    cross: float,
    raised: float,
    along: float,
    across: float,
) -> float:
    for i in range(p.shape[0]):
        square = p[i] * p[i]
        den[i] = max(den[i] - lower * square, 1.0)
        av[i] = max(av[i] + cross * (p[i] * r[i]) + raised * square, 0.0)
        error2[i] += along * square + across * (r[i] * r[i])
        gains[i] = av[i] / den[i]
    steepest = 0.0
    for i in range(p.shape[0]):
        steepest = max(steepest, error2[i] * per_rho[i])
    return steepest
