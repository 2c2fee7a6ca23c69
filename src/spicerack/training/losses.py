"""The held-out loss of every sample, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from spicerack.data.batching import collate, plan_batches
from spicerack.gradients.head import Head
from spicerack.gradients.positions import trained_positions
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded
    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel


def loss_sums(
    loaded: LoadedModel, samples: Sequence[Encoded], *, tokens_per_batch: int, progress: Progress | None = None
) -> np.ndarray:
    """Sum over each sample's trained tokens of -log p(token | what stands before it).

    Logits are formed at the trained positions only, a chunk at a time; sums run in float32 whatever the model's type.

    Args:
        loaded: the model.
        samples: with at least one trained token each.
        tokens_per_batch: padded tokens of a batch.
        progress: called as (stage, samples done, tokens done, tokens in all).

    Returns:
        (n,) float64, in nats.
    """
    lengths = np.array([len(sample.input_ids) for sample in samples])
    sums, head = np.zeros(len(samples)), Head(loaded.model)
    done_samples = done_tokens = 0
    with evaluating(loaded.model), torch.inference_mode():
        for rows in plan_batches(lengths, tokens_per_batch):
            batch = collate([samples[i] for i in rows]).to(loaded.device)
            positions, targets = trained_positions(batch.labels)
            hidden = positions.gather(head.hidden(batch.input_ids, batch.attention_mask))
            totals = torch.zeros(len(rows), device=hidden.device)
            for part in head.chunks(len(hidden)):
                losses = cross_entropy(head.logits(hidden[part]).float(), targets[part], reduction="none")
                totals.index_add_(0, positions.sample[part], losses)
            sums[rows] = totals.double().cpu().numpy()
            done_samples += len(rows)
            done_tokens += int(lengths[rows].sum())
            if progress is not None:
                progress("losses", done_samples, done_tokens, int(lengths.sum()))
    return sums
