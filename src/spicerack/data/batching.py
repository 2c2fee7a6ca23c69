"""Batches of similar length under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from spicerack.data.labels import Encoded

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Padded tokens: input_ids, labels (b, t) int64, attention_mask (b, t) or None where no row is padded."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return Batch(self.input_ids.to(device), self.labels.to(device), mask)


def plan_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Cut rows, sorted by length, into batches that hold at most `tokens_per_batch` with their pads.

    Args:
        lengths: (n,) tokens of each row; a row of length 0 is left out.
        tokens_per_batch: >= 1; a longer row stands alone.

    Returns:
        Row indices of each batch, shortest rows first; the same for the same lengths.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[np.asarray(lengths)[order] > 0]
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= tokens_per_batch:
            stop += 1
        batches.append(order[start:stop])
        start = stop
    return batches


def collate(samples: Sequence[Encoded]) -> Batch:
    """Pad samples on the right, with token 0, label -100 and mask 0: no pad is ever told by its id."""
    import torch

    width = max(len(sample.input_ids) for sample in samples)
    shape = (len(samples), width)
    input_ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        input_ids[row, :length] = sample.input_ids
        labels[row, :length] = sample.labels
        mask[row, :length] = 1
    padded = None if mask.all() else torch.from_numpy(mask)
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), padded)
