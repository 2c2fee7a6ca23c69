"""What a pass will cost: a few timed batches, extrapolated over the pool's tokens."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spicerack.numbers import DTYPES

if TYPE_CHECKING:
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass

TABLE_BYTES = 64  # of a row in the table, roughly: id, source, counts, losses, norms


@dataclass(frozen=True)
class Estimate:
    """Extrapolated cost of a pass. Bytes, seconds, tokens a second; no batch is timed where no model is run."""

    name: str
    samples: int
    tokens: int
    tokens_per_second: float
    seconds: float
    store_bytes: int
    peak_memory_bytes: int
    selection_memory_bytes: int
    timed_batches: int

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, for a table."""
        speed = f"{self.tokens_per_second:,.0f} tokens/s (from {self.timed_batches} batches)"
        return [
            ("samples", f"{self.samples:,}"),
            ("tokens", f"{self.tokens:,}"),
            *([("speed", speed)] if self.timed_batches else []),
            (self.name, _duration(self.seconds) if self.timed_batches else "no pass over the model"),
            ("store on disk", _size(self.store_bytes)),
            ("peak memory of the pass", _size(self.peak_memory_bytes)),
            ("memory of the selection", _size(self.selection_memory_bytes)),
        ]


def estimate(planned: GradientPass | CheckpointPasses, *, batches: int = 3) -> Estimate:
    """Price a gradient pass: time `batches` batches spread over the pool's lengths, and extrapolate by tokens.

    One batch is run before, so that nothing timed is the first of its kind.

    Args:
        planned: a surveyed pass; nothing is written. Of several checkpoints one is timed and stands for all.
        batches: how many to time, >= 1.
    """
    checkpoints = planned.count
    planned = planned.current
    chosen = planned.sample_batches(batches)
    with planned.capture() as capture:
        runner = planned.runner(capture)
        runner.run_with_backoff(chosen[-1])
        tokens, started = 0, time.perf_counter()
        for samples in chosen:
            runner.run_with_backoff(samples)
            tokens += sum(len(sample.input_ids) for sample in samples)
        seconds = time.perf_counter() - started
    total = int(planned.survey.tokens[planned.survey.trained_tokens > 0].sum())
    rows, k = len(planned.pool), planned.projection.dimension
    item = DTYPES[planned.config.storage_dtype].itemsize
    return Estimate(
        name="gradient pass",
        samples=rows,
        tokens=total,
        tokens_per_second=tokens / seconds,
        seconds=checkpoints * total * seconds / tokens,
        store_bytes=checkpoints * rows * (sum(planned.arrays.values()) * item + TABLE_BYTES),
        peak_memory_bytes=peak_memory(planned.loaded.device.type),
        selection_memory_bytes=rows * k * 4,
        timed_batches=len(chosen),
    )


def peak_memory(device: str) -> int:
    """Peak of the device's memory where it has its own, else of this process."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:,.1f} GB"
