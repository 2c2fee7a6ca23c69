"""The gradients of one batch: forward at the trained positions, frozen-weight backward, fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.loss import Reduction, losses_and_gradient, token_weights
from spicerack.gradients.positions import Positions, trained_positions

if TYPE_CHECKING:
    from spicerack.data.batching import Batch


@dataclass(frozen=True)
class BatchGradients:
    """What one batch gives, row by row: projected gradients (b, k), losses and norms (b,), float32.

    `directions` (b, k) are the Adam-form rows, None unless the capture has moments.
    """

    rows: Tensor
    directions: Tensor | None
    loss_sum: Tensor
    trained: Tensor
    gradient_norm: Tensor


def batch_gradients(capture: GradientCapture, batch: Batch, reduction: Reduction) -> BatchGradients:
    """Projected gradients of every sample of a batch.

    Args:
        capture: an entered capture.
        batch: input_ids, labels (b, t) with -100 where no loss is, attention mask or None, on the model's device.
        reduction: how a sample's loss sums its tokens' losses.
    """
    positions, targets = trained_positions(batch.labels)
    trained = torch.bincount(positions.sample, minlength=len(batch.labels))
    weights = token_weights(positions.sample, trained, reduction)
    scale = capture.loss_scale
    capture.begin(positions)
    with torch.enable_grad():
        hidden = positions.gather(capture.head.hidden(batch.input_ids, batch.attention_mask))
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
