"""The gradient of an embedding, given that of its output: which rows were looked up, and how they were scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spicerack.errors import ModelError

if TYPE_CHECKING:
    from spicerack.gradients.positions import Positions


def every_sample(index: Tensor, output: Tensor, positions: Positions, name: str) -> tuple[Tensor, Tensor]:
    """Index and output with a row for each sample, where the same rows were looked up once for all (positions).

    Raises:
        ModelError: something else than the tokens or the places of the batch was looked up.
    """
    samples, row = positions.shape[0], positions.row
    if row is None and index.ndim == 2 and len(index) == 1:
        index, output = index.expand(samples, -1), output.expand(samples, -1, -1)
    if index.shape != (positions.shape if row is None else (1, len(row.place))):
        raise ModelError(
            f"{name} is looked up at an index of the shape {tuple(index.shape)}, not for every sample's tokens; leave "
            "it out with a regular expression as parameters"
        )
    return index, output


def lookup_gradient(module: nn.Module, index: Tensor, gradient: Tensor) -> Tensor:
    """Gradient (b, t, h) by the rows that were looked up at `index` (b, t), from that by the output.

    The row of `padding_idx` has none, as in torch.
    """
    scale = getattr(module, "embed_scale", None)
    if scale is not None:
        gradient = gradient * torch.as_tensor(scale, device=gradient.device).to(gradient.dtype)
    padding = getattr(module, "padding_idx", None)
    return gradient if padding is None else gradient.masked_fill((index == padding)[..., None], 0)


def summed_rows(index: Tensor, rows: Tensor, count: int) -> Tensor:
    """Rows (b, t, i) summed at their index (b, t) < count: (b, count, i), in float32."""
    samples, width = len(rows), rows.shape[-1]
    place = index + torch.arange(samples, device=index.device)[:, None] * count
    summed = torch.zeros(samples * count, width, device=rows.device)
    return summed.index_add_(0, place.flatten(), rows.flatten(0, 1).float()).view(samples, count, width)
