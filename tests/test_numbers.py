"""Numbers of two bytes: rounded as torch and numpy round, and exact in float32."""

from typing import get_args

import numpy as np
import pytest
import torch

from spicerack import numbers
from spicerack.config import StorageDtype
from spicerack.numbers import DTYPES, all_finite, as_float32, as_stored

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def ties():
    """Values of every size, and those that lie halfway between two numbers of half precision."""
    normal = np.random.default_rng(0).standard_normal(2_000)
    values = np.outer(2.0 ** np.arange(-40, 10), normal).astype(np.float32)
    bits = values.view(np.uint32)
    halfway = [bits >> shift << shift | 1 << (shift - 1) for shift in (13, 16)]
    return np.concatenate(
        [values, *(found.view(np.float32) for found in halfway), np.zeros_like(values), -0.0 * values]
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("large", [False, True])
def test_numbers_are_rounded_as_torch_rounds(dtype, large, monkeypatch):
    monkeypatch.setattr(numbers, "TORCH_ABOVE", 0 if large else 1 << 40)
    values = ties()
    stored = as_stored(values, dtype)
    assert stored.dtype == DTYPES[dtype]
    expected = torch.from_numpy(values).to(HALVES[dtype])
    np.testing.assert_array_equal(stored.view(np.int16), expected.view(torch.int16).numpy())
    back = as_float32(stored)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, expected.float().numpy())
    np.testing.assert_array_equal(as_float32(stored[::2, 5:]), back[::2, 5:])


@pytest.mark.parametrize("dtype", get_args(StorageDtype))
def test_infinity_and_nan_are_found(dtype):
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        held = torch.full((4, 5), 0.25)
        stored = held.to(getattr(torch, dtype))
        assert all_finite(array_of(stored))
        stored[2, 3] = bad
        assert not all_finite(array_of(stored))


def array_of(stored):
    return (
        (stored if stored.dtype == torch.float32 else stored.view(torch.int16))
        .numpy()
        .view(DTYPES[str(stored.dtype).removeprefix("torch.")])
    )
