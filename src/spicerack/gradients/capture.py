"""Hooks that turn one frozen-weight backward pass into a sketch of every sample's gradient.

The data's road through one batch: a tracked module's forward hook keeps `A P_i` (b, t, p) of its input; the gradient
of its output arrives as `D` (b, t, o), is projected to `D P_o` (b, t, p), and `(D P_o)^T (A P_i)` is added to the
sample's sketch. No weight takes part in autograd. The graph starts at the outputs of the lowest tracked modules, so
nothing below them is recorded or walked; nothing of the size of a weight is formed unless exact norms are asked for.

The head is given only the positions that predict a trained token: a pre-hook gathers them from (b, t, h) to (1, m,
h), and whatever the model does to logits afterwards (scaling, soft caps) still happens in its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spicerack.errors import ModelError
from spicerack.gradients.projection import Block, Projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Positions:
    """Where the trained tokens are predicted: sample and time of each, both (m,), in row order."""

    sample: Tensor
    time: Tensor
    shape: tuple[int, int]

    def gather(self, hidden: Tensor) -> Tensor:
        """(b, t, h) to (1, m, h)."""
        return hidden[self.sample, self.time].unsqueeze(0)

    def scatter(self, rows: Tensor) -> Tensor:
        """(1, m, h) or (m, h) back to (b, t, h), zero elsewhere."""
        full = rows.new_zeros(*self.shape, rows.shape[-1])
        full[self.sample, self.time] = rows.reshape(-1, rows.shape[-1])
        return full


class GradientCapture:
    """Context in which a model's backward pass fills `sketches` (b, K) and, on request, `squared_norms` (b,).

    On entry all weights are frozen and the model is put in evaluation mode (no dropout); on exit everything is as it
    was.
    """

    def __init__(self, model: PreTrainedModel, projection: Projection, *, exact_norms: bool = False) -> None:
        """Prepare the hooks; `exact_norms` also forms each sample's full gradients, one weight at a time."""
        self.model = model
        self.projection = projection
        self.exact_norms = exact_norms
        self.head: nn.Module = model.get_output_embeddings()
        if self.head is None:
            raise ModelError(f"{type(model).__name__} has no output head; expected a causal language model")
        self.sketches = torch.empty(0)
        self.squared_norms = torch.empty(0)
        self._positions: Positions | None = None
        self._projected_input: tuple[Any, str, Tensor] | None = None
        self._pending: dict[int, tuple[int, Tensor]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> GradientCapture:
        self._training = self.model.training
        self._trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.model.eval().requires_grad_(False)
        for index, block in enumerate(self.projection.blocks):
            for use in block.parameter.uses:
                module = self.model.get_submodule(use.module)
                hook = self._lookup_hook if use.kind == "embedding" else self._linear_hook
                self._handles.append(module.register_forward_hook(self._bind(hook, index, block, module)))
        self._handles.append(self.head.register_forward_pre_hook(self._gather_head_input))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.model.train(self._training)
        for parameter in self._trainable:
            parameter.requires_grad_(True)

    def begin(self, positions: Positions) -> None:
        """Start a batch: clear the sums."""
        samples, device = positions.shape[0], positions.sample.device
        self._positions = positions
        self._projected_input = None
        self.sketches = torch.zeros(samples, self.projection.columns, device=device)
        self.squared_norms = torch.zeros(samples, device=device)
        self._pending.clear()

    @staticmethod
    def _bind(
        hook: Callable[..., Tensor | None], index: int, block: Block, module: nn.Module
    ) -> Callable[..., Tensor | None]:
        return lambda _module, inputs, output: hook(index, block, module, inputs[0], output)

    def _gather_head_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._positions is not None
        return (self._positions.gather(inputs[0]), *inputs[1:])

    def _linear_hook(
        self, index: int, block: Block, module: nn.Module, inputs: Tensor, output: Tensor
    ) -> Tensor | None:
        """Keep the projected input; when the output's gradient arrives, project it and multiply."""
        kept = self._shared_input(block, inputs)
        full = inputs.detach() if self.exact_norms else None

        def shaped(tensor: Tensor) -> Tensor:
            return self._per_sample(tensor, module is self.head, block)

        def on_gradient(gradient: Tensor) -> None:
            out_side = self.projection.out_side(block)
            left = gradient if out_side is None else gradient @ out_side
            self._add(block, shaped(left), shaped(kept))
            if full is not None:
                self._add_norm(index, block, shaped(gradient), shaped(full))

        return self._watch(output, on_gradient)

    def _lookup_hook(
        self, index: int, block: Block, module: nn.Module, inputs: Tensor, output: Tensor
    ) -> Tensor | None:
        """A lookup is a linear layer with one-hot output gradients: row `token` collects what arrives there.

        As (vocabulary, h), `P_o^T gradient P_i` is the looked-up rows of `P_o` against the projected gradient.
        """

        def one_hot(like: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(inputs, block.parameter.out_features).to(like.dtype)

        def on_gradient(gradient: Tensor) -> None:
            in_side, out_side = self.projection.in_side(block), self.projection.out_side(block)
            right = gradient if in_side is None else gradient @ in_side
            self._add(block, one_hot(gradient) if out_side is None else out_side[inputs], right)
            if self.exact_norms:
                self._add_norm(index, block, one_hot(gradient), gradient)

        return self._watch(output, on_gradient)

    @staticmethod
    def _watch(output: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor | None:
        """Await the gradient of a module's output; where there is no graph yet, start one at that output."""
        started = None if output.requires_grad else output.detach().requires_grad_(True)
        (output if started is None else started).register_hook(on_gradient)
        return started

    def _shared_input(self, block: Block, inputs: Tensor) -> Tensor:
        """`A P_i`, computed once for consecutive modules that are given the same tensor (q, k, v; gate, up)."""
        in_side = self.projection.in_side(block)
        if in_side is None:
            return inputs.detach()
        last = self._projected_input
        if last is not None and last[0] is inputs and last[1] == block.in_key:
            return last[2]
        projected = inputs.detach() @ in_side
        self._projected_input = (inputs, block.in_key, projected)
        return projected

    def _per_sample(self, tensor: Tensor, at_head: bool, block: Block) -> Tensor:
        """Give every tensor the shape (b, t, features), from the head's gathered or a block's flattened one."""
        assert self._positions is not None
        if at_head:
            return self._positions.scatter(tensor)
        samples, length = self._positions.shape
        if tensor.shape[:-1].numel() != samples * length:
            raise ModelError(
                f"{block.parameter.uses[0].module} works on {tuple(tensor.shape[:-1])} rows, not on the batch's "
                f"{samples} x {length} tokens (a routed expert?); leave it out with a regular expression as parameters"
            )
        return tensor.reshape(samples, length, tensor.shape[-1])

    def _add(self, block: Block, left: Tensor, right: Tensor) -> None:
        """Add `left^T right` of every sample, (b, t, p_o) and (b, t, p_i), to its sketch; sums run in float32."""
        product = torch.bmm(left.transpose(1, 2).float(), right.float())
        self.sketches[:, block.start : block.stop] += product.flatten(1)

    def _add_norm(self, index: int, block: Block, left: Tensor, right: Tensor) -> None:
        """Add the squared norm of the full gradient, once every use of the weight has given its part."""
        product = torch.bmm(left.transpose(1, 2).float(), right.float())
        uses = len(block.parameter.uses)
        if uses > 1:
            seen, total = self._pending.pop(index, (0, torch.zeros_like(product)))
            product = total + product
            if seen + 1 < uses:
                self._pending[index] = (seen + 1, product)
                return
        self.squared_norms += product.square().sum((1, 2))


def trained_positions(labels: Tensor) -> tuple[Positions, Tensor]:
    """Positions that predict a trained token, and those tokens (m,), from labels (b, t) with -100 elsewhere."""
    sample, time = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    return Positions(sample, time, (labels.shape[0], labels.shape[1])), labels[sample, time + 1]
