"""Filling a store: what every pass over a pool does, whatever it computes.

Shard after shard: the next one's rows are read ahead in a thread, the last one's results are written in another. The
batches of a store hold what they were begun with, so that an interrupted pass goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from spicerack.store.layout import Shard

if TYPE_CHECKING:
    from spicerack.store.writer import StoreWriter

Rows = TypeVar("Rows")
Results = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
"""A shard's arrays by name, (rows, columns) float32 each, and the columns of its table."""


def fill_shards(
    writer: StoreWriter,
    shards: Sequence[Shard],
    *,
    read: Callable[[Shard], Rows],
    compute: Callable[[Shard, Rows], Results],
) -> None:
    """Compute shards, in order, while their rows are read and their results written.

    Args:
        writer: of the store.
        shards: those that are missing, at least one.
        read: what computing a shard needs; called in a thread, one shard ahead.
        compute: a shard's results from what was read.

    Raises:
        OutputError: the folder cannot be written; finished shards are kept.
    """
    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "write") as writing:
        ahead = reading.submit(read, shards[0])
        written: Future[None] | None = None
        for index, shard in enumerate(shards):
            rows = ahead.result()
            if index + 1 < len(shards):
                ahead = reading.submit(read, shards[index + 1])
            arrays, table = compute(shard, rows)
            if written is not None:
                written.result()
            written = writing.submit(writer.write, shard, arrays, table)
        if written is not None:
            written.result()


def settled_tokens_per_batch(told: int | None, begun: Mapping[str, Any] | None) -> int | None:
    """Tokens of a batch, where they are settled: as told, else as the store was begun with.

    Args:
        told: the option.
        begun: the settings of an interrupted store, None where there is none.

    Returns:
        None where they are to be chosen.
    """
    recorded = None if begun is None else begun.get("tokens_per_batch")
    return told if told is not None else recorded if isinstance(recorded, int) else None
