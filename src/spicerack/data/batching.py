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
PACKED_SPREAD = 2  # of a packed batch's budget: what it may hold with the pads that it is spared
BATCHES_A_BUDGET = 16  # a batch costs, beside its tokens, this part of the budget: 60 to 170 tokens were measured


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


def plan_batches(lengths: np.ndarray, tokens_per_batch: int, *, packed: bool = False) -> list[np.ndarray]:
    """Cut rows, sorted by length, into batches that hold at most `tokens_per_batch` with their pads.

    Of all cuts of the sorted rows the one that costs least: tokens and pads, and `1 / BATCHES_A_BUDGET` of the budget
    for each batch. Where lengths spread, in the tail or in a short shard, batches are smaller than the budget.

    Args:
        lengths: (n,) tokens of each row; a row of length 0 is left out.
        tokens_per_batch: >= 1; a longer row stands alone.
        packed: batches have no pads, so as few as there can be are cut. With the pads that are spared none holds more
            than `PACKED_SPREAD` budgets: what is contracted sample by sample is padded still.

    Returns:
        Row indices of each batch, shortest rows first; the same for the same lengths.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    begun = _begun(lengths[order], tokens_per_batch, packed)
    batches, stop = [], len(order)
    while stop > 0:
        start = int(begun[stop - 1])
        batches.append(order[start:stop])
        stop = start
    return batches[::-1]


def spread_batches(lengths: np.ndarray, tokens_per_batch: int, count: int, *, packed: bool = False) -> list[np.ndarray]:
    """`count` batches of the plan, or all where there are fewer, evenly from the shortest rows to the longest."""
    plan = plan_batches(lengths, tokens_per_batch, packed=packed)
    places = np.unique(np.linspace(0, len(plan) - 1, num=min(count, len(plan))).round().astype(int))
    return [plan[place] for place in places]


def _begun(ascending: np.ndarray, tokens_per_batch: int, packed: bool) -> np.ndarray:
    """Where the batch that ends with each row begins, if the rows up to there are cut at the least cost."""
    begun = np.zeros(len(ascending), dtype=np.int64)
    cost = np.zeros(len(ascending) + 1, dtype=np.int64)  # of the rows before; times BATCHES_A_BUDGET, to stay whole
    before = np.concatenate([[0], np.cumsum(ascending)])
    room, pads = (PACKED_SPREAD * tokens_per_batch, 0) if packed else (tokens_per_batch, BATCHES_A_BUDGET)
    for last, length in enumerate(ascending.tolist()):
        most = max(1, min(last + 1, room // length))
        if packed:
            fitting = last + 1 - int(np.searchsorted(before, before[last + 1] - tokens_per_batch))
            most = max(1, min(most, fitting))
        start = last + 1 - most
        costs = cost[start : last + 1] + pads * length * np.arange(most, 0, -1)
        best = int(np.argmin(costs))  # of equal ones the largest batch
        begun[last], cost[last + 1] = start + best, costs[best] + tokens_per_batch
    return begun


def tokens_held(samples: Sequence[Encoded], *, packed: bool = False) -> int:
    """Tokens of a batch of these samples, with their pads unless it is packed."""
    lengths = [len(sample.input_ids) for sample in samples]
    return sum(lengths) if packed else len(lengths) * max(lengths)


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
