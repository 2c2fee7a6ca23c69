"""The loss of a batch where labels stand: hidden states of labeled positions alone go through the model's own head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from spicerack.data.batching import plan_batches
from spicerack.gradients.head import Head
from spicerack.gradients.positions import trained_positions

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PART_TOKENS = 2048  # of a part, at most; a part's own cost is a share of it (see plan_batches)


def labeled_loss_sum(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Sum of -log p over the labeled tokens of a batch, with its graph.

    Logits of one chunk of positions exist at a time: where there are several chunks, each is formed again in the
    backward. On a CPU, where a pad costs what a token costs, rows of similar length go through the model together.

    Args:
        model: a causal language model, with or without adapters.
        inputs: `input_ids`, `attention_mask` and `labels`, each (b, t); -100 is no label.

    Returns:
        A float32 scalar in nats; a differentiable zero where the batch has no label.
    """
    head = Head(model)
    return torch.stack([_loss_sum(head, part) for part in of_similar_length(inputs)]).sum()


def of_similar_length(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A batch, padded on the right, in parts with few pads; whole where the device is no CPU."""
    lengths = inputs["attention_mask"].sum(dim=1)
    if lengths.device.type != "cpu":
        return [inputs]
    plan = plan_batches(lengths.numpy(), PART_TOKENS)
    return [{name: tensor[rows, : lengths[rows].max()] for name, tensor in inputs.items()} for rows in plan]


def _loss_sum(head: Head, inputs: dict[str, Tensor]) -> Tensor:
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
