"""The loss of a batch, token by token, with the logits' gradient computed in the same sweep.

A sample's loss is the sum of its tokens' cross-entropies (`sum`) or their mean over its trained tokens (`mean`). A
trainer that averages over the accumulated batch's tokens (TRL, LLaMA-Factory, Axolotl) gives a sample the gradient of
`sum` divided by the batch's tokens: `sum` is what the sample contributes to a step, `mean` weighs every sample alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "sum"]
CACHED_ELEMENTS = 1 << 20  # on a CPU, a float32 copy of 4 MB at a time: with less, starting the threads takes longer


def losses_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row of logits, and the gradient of their weighted sum by the logits.

    `weight * (softmax - onehot)` from one softmax, float32 inside whatever the logits' type. The softmax gives the
    normalizer too: at the largest logit its value is far from underflow, and `logsumexp = largest - log(value there)`.

    Args:
        logits: (m, vocabulary), without a graph.
        targets: (m,) token ids.
        weights: (m,) float32.

    Returns:
        Losses (m,) float32, and the gradient (m, vocabulary) in the logits' type.
    """
    losses = torch.empty(len(logits), device=logits.device)
    gradient = torch.empty_like(logits)
    step = max(1, CACHED_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    whole = logits.dtype == torch.float32  # then softmax may write where the gradient stands; else in a float32 part
    room = torch.empty(0 if whole else min(step, len(logits)), logits.shape[1], device=logits.device)
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        index = targets[part, None]
        rows = logits[part] if whole else room[: len(index)].copy_(logits[part])
        largest = rows.amax(1, keepdim=True)
        own = rows.gather(1, index)
        values = torch.softmax(rows, 1, out=gradient[part] if whole else rows)
        normalizer = largest - values.amax(1, keepdim=True).log()
        losses[part] = (normalizer - own).squeeze(1)
        values.scatter_add_(1, index, torch.full_like(normalizer, -1.0))
        values.mul_(weights[part, None])
        if not whole:
            gradient[part] = values
    return losses, gradient


def token_weights(samples: Tensor, trained: Tensor, reduction: Reduction) -> Tensor:
    """Weight of each token (tokens,) given the sample it belongs to and each sample's trained tokens (b,)."""
    if reduction == "sum":
        return torch.ones(len(samples), dtype=torch.float32, device=samples.device)
    return 1.0 / trained.float()[samples]
