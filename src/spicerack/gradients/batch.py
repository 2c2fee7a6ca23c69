"""The gradients of one batch: forward at the trained positions, frozen-weight backward, fold."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.loss import Reduction, losses_and_gradient, token_weights
from spicerack.gradients.packing import packed_row
from spicerack.gradients.positions import Positions, trained_positions

if TYPE_CHECKING:
    from spicerack.data.batching import Batch


@dataclass(frozen=True)
class BatchGradients:
    """What one batch gives, row by row: projected gradients (b, k), losses and norms (b,), float32.

    `directions` (b, k) are the rows of the optimizer's form, None unless the capture has moments.
    """

    rows: Tensor
    directions: Tensor | None
    loss_sum: Tensor
    trained: Tensor
    gradient_norm: Tensor


def batch_gradients(capture: GradientCapture, batch: Batch, reduction: Reduction) -> BatchGradients:
    """Projected gradients of every sample of a batch.

    A batch of more samples than the capture may hold at once is done in parts; the rows are the same. Where the capture
    packs, the model is given the tokens of each part in one row.

    Args:
        capture: an entered capture.
        batch: input_ids, labels (b, t) with -100 where no loss is, attention mask or None, on the model's device.
        reduction: how a sample's loss sums its tokens' losses.
    """
    samples = len(batch.labels)
    at_once = capture.samples_at_once or samples
    try:
        parts = [
            _gradients(capture, _rows(batch, slice(start, start + at_once)), reduction)
            for start in range(0, samples, at_once)
        ]
    finally:
        capture.forget()  # after a failure too: what the hooks hold would outlive the batch
    return parts[0] if len(parts) == 1 else joined(parts)


def _rows(batch: Batch, rows: slice) -> Batch:
    mask = None if batch.attention_mask is None else batch.attention_mask[rows]
    return replace(batch, input_ids=batch.input_ids[rows], labels=batch.labels[rows], attention_mask=mask)


def joined(parts: list[BatchGradients]) -> BatchGradients:
    """Batches one after the other as one."""
    directions = [part.directions for part in parts if part.directions is not None]
    return BatchGradients(
        rows=torch.cat([part.rows for part in parts]),
        directions=torch.cat(directions) if directions else None,
        loss_sum=torch.cat([part.loss_sum for part in parts]),
        trained=torch.cat([part.trained for part in parts]),
        gradient_norm=torch.cat([part.gradient_norm for part in parts]),
    )


def _gradients(capture: GradientCapture, batch: Batch, reduction: Reduction) -> BatchGradients:
    row = packed_row(batch) if capture.packing else None
    positions, targets = trained_positions(batch.labels, row)
    trained = torch.bincount(positions.sample, minlength=len(batch.labels))
    weights = token_weights(positions.sample, trained, reduction)
    scale = capture.loss_scale
    capture.begin(positions)
    with torch.enable_grad():
        attention = None if row else capture.attention
        with attention.of(*batch.input_ids.shape) if attention else nullcontext():
            hidden = positions.gather(capture.head.hidden(batch.input_ids, batch.attention_mask, row))
        losses, gradient = _through_head(capture, hidden.detach(), positions, targets, weights * scale)
        if hidden.requires_grad:  # it does not where the head alone is tracked
            hidden.backward(gradient)
    capture.finish()
    loss_sum = torch.zeros(len(trained), device=losses.device).index_add_(0, positions.sample, losses)
    rows = capture.projection.fold(capture.sketches).div_(scale)
    norms = capture.squared_norms.sqrt() / scale if capture.exact_norms else rows.norm(dim=1)
    directions = capture.projection.fold(capture.directions) if capture.moments is not None else None
    return BatchGradients(rows, directions, loss_sum, trained, norms)


def _through_head(
    capture: GradientCapture, hidden: Tensor, positions: Positions, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (m,) and the gradient (m, h) of their weighted sum by the hidden states (m, h), a chunk at a time."""
    losses = torch.empty(len(hidden), device=hidden.device)
    gradient = torch.empty_like(hidden)
    for part in capture.head.chunks(len(hidden)):
        capture.at_positions(positions[part])
        states = hidden[part].requires_grad_(True)
        logits = capture.head.logits(states)
        losses[part], by_logits = losses_and_gradient(logits.detach(), targets[part], weights[part])
        (gradient[part],) = torch.autograd.grad(logits, states, by_logits)
    capture.at_positions(positions)
    return losses, gradient
