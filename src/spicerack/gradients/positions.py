"""Where a batch's trained tokens are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from spicerack.gradients.packing import PackedRow


@dataclass(frozen=True)
class Positions:
    """Where the trained tokens are predicted: sample and time of each, both (m,), in row order.

    `shape` is that of the batch, (b, t); `row` says where its tokens stand if the model is given them in one row.
    """

    sample: Tensor
    time: Tensor
    shape: tuple[int, int]
    row: PackedRow | None = None

    def __getitem__(self, part: slice) -> Positions:
        """A run of them."""
        return Positions(self.sample[part], self.time[part], self.shape, self.row)

    def gather(self, hidden: Tensor) -> Tensor:
        """(b, t, h), or (1, s, h) of one row, to (m, h)."""
        if self.row is not None:
            return hidden[0, self.row.token_at(self.sample, self.time)]
        return hidden[self.sample, self.time]


def trained_positions(labels: Tensor, row: PackedRow | None = None) -> tuple[Positions, Tensor]:
    """Positions that predict a trained token, and those tokens (m,), from labels (b, t) with -100 elsewhere."""
    sample, time = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    return Positions(sample, time, (labels.shape[0], labels.shape[1]), row), labels[sample, time + 1]
