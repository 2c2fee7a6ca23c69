"""What a feature pass will cost: a few timed batches, extrapolated over the pool's tokens, as for a gradient pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from spicerack.features.shard import ShardFeatures
from spicerack.gradients.estimate import TABLE_BYTES, Estimate, peak_memory
from spicerack.numbers import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spicerack.features.collect import FeaturePass
    from spicerack.features.shard import Text

COLUMN_BYTES = 8  # of a row in a column that a method ranks by


def estimate_features(planned: FeaturePass, *, batches: int = 3) -> Estimate:
    """Price a forward pass: time `batches` batches spread over the pool's lengths, and extrapolate by tokens.

    A row stands for all its texts: its response alone and its ratings are run, and timed, with it.

    Args:
        planned: a surveyed pass; nothing is written.
        batches: how many to time, >= 1.
    """
    layout, total, rows = planned.layout, int(planned.survey.tokens.sum()), len(planned.pool)
    tokens_per_batch = planned.tokens_per_batch() if layout.runs_model else 0
    chosen = planned.sample_rows(batches, tokens_per_batch) if layout.runs_model else []
    seconds, tokens = 0.0, 0

    def run(rows: np.ndarray, texts: Sequence[Text]) -> None:
        results = ShardFeatures(len(rows), layout)
        for batch in planned.runner.batches(texts, tokens_per_batch):
            planned.runner.run(batch, results)

    if chosen:
        run(*chosen[-1])
        started = time.perf_counter()
        for members, texts in chosen:
            run(members, texts)
            tokens += int(planned.survey.tokens[members].sum())
        seconds = time.perf_counter() - started
    item = DTYPES[planned.config.storage_dtype].itemsize
    width = sum(layout.arrays.values())
    return Estimate(
        name=f"forward pass: {', '.join(planned.config.features)}" if chosen else "token counts",
        samples=rows,
        tokens=total,
        tokens_per_second=tokens / seconds if chosen else 0.0,
        seconds=total * seconds / tokens if chosen else 0.0,
        store_bytes=rows * (width * item + TABLE_BYTES),
        peak_memory_bytes=peak_memory(planned.loaded.device.type),
        selection_memory_bytes=rows * (width * 4 + COLUMN_BYTES),
        timed_batches=len(chosen),
    )
