"""Arithmetic in place on vectors of n, one pass each: what a step costs beside its pass over the rows.

numpy makes `a += s * b * c` three passes over memory on one core. From `FUSED_ABOVE` entries torch does it in one, on
all cores.
"""

from __future__ import annotations

from spicerack.information.matrix import FloatArray

FUSED_ABOVE = 1 << 15


def add_product(out: FloatArray, a: FloatArray, b: FloatArray, scale: float) -> None:
    """`out += scale * a * b`, all (n,) float64."""
    if out.size < FUSED_ABOVE:
        out += scale * (a * b)
        return
    import torch

    torch.from_numpy(out).addcmul_(torch.from_numpy(a), torch.from_numpy(b), value=scale)
