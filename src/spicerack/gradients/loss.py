"""The loss of a batch, token by token, with the logits' gradient computed in the same sweep.

A sample's loss is the sum of its tokens' cross-entropies (`sum`) or their mean over its trained tokens (`mean`). A
trainer that averages over the accumulated batch's tokens (TRL, LLaMA-Factory, Axolotl) gives a sample the gradient of
`sum` divided by the batch's tokens: `sum` is what the sample contributes to a step, `mean` weighs every sample alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "sum"]
ROWS_AT_ONCE = 256  # logits rows turned to float32 at a time: the temporaries stay small whatever the vocabulary


class TokenLosses(torch.autograd.Function):
    """Cross-entropy of each row of logits, summed with weights; float32 inside, whatever the logits' type.

    The gradient, `weight * (softmax - onehot)`, is formed chunk by chunk in the forward, so that no float32 copy of
    the whole (tokens, vocabulary) matrix ever exists.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum () and losses (tokens,) of logits (tokens, vocabulary)."""
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            chunk = logits[part].float()
            index = targets[part, None]
            log_normalizer = torch.logsumexp(chunk, 1, keepdim=True)
            losses[part] = (log_normalizer - chunk.gather(1, index)).squeeze(1)
            chunk = chunk.sub_(log_normalizer).exp_()
            chunk.scatter_add_(1, index, torch.full_like(index, -1, dtype=torch.float32))
            gradient[part] = chunk.mul_(weights[part, None])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient formed in the forward, times the upstream scalar (the loss scale)."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None


def token_weights(samples: Tensor, trained: Tensor, reduction: Reduction) -> Tensor:
    """Weight of each token (tokens,) given the sample it belongs to and each sample's trained tokens (b,)."""
    if reduction == "sum":
        return torch.ones(len(samples), dtype=torch.float32, device=samples.device)
    return 1.0 / trained.float()[samples]
