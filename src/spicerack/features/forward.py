"""One forward pass over a batch without gradients, and what is read off it, on the CPU.

Every sum over a sample's tokens that ends in a column runs on the CPU in float64 and in order: atomic additions on a
GPU would give other last digits at every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spicerack.features.pooling import leading_directions, pooled_states
from spicerack.gradients.positions import Positions, trained_positions

if TYPE_CHECKING:
    from spicerack.data.batching import Batch
    from spicerack.gradients.head import Head


@dataclass(frozen=True)
class Wanted:
    """What to read off a batch.

    Attributes:
        losses: cross-entropies of the trained tokens.
        pooled: both means of the hidden states.
        state_rank: directions of each sample's hidden states at its trained tokens; 0: none.
        rating_ids: tokens whose probabilities are wanted at the trained positions; None: none.
    """

    losses: bool = False
    pooled: bool = False
    state_rank: int = 0
    rating_ids: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Read:
    """What was read off a batch of b samples; what was not wanted is empty.

    Attributes:
        loss_sum, first_loss: (b,) float64, the sum over the trained tokens, and the first one's part of it.
        trained: (b,) trained tokens.
        pooled: (b, 2, h) float32.
        states, states_energy: (b, state_rank * h) and (b,) float32; NaN energy where no token is trained.
        probabilities: (b, K) float64, for samples of one trained token each.
    """

    loss_sum: np.ndarray
    first_loss: np.ndarray
    trained: np.ndarray
    pooled: np.ndarray
    states: np.ndarray
    states_energy: np.ndarray
    probabilities: np.ndarray


def read_batch(head: Head, batch: Batch, wanted: Wanted) -> Read:
    """Run a batch and read off what is wanted.

    Args:
        head: the model in two parts.
        batch: on the model's device.
        wanted: what to read.
    """
    empty = np.zeros(0, dtype=np.float32)
    samples = len(batch.labels)
    with torch.inference_mode():
        hidden = head.hidden(batch.input_ids, batch.attention_mask)
        positions, targets = trained_positions(batch.labels)
        sample = positions.sample.cpu().numpy()
        loss_sum: np.ndarray = empty
        first_loss: np.ndarray = empty
        if wanted.losses:
            losses = _losses(head, hidden, positions, targets)
            loss_sum = np.bincount(sample, losses, minlength=samples)
            first_loss = _first(losses, sample, samples)
        states, energy = _states(hidden, positions, wanted.state_rank) if wanted.state_rank else (empty, empty)
        return Read(
            loss_sum=loss_sum,
            first_loss=first_loss,
            trained=np.bincount(sample, minlength=samples),
            pooled=pooled_states(hidden, batch.attention_mask).cpu().numpy() if wanted.pooled else empty,
            states=states,
            states_energy=energy,
            probabilities=empty if wanted.rating_ids is None else _ratings(head, hidden, positions, wanted.rating_ids),
        )


def _losses(head: Head, hidden: Tensor, positions: Positions, targets: Tensor) -> np.ndarray:
    """Cross-entropy (m,) of every trained token."""
    parts = [
        torch.nn.functional.cross_entropy(
            head.logits(positions[part].gather(hidden)).float(), targets[part], reduction="none"
        )
        for part in head.chunks(len(targets))
    ]
    return torch.cat(parts).cpu().double().numpy() if parts else np.zeros(0)


def _first(values: np.ndarray, sample: np.ndarray, samples: int) -> np.ndarray:
    """Each sample's first value; 0 where it has none."""
    result = np.zeros(samples)
    members, places = np.unique(sample, return_index=True)
    result[members] = values[places]
    return result


def _states(hidden: Tensor, positions: Positions, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading directions of every sample's states where a trained token is predicted."""
    samples, width = hidden.shape[0], hidden.shape[2]
    rows = np.zeros((samples, rank * width), dtype=np.float32)
    energy = np.full(samples, np.nan, dtype=np.float32)
    for i in map(int, positions.sample.unique().cpu()):
        directions, energy[i] = leading_directions(hidden[i, positions.time[positions.sample == i]], rank)
        rows[i] = directions.flatten().cpu().numpy()
    return rows, energy


def _ratings(head: Head, hidden: Tensor, positions: Positions, ids: npt.NDArray[np.int64]) -> np.ndarray:
    """Probabilities (m, K) of the rating tokens, normalized over them."""
    columns = torch.from_numpy(ids).to(hidden.device)
    parts = [
        torch.softmax(head.logits(positions[part].gather(hidden))[:, columns].float(), dim=1)
        for part in head.chunks(len(positions.time))
    ]
    return torch.cat(parts).cpu().double().numpy()
