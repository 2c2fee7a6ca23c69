"""What a pass cost: seconds, tokens, floating-point operations, and the share of what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIDE = 2048  # of the square matrices whose product measures the device's peak
PEAK_SECONDS = 0.3


@dataclass(frozen=True)
class Cost:
    """Cost of a pass.

    Attributes:
        tokens: differentiated, pads not counted.
        seconds: wall clock of the pass, from the first batch to the last write.
        flops: floating-point operations, extrapolated by tokens from one sample of middling length.
        peak_flops: a second, measured as a large matrix product in the same dtype on the same device.
    """

    tokens: int
    seconds: float
    flops: float
    peak_flops: float

    def summary(self) -> dict[str, Any]:
        """The figures, and what follows from them."""
        return {
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            "flops": self.flops,
            "peak_flops": self.peak_flops,
            "share_of_peak": round(self.flops / self.seconds / self.peak_flops, 4) if self.seconds else None,
        }


def count_flops(work: Callable[[], Any]) -> int:
    """Floating-point operations of `work`: matrix products and attention, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: the most the device is seen to do."""
    import torch

    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    a @ b  # the first call sets things up
    _wait(device)
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < PEAK_SECONDS:
        a @ b
        products += 1
        _wait(device)
    return products * 2 * SIDE**3 / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
