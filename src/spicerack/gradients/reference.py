"""The slow truth: one forward and one backward a sample, whole weight gradients, then the projection written out.

Nothing here is shared with the fast pass but the projection's matrices. Use it to check a new architecture; it takes a
sample at a time and holds every weight gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spicerack.gradients.loss import Reduction
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from spicerack.data.labels import Encoded
    from spicerack.gradients.projection import Projection
    from spicerack.models.parameters import TrackedParameter


def reference_gradients(
    model: PreTrainedModel, parameters: Sequence[TrackedParameter], sample: Encoded, *, reduction: Reduction = "mean"
) -> dict[str, Tensor]:
    """Gradient (out_features, in_features) of one sample's loss by each tracked weight.

    Raises:
        ValueError: the sample has no trained token, so it has no loss.
    """
    if sample.trained_tokens == 0:
        raise ValueError("a sample without trained tokens has no gradient")
    weights = [model.get_parameter(parameter.name) for parameter in parameters]
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with evaluating(model):
            loss = sample_loss(model, sample, reduction=reduction)
            gradients = torch.autograd.grad(loss, weights)
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)
    return {p.name: g.mT if p.transposed else g for p, g in zip(parameters, gradients, strict=True)}


def sample_loss(model: PreTrainedModel, sample: Encoded, *, reduction: Reduction) -> Tensor:
    """Cross-entropy of a sample's trained tokens, from the full logits of the sample alone."""
    device = next(model.parameters()).device
    input_ids = torch.from_numpy(np.asarray(sample.input_ids, dtype=np.int64)).to(device)[None]
    labels = torch.from_numpy(np.asarray(sample.labels, dtype=np.int64)).to(device)
    logits = model(input_ids=input_ids, use_cache=False).logits[0, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction=reduction)


def reference_row(
    model: PreTrainedModel, projection: Projection, sample: Encoded, *, reduction: Reduction = "mean"
) -> Tensor:
    """One sample's projected gradient (k,), from its full weight gradients."""
    gradients = reference_gradients(model, [b.parameter for b in projection.blocks], sample, reduction=reduction)
    sketches = [projection.sketch_matrix(block, gradients[block.parameter.name].float()) for block in projection.blocks]
    return projection.fold(torch.cat(sketches)[None])[0]
