"""The working copy of a pool's rows in the memory of a torch device, where the passes over all rows run.

Only passes move: what decides a pick stays in float64 on the exact rows, in main memory, so the picks are those of any
other machine. Columns travel to the device; sums and products by row travel back.

Products run in full float32, in parts of `PART` columns that are added one after the other. So the rounding is bounded
whatever the kernel does: k terms summed in any order, fused or not, err by at most `k eps / 2` of the sum of their
magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), which is at most `|g| |v|`; a part
has `PART` terms, and every further part is one more addition. TF32 would break the bound, and is off here whatever the
process has set; whether a device breaks it in some other way is tried (`shortfall`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from spicerack.numbers import as_tensor

PART = 64
"""Columns of a part: few, so that rounding stays small (from k = 256 on below the bound of main memory); enough for the
product of a part to cost more than adding it to the others."""

EPS = float(np.finfo(np.float32).eps)


class DeviceRows:
    """Working rows, float32 (n, k), on a device; `RowMatrix` takes them in the place of an array.

    Args:
        blocks: the rows in order, a block at a time with its place.
        shape: (n, k).
        device: as torch names it; "cpu" runs the same code in main memory.
    """

    dtype: ClassVar[np.dtype[np.float32]] = np.dtype(np.float32)

    def __init__(self, blocks: Iterable[tuple[slice, npt.NDArray[Any]]], shape: tuple[int, int], device: str) -> None:
        import torch

        self.shape, self.device = shape, device
        self._X = torch.empty(shape, dtype=torch.float32, device=device)
        for part, rows in blocks:
            self._X[part].copy_(as_tensor(np.ascontiguousarray(rows, dtype=np.float32)))

    def __getitem__(self, rows: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.float32]:
        """Rows brought to main memory, (r, k)."""
        return np.asarray(self.block(rows).X.cpu().numpy())

    def block(self, rows: npt.NDArray[np.int64] | slice) -> DeviceBlock:
        """Rows where they are."""
        if isinstance(rows, slice):
            return DeviceBlock(self._X[rows])
        return DeviceBlock(self._X.index_select(0, as_tensor(rows).to(self.device)))

    def product(self, columns: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """`g_i . c_j` of all rows with a few columns c (c, k), as (c, n)."""
        return np.asarray(_times(self._X, columns).T.contiguous().cpu().numpy())

    @property
    def rounding(self) -> float:
        """Largest error of a product in units of `|g_i| |c|`: of casting both, and of the sums."""
        return _rounding(self.shape[1])


@dataclass(frozen=True)
class DeviceBlock:
    """Some of the rows, on their device: a `Block`."""

    X: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return DeviceRows.dtype

    def energies(
        self, columns: npt.NDArray[Any], first: npt.NDArray[np.int64], stop: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """See `Block`; the sums are made on the device."""
        import torch

        Y = _times(self.X, columns)
        last = Y[:, -1].clone()
        counted = Y[:, :stop].square_()
        if first.any():
            number = torch.arange(stop, device=Y.device)
            counted.masked_fill_(number[None] < as_tensor(first).to(Y.device)[:, None], 0.0)
        energy, along = torch.stack([counted.sum(dim=1), last]).cpu().numpy().astype(np.float64)
        return energy, along


def shortfall(device: str, k: int) -> str | None:
    """Why the passes cannot be left to a device, or None: what it loses on rows (k,) that lose the most in TF32.

    Their entries are ones that TF32 (10 bits) and bfloat16 (7 bits) round to 1, all in the same direction.
    """
    probe = np.full((64, k), 1.0 + 2.0**-12, dtype=np.float32)
    X, exact = as_tensor(probe).to(device), k * (1.0 + 2.0**-12) ** 2
    for columns in (probe[:2], probe):
        found = _times(X, columns).cpu().numpy().astype(np.float64)
        worst = float(np.abs(found / exact - 1.0).max())
        if not worst <= _rounding(k):
            return f"it multiplies float32 with a relative error of {worst:.1e}; {_rounding(k):.1e} is the most allowed"
    return None


def _rounding(k: int) -> float:
    return EPS * (2.0 + (min(k, PART) + math.ceil(k / PART)) / 2.0)


def _times(X: Any, columns: npt.NDArray[Any]) -> Any:
    """`X columns^T`, (r, c), part by part."""
    C = as_tensor(np.ascontiguousarray(columns, dtype=np.float32)).to(X.device).T
    with full_float32():
        Y = X[:, :PART] @ C[:PART]
        for start in range(PART, X.shape[1], PART):
            Y.addmm_(X[:, start : start + PART], C[start : start + PART])
    return Y


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 matrices in float32, not TF32 or bfloat16, whatever the process has set; put back after."""
    import torch

    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch 2.8: one setting for all devices
        kept = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(kept)
        return
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
