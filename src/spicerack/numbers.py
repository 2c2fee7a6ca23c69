"""Numbers as a store holds them: float16, bfloat16 or float32.

numpy has no bfloat16. Such a number is the upper half of a float32, and an array of them is one of uint16, which rows
are in no other case. So the dtype of an array says what it holds, to loops and to readers alike.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT16, BFLOAT16, FLOAT32 = np.dtype("<f2"), np.dtype("<u2"), np.dtype("<f4")
DTYPES: dict[str, np.dtype[Any]] = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32}
"""Of the arrays that hold them, by the names of `config.StorageDtype`."""

EXPONENTS = {FLOAT16: np.uint16(0x7C00), BFLOAT16: np.uint16(0x7F80)}
"""The bits that are all set in infinity and NaN."""

TORCH_ABOVE = 1 << 20
"""Entries of an array from which to convert or to copy it is worth torch's import."""


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether an array of this dtype holds numbers of two bytes."""
    return dtype in EXPONENTS


def as_stored(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[Any]:
    """Finite numbers as an array holds them, contiguous, each rounded to the nearest, to the even one of two.

    Args:
        values: float32.
        name: float16, bfloat16 or float32.
    """
    if name != "bfloat16":
        return np.ascontiguousarray(values, dtype=DTYPES[name])
    bits = np.ascontiguousarray(values, dtype=FLOAT32).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(BFLOAT16)


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Stored numbers in float32, which holds each exactly; float64 is rounded.

    Many go through torch, which converts half precision twenty times as fast as numpy.
    """
    if values.dtype == BFLOAT16:
        if values.size < TORCH_ABOVE:
            return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        import torch

        return np.asarray(as_tensor(values).view(torch.bfloat16).float().numpy())
    if values.dtype == FLOAT16 and values.size >= TORCH_ABOVE:
        return np.asarray(as_tensor(values).float().numpy())
    return values.astype(np.float32, copy=False)


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Whether no number is infinite or NaN; two bytes by their bits, which is ten times as fast."""
    if is_half(values.dtype):
        exponent = EXPONENTS[values.dtype]
        return not ((values.view(np.uint16) & exponent) == exponent).any()
    return bool(np.isfinite(values.sum(dtype=np.float64)))


def as_tensor(values: npt.NDArray[Any]) -> Any:
    """An array as torch sees it, without a copy."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a read-only array: nothing here writes
        return torch.from_numpy(values)
