"""The loss of a batch where labels stand: hidden states of labeled positions alone go through the model's own head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from spicerack.gradients.head import Head
from spicerack.gradients.positions import trained_positions

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def labeled_loss_sum(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Sum of -log p over the labeled tokens of a batch, with its graph.

    Logits of one chunk of positions exist at a time: where there are several chunks, each is formed again in the
    backward.

    Args:
        model: a causal language model, with or without adapters.
        inputs: `input_ids`, `attention_mask` and `labels`, each (b, t); -100 is no label.

    Returns:
        A float32 scalar in nats; a differentiable zero where the batch has no label.
    """
    head = Head(model)
    hidden = head.hidden(inputs["input_ids"], inputs["attention_mask"])
    positions, targets = trained_positions(inputs["labels"])
    states = positions.gather(hidden)
    parts = list(head.chunks(len(states)))

    def loss_of(rows: Tensor, wanted: Tensor) -> Tensor:
        return cross_entropy(head.logits(rows).float(), wanted, reduction="sum")

    if len(parts) == 1:
        return loss_of(states, targets)
    total = hidden.sum() * 0.0 if not parts else torch.zeros((), device=hidden.device)
    for part in parts:
        total = total + checkpoint(loss_of, states[part], targets[part], use_reentrant=False)
    return total.float()
