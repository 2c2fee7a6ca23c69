"""The samples of a batch one after another in one row, with no pads between them.

The model sees one row (1, s) of all tokens, whose positions begin at 0 again with every sample; by them its attention
tells the samples apart. Whether it does is found out by trying, see `leaks.py`. What the hooks of a capture are given,
(1, s, features), is laid out as (b, t, features) again right before it is multiplied sample by sample, when it is
projected and small, so that nothing else knows of packing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spicerack.data.batching import Batch


@dataclass(frozen=True)
class PackedRow:
    """Where the tokens of a padded batch (b, t) stand in one row.

    Attributes:
        place: (s,) of each token of the row in the flattened batch, ascending.
        lengths: (b,) tokens of each sample, at least one.
        shape: b and t.
    """

    place: Tensor
    lengths: Tensor
    shape: tuple[int, int]

    def inputs(self, input_ids: Tensor, *, lengths: bool) -> dict[str, Any]:
        """What a decoder is called with instead of input_ids (b, t) and their attention mask.

        Args:
            input_ids: (b, t).
            lengths: also where each sample begins and the longest one's length, by the names under which flash
                attention takes them; it would find them from the positions, anew in every layer.
        """
        ends = self.lengths.cumsum(0)
        begins = (ends - self.lengths).repeat_interleave(self.lengths, output_size=len(self.place))
        positions = torch.arange(len(self.place), device=self.place.device) - begins
        inputs: dict[str, Any] = {"input_ids": input_ids.flatten()[self.place][None], "position_ids": positions[None]}
        if lengths:
            borders = torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
            longest = int(self.lengths.max())
            inputs |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders}
            inputs |= {"max_length_q": longest, "max_length_k": longest}
        return inputs

    def unpack(self, rows: Tensor) -> Tensor:
        """What belongs to the tokens, (..., features) with s rows, as (b, t, features), zeros at the pads."""
        samples, length = self.shape
        flat = rows.reshape(len(self.place), rows.shape[-1])
        if len(flat) == samples * length:
            return flat.view(samples, length, -1)
        padded = flat.new_zeros(samples * length, flat.shape[1]).index_copy_(0, self.place, flat)
        return padded.view(samples, length, -1)

    def sample_of(self, token: Tensor) -> Tensor:
        """The sample (r,) that tokens of the row, (r,), belong to."""
        return self.place[token].div(self.shape[1], rounding_mode="floor")

    def token_at(self, sample: Tensor, time: Tensor) -> Tensor:
        """Where the tokens of samples (m,) at times (m,) of the batch stand in the row; none of them is a pad."""
        return torch.searchsorted(self.place, sample * self.shape[1] + time)


def packed_row(batch: Batch) -> PackedRow:
    """The row of a padded batch: every token that its mask keeps."""
    samples, length = batch.input_ids.shape
    device = batch.input_ids.device
    if batch.attention_mask is None:
        place = torch.arange(samples * length, device=device)
        return PackedRow(place, torch.full((samples,), length, device=device), (samples, length))
    mask = batch.attention_mask
    return PackedRow(mask.flatten().nonzero().squeeze(1), mask.sum(1), (samples, length))
