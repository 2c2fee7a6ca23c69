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


class TokenLosses(torch.autograd.Function):
    """Cross-entropy of each row of logits, summed with weights; float32 inside, whatever the logits' type.

    The gradient, `weight * (softmax - onehot)`, is formed in the forward, in the place of the softmax.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum () and losses (tokens,) of logits (tokens, vocabulary)."""
        work = logits.float()
        index = targets[:, None]
        log_normalizer = torch.logsumexp(work, 1, keepdim=True)
        losses = (log_normalizer - work.gather(1, index)).squeeze(1)
        work = work.sub_(log_normalizer) if work.dtype != logits.dtype else work - log_normalizer
        work.exp_().scatter_add_(1, index, torch.full_like(index, -1, dtype=torch.float32)).mul_(weights[:, None])
        ctx.save_for_backward(work.to(logits.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient formed in the forward, times the upstream scalar."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None


def token_weights(samples: Tensor, trained: Tensor, reduction: Reduction) -> Tensor:
    """Weight of each token (tokens,) given the sample it belongs to and each sample's trained tokens (b,)."""
    if reduction == "sum":
        return torch.ones(len(samples), dtype=torch.float32, device=samples.device)
    return 1.0 / trained.float()[samples]
