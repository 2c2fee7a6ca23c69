"""Gradients per expert and sample in mixture-of-experts blocks whose experts are fused into one tensor.

`transformers` keeps the weights of all experts in one (experts, out, in) parameter and multiplies inside the experts'
forward, where no module hook sees a single product. While gradients are captured, that forward is replaced by the plain
loop over the experts that were chosen, which hands over each expert's inputs and output. What it computes is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spicerack.errors import ModelError

if TYPE_CHECKING:
    from spicerack.gradients.projection import Block

Watch = Callable[["Block", int, Tensor, Tensor, Tensor], Tensor]
"""Block, expert, tokens (r,) of the flattened batch, inputs (r, i) and outputs (r, o) to the outputs to go on with."""


def replace_forward(module: nn.Module, blocks: dict[str, Block], watch: Watch) -> Callable[[], None]:
    """Let a fused experts module run expert by expert. Returns what puts its own forward back.

    Args:
        module: with `_apply_gate` and the flags that transformers sets on every fused experts class.
        blocks: the tracked parameters of the module, by attribute name.
        watch: called at each product of a tracked parameter.

    Raises:
        ModelError: experts of a form that the loop does not know.
    """
    if getattr(module, "has_post_expert_norm", False) or not getattr(module, "has_gate", True):
        raise ModelError(f"{type(module).__name__} has experts of a form that is not supported; leave them out")

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        result = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            if expert >= module.num_experts:  # the router's mark for "none"
                continue
            token, place = torch.where(top_k_index == expert)
            gated = _product(module, "gate_up_proj", expert, token, hidden_states[token], blocks, watch)
            inner = module._apply_gate(gated)  # type: ignore[operator]
            outer = _product(module, "down_proj", expert, token, inner, blocks, watch)
            part = outer * top_k_weights[token, place, None]
            result = result.index_add(0, token, part.to(result.dtype))
        return result

    module.forward = forward
    return lambda: module.__dict__.pop("forward")


def _product(
    module: nn.Module, name: str, expert: int, token: Tensor, inputs: Tensor, blocks: dict[str, Block], watch: Watch
) -> Tensor:
    weight: Any = module.get_parameter(name)[expert]
    bias = module.get_parameter(f"{name}_bias")[expert] if getattr(module, "has_bias", False) else None
    output = nn.functional.linear(inputs, weight.T if getattr(module, "is_transposed", False) else weight, bias)
    return watch(blocks[name], expert, token, inputs, output) if name in blocks else output


def by_sample(sample: Tensor, samples: int, *rows: Tensor) -> list[Tensor]:
    """Rows (r, p) of a ragged set of tokens as (samples, c, p), c the most that one sample has, zeros behind.

    Args:
        sample: (r,) which sample each row belongs to, in any order.
        samples: b.
        rows: tensors with r rows each.
    """
    order = torch.argsort(sample, stable=True)
    counts = torch.bincount(sample, minlength=samples)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(sample), device=sample.device) - starts[sample[order]]
    width = int(counts.max())
    padded = []
    for tensor in rows:
        full = tensor.new_zeros(samples, width, tensor.shape[-1])
        full[sample[order], place] = tensor[order]
        padded.append(full)
    return padded
