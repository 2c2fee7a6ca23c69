"""Products of rows with three columns at the speed of memory, in a compiled loop that says itself what registers do.

Memory is read faster at several places at once, so the loop goes through four runs of rows side by side, and what it
loads of the columns serves four rows. 100,000 x 512 rows in float32 are multiplied in 11.4 ms on two cores with AVX2,
where a sum over them takes 10.2; in half precision in 6.5. Row by row, as a compiler vectorizes it, they take 15 to 17.
A BLAS is slower still with so few columns.

No compiler finds this by itself, so numba is taught a type: the numbers of a register, of which LLVM makes what the
processor has. Products hold no lock: threads run them side by side on different rows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

from spicerack.information.native import compiled
from spicerack.numbers import as_float32, is_half

COLUMNS = 3
"""The columns that a pass takes at once: with four rows, twelve sums, as many as sixteen registers leave room for."""

RUNS = 4
"""Rows that are multiplied side by side."""

BYTES = 32
"""Of a register: what AVX2 has, half of AVX-512, two of NEON."""

TERMS = 32
"""Products that a number of a register sums in the working precision; the sums of those are added in float64."""

UNITS = 20.0
"""Bound of the error of a product in units of eps |x| |c|. Casting costs one at most. Each number of a register is the
sum of 32 terms, of which each costs half a unit of the sum of their magnitudes, and to add the numbers of a register
costs one and a half (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1)."""

HALVES = platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86") or (
    getattr(numba.config, "CPU_NAME", None) is None
    and getattr(numba.config, "CPU_FEATURES", None) is None
    and bool(llvmlite.binding.get_host_cpu_features().get("f16c"))
)
"""Whether compiled code may widen half precision by itself: x86 has had the instruction since 2012, but numba can be
told to compile for an older processor. Else numpy does it, block by block."""

_intrinsic: Callable[..., Any] = intrinsic


def multiply(X: npt.NDArray[Any], columns: npt.NDArray[Any], out: npt.NDArray[np.float64], start: int) -> None:
    """Write `x_i . c_j` to `out[j, start + i]`, j = 0, 1, 2.

    Args:
        X: rows (r, k), float16, bfloat16 (`numbers.py`), float32 or float64; copied where a row is not in one piece.
        columns: c (3, k), contiguous, of the same type; for rows in half precision float32.
        out: (3, n), contiguous.
        start: place of the first row.
    """
    if X.strides[1] != X.itemsize:
        X = np.ascontiguousarray(X)
    if X.dtype == np.float16 and not HALVES:
        X = X.astype(np.float32)
    _multiply(X.view(np.int16) if X.dtype == np.float16 else X, columns, out, start)  # numba does not know float16
    if rest := X.shape[1] % (2 * BYTES // columns.itemsize):
        last = as_float32(X[:, -rest:]) if is_half(X.dtype) else X[:, -rest:]
        _multiply_rest(last, columns[:, -rest:], out[:, start : start + len(X)])


class Lanes(numba.types.Type):
    """The numbers of a vector register."""

    def __init__(self, number: Any) -> None:
        self.number, self.count = number, 8 * BYTES // number.bitwidth
        super().__init__(name=f"Lanes({number})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.number).get_value_type(), lanes.count))  # type: ignore[no-untyped-call]


def _of_float16(builder: Any, bits: Any, count: int) -> Any:
    halves = builder.bitcast(bits, ir.VectorType(ir.HalfType(), count))
    return builder.fpext(halves, ir.VectorType(ir.FloatType(), count))


def _of_bfloat16(builder: Any, bits: Any, count: int) -> Any:
    wide = ir.VectorType(ir.IntType(32), count)
    upper = builder.shl(builder.zext(bits, wide), ir.Constant(wide, [ir.IntType(32)(16)] * count))
    return builder.bitcast(upper, ir.VectorType(ir.FloatType(), count))


_FROM_BITS: dict[Any, Callable[..., Any]] = {numba.types.int16: _of_float16, numba.types.uint16: _of_bfloat16}
"""What makes float32 of a register's numbers in half precision, which arrays hold as integers."""


@_intrinsic
def _load(_: Any, X: Any, i: Any, j: Any) -> Any:
    """`X[i, j]` and what follows it in the row, as many as a register holds; half precision as float32."""
    lanes = Lanes(numba.types.float32 if X.dtype in _FROM_BITS else X.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(X)(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        offset = builder.mul(arguments[2], ir.Constant(stride.type, X.dtype.bitwidth // 8))
        offset = builder.add(builder.mul(arguments[1], stride), offset)
        place = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [offset])
        type_ = ir.VectorType(context.get_value_type(X.dtype), lanes.count)
        found = builder.load(builder.bitcast(place, type_.as_pointer()), align=X.dtype.bitwidth // 8)
        return _FROM_BITS[X.dtype](builder, found, lanes.count) if X.dtype in _FROM_BITS else found

    return lanes(X, numba.types.intp, numba.types.intp), generate


@_intrinsic
def _count(_: Any, columns: Any) -> Any:
    """How many numbers of the columns' type a register holds."""
    count = Lanes(columns.dtype).count
    return numba.intp(columns), lambda context, *_: context.get_constant(numba.intp, count)


@_intrinsic
def _zeros(_: Any, array: Any) -> Any:
    """A register of zeros of an array's type."""
    lanes = Lanes(array.dtype)
    return lanes(array), lambda context, *_: ir.Constant(context.get_value_type(lanes), None)


@_intrinsic
def _add_product(_: Any, sums: Any, x: Any, c: Any) -> Any:
    """`sums + x * c`, number by number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[1], arguments[2], flags=("contract",))
        return builder.fadd(arguments[0], product, flags=("contract",))  # one operation where the processor has it

    return sums(sums, x, c), generate


@_intrinsic
def _add_totals(_: Any, totals: Any, p: Any, q: Any, r: Any, s: Any) -> Any:
    """Add the sum of each of four registers to one of the four numbers of `totals`, which are in float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pairs(first: Any, second: Any) -> Any:
            """Sums of two neighbors each: of every four numbers, two of the first and two of the second."""
            places = [group + place for group in range(0, p.count, 4) for place in (0, 2, p.count, p.count + 2)]
            even, odd = ([ir.IntType(32)(place + by) for place in places] for by in (0, 1))
            type_ = ir.VectorType(ir.IntType(32), p.count)
            return builder.fadd(
                builder.shuffle_vector(first, second, ir.Constant(type_, even)),
                builder.shuffle_vector(first, second, ir.Constant(type_, odd)),
            )

        before, *registers = arguments
        found = pairs(pairs(*registers[:2]), pairs(*registers[2:]))  # p, q, r, s, and again as long as there are lanes
        four = ir.VectorType(ir.IntType(32), 4)
        parts = [
            builder.shuffle_vector(found, found, ir.Constant(four, [ir.IntType(32)(group + i) for i in range(4)]))
            for group in range(0, p.count, 4)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = builder.fadd(total, part)
        return builder.fadd(before, total if total.type == before.type else builder.fpext(total, before.type))

    return totals(totals, p, q, r, s), generate


@_intrinsic
def _at(_: Any, lanes: Any, place: Any) -> Any:
    """One number of a register."""
    return lanes.number(lanes, numba.types.int32), lambda _, builder, __, given: builder.extract_element(*given)


@compiled
def _multiply(X: Any, columns: Any, out: Any, start: int) -> None:
    n, k = X.shape
    run, lanes = n // RUNS, _count(columns)
    whole = k // (2 * lanes) * (2 * lanes)
    for step in range(run + n % RUNS):
        a, b, c, d = step, step + run, step + 2 * run, step + 3 * run
        if step >= run:  # what four runs leave over, each as if it were four
            a = b = c = d = step + (RUNS - 1) * run
        totals = _zeros(out), _zeros(out), _zeros(out)
        for low in range(0, whole, TERMS * lanes):
            p = q = r = s = _zeros(columns), _zeros(columns), _zeros(columns)
            for two in range(low, min(low + TERMS * lanes, whole), 2 * lanes):
                for j in (two, two + lanes):
                    values = _load(columns, 0, j), _load(columns, 1, j), _load(columns, 2, j)
                    p = _with_products(p, _load(X, a, j), values)
                    q = _with_products(q, _load(X, b, j), values)
                    r = _with_products(r, _load(X, c, j), values)
                    s = _with_products(s, _load(X, d, j), values)
            totals = (
                _add_totals(totals[0], p[0], q[0], r[0], s[0]),
                _add_totals(totals[1], p[1], q[1], r[1], s[1]),
                _add_totals(totals[2], p[2], q[2], r[2], s[2]),
            )
        for column in range(COLUMNS):
            total = totals[column]
            out[column, start + a], out[column, start + b] = _at(total, 0), _at(total, 1)
            out[column, start + c], out[column, start + d] = _at(total, 2), _at(total, 3)


@compiled
def _multiply_rest(X: Any, columns: Any, out: Any) -> None:
    """Add the products of the last entries of all rows, fewer than a register holds."""
    for i in range(X.shape[0]):
        for column in range(COLUMNS):
            for j in range(X.shape[1]):
                out[column, i] += np.float64(X[i, j]) * np.float64(columns[column, j])


@compiled
def _with_products(sums: Any, x: Any, values: Any) -> Any:
    return (
        _add_product(sums[0], x, values[0]),
        _add_product(sums[1], x, values[1]),
        _add_product(sums[2], x, values[2]),
    )
