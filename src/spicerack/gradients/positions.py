"""Where a batch's trained tokens are predicted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """Where the trained tokens are predicted: sample and time of each, both (m,), in row order."""

    sample: Tensor
    time: Tensor
    shape: tuple[int, int]

    def __getitem__(self, part: slice) -> Positions:
        """A run of them."""
        return Positions(self.sample[part], self.time[part], self.shape)

    def gather(self, hidden: Tensor) -> Tensor:
        """(b, t, h) to (m, h)."""
        return hidden[self.sample, self.time]


def trained_positions(labels: Tensor) -> tuple[Positions, Tensor]:
    """Positions that predict a trained token, and those tokens (m,), from labels (b, t) with -100 elsewhere."""
    sample, time = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    return Positions(sample, time, (labels.shape[0], labels.shape[1])), labels[sample, time + 1]
