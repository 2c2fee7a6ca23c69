"""Hooks that turn one frozen-weight backward pass into a sketch of every sample's gradient.

The data's road through one batch: a tracked module's forward hook keeps `A P_i` (b, t, p) of its input; the gradient
of its output arrives as `D` (b, t, o), is projected to `D P_o` (b, t, p), and `(D P_o)^T (A P_i)` is added to the
sample's sketch. No weight takes part in autograd. The graph starts at the outputs of the lowest tracked modules, so
nothing below them is recorded or walked; nothing of the size of a weight is formed unless exact norms are asked for.

A tracked head is run on chosen positions, a part of them at a time (`head.py`); `at_positions` says which.

Exact norms and an optimizer's direction do need full gradients: those are formed a weight at a time, `WHOLE_ELEMENTS`
at a time, and let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spicerack.errors import ModelError
from spicerack.gradients.experts import by_sample, replace_forward
from spicerack.gradients.head import Head
from spicerack.gradients.lookup import every_sample, lookup_gradient, summed_rows
from spicerack.gradients.positions import Positions
from spicerack.gradients.projection import Block, Projection
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spicerack.gradients.optimizers import Moments
    from spicerack.models.attention import AttentionByBatch

FLOAT16_LOSS_SCALE = 4096.0  # activation gradients of mean losses fall below float16's smallest number without it
WHOLE_ELEMENTS = 1 << 24  # elements of the full gradients formed at a time: 64 MB, and as much for each temporary


class GradientCapture:
    """Context in which a model's backward pass fills `sketches` (b, K) and, on request, `squared_norms` (b,).

    On entry all weights are frozen and the model is put in evaluation mode (no dropout); on exit everything is as it
    was.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        projection: Projection,
        *,
        exact_norms: bool = False,
        moments: Moments | None = None,
        packing: bool = False,
        attention: AttentionByBatch | None = None,
    ) -> None:
        """Prepare the hooks.

        Args:
            model: the model, on its device.
            projection: of the tracked weights, on the same device.
            exact_norms: also form each sample's full gradients, one weight at a time, for their norms.
            moments: also sketch the direction that this optimizer would make of each sample's gradient; forms them too.
            packing: give the model the samples of a batch in one row; `leaks.why_not_packed` says whether it may be.
            attention: of each batch; None: the model's own for all.

        Raises:
            ModelError: moments of fused experts, or a model whose head cannot be told apart.
        """
        self.model = model
        self.projection = projection
        self.exact_norms = exact_norms
        self.moments = moments
        self.packing = packing
        self.attention = attention
        self.loss_scale = FLOAT16_LOSS_SCALE if model.dtype == torch.float16 else 1.0
        self.head = Head(model)
        self.sketches = self.directions = torch.empty(0)
        self.squared_norms = torch.empty(0)
        self._positions: Positions | None = None
        self._projected_input: tuple[Any, str, Tensor] | None = None
        self._partial: dict[int, Tensor] = {}
        self._calls: Counter[int] = Counter()
        self._undo = ExitStack()
        if moments is not None and any(block.parameter.experts > 1 for block in projection.blocks):
            raise ModelError("optimizer rows of fused experts are not supported; leave the experts out with parameters")

    @property
    def _forms_whole(self) -> bool:
        return self.exact_norms or self.moments is not None

    @property
    def samples_at_once(self) -> int | None:
        """The most samples that a batch may have, or None for any number.

        Full gradients that come in parts must all be held until the batch ends, so a batch is kept so small that they
        stay within `WHOLE_ELEMENTS`.
        """
        sizes = [block.parameter.size for block in self.projection.blocks if self._comes_in_parts(block)]
        return max(1, WHOLE_ELEMENTS // max(sizes)) if self._forms_whole and sizes else None

    def _comes_in_parts(self, block: Block) -> bool:
        """A tied weight's gradient comes from each of its modules, the head's from each run of positions."""
        uses = block.parameter.uses
        return len(uses) > 1 or self.model.get_submodule(uses[0].module) is self.head.module

    def __enter__(self) -> GradientCapture:
        with ExitStack() as undo:  # of what was done, if anything below is refused
            undo.enter_context(evaluating(self.model))
            undo.callback(_thaw, [p for p in self.model.parameters() if p.requires_grad])
            self.model.requires_grad_(False)
            self._hook(undo)
            self._undo = undo.pop_all()
        return self

    def _hook(self, undo: ExitStack) -> None:
        """Watch every tracked module."""
        experts: dict[str, dict[str, Block]] = {}
        for index, block in enumerate(self.projection.blocks):
            for use in block.parameter.uses:
                module = self.model.get_submodule(use.module)
                if use.kind == "experts":
                    experts.setdefault(use.module, {})[block.parameter.name.rpartition(".")[2]] = block
                    continue
                hook = self._lookup_hook if use.kind == "embedding" else self._linear_hook
                undo.callback(module.register_forward_hook(self._bind(hook, index, block, module)).remove)
        for name, blocks in experts.items():
            undo.callback(replace_forward(self.model.get_submodule(name), blocks, self._watch_expert))

    def __exit__(self, *exc_info: object) -> None:
        self.forget()
        self._undo.close()

    def begin(self, positions: Positions) -> None:
        """Start a batch: clear the sums."""
        samples, device = positions.shape[0], positions.sample.device
        self._positions = positions
        self.forget()
        self.sketches = torch.zeros(samples, self.projection.columns, device=device)
        self.directions = torch.zeros_like(self.sketches) if self.moments is not None else torch.empty(0)
        self.squared_norms = torch.zeros(samples, device=device)

    def forget(self) -> None:
        """Let go of the batch's graph: its hooks hold this object, so while this holds it, neither ever dies."""
        self._projected_input = None
        self._partial.clear()
        self._calls.clear()

    def at_positions(self, positions: Positions) -> None:
        """The head is about to be run on these positions."""
        self._positions = positions

    def finish(self) -> None:
        """End a batch: use the gradients that came in several parts."""
        for index, gradients in self._partial.items():
            self._use_whole(self.projection.blocks[index], slice(None), gradients)
        self.forget()

    @staticmethod
    def _bind(
        hook: Callable[..., Tensor | None], index: int, block: Block, module: nn.Module
    ) -> Callable[..., Tensor | None]:
        return lambda _module, inputs, output: hook(index, block, module, inputs[0], output)

    def _linear_hook(
        self, index: int, block: Block, module: nn.Module, inputs: Tensor, output: Tensor
    ) -> Tensor | None:
        """Keep the projected input; when the output's gradient arrives, project it and multiply."""
        self._calls[index] += 1
        kept = self._shared_input(block, inputs)
        full = inputs.detach() if self._forms_whole else None

        def on_gradient(gradient: Tensor) -> None:
            out_side = self.projection.out_side(block)
            left = _times(gradient, out_side)
            self._add(block, *self._per_sample(block, module, left, kept))
            if full is not None:
                sides = self._per_sample(block, module, gradient, full)
                self._add_whole(index, block, lambda rows: _outer(sides[0][rows], sides[1][rows]))

        return self._watch(output, on_gradient)

    def _lookup_hook(
        self, index: int, block: Block, module: nn.Module, inputs: Tensor, output: Tensor
    ) -> Tensor | None:
        """A lookup is a linear layer with one-hot output gradients: row `token` collects what arrives there.

        As (vocabulary, h), `P_o^T gradient P_i` is the looked-up rows of `P_o` against the projected gradient.
        """
        assert self._positions is not None
        inputs, output = every_sample(inputs, output, self._positions, block.parameter.name)

        def one_hot(like: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(inputs, block.parameter.out_features).to(like.dtype)

        def on_gradient(gradient: Tensor) -> None:
            gradient = lookup_gradient(module, inputs, gradient)
            in_side, out_side = self.projection.in_side(block), self.projection.out_side(block)
            left = one_hot(gradient) if out_side is None else out_side[inputs]
            self._add(block, self._padded(left), self._padded(_times(gradient, in_side)))
            if self._forms_whole:
                vocabulary = block.parameter.out_features
                index_of, full = self._padded(inputs[..., None])[..., 0], self._padded(gradient)
                self._add_whole(index, block, lambda rows: summed_rows(index_of[rows], full[rows], vocabulary))

        started = self._watch(output, on_gradient)
        return output if started is None else started

    def _watch_expert(self, block: Block, expert: int, token: Tensor, inputs: Tensor, output: Tensor) -> Tensor:
        """One expert's product on the tokens (r,) that were routed to it; its gradient is told apart by sample."""
        assert self._positions is not None
        samples, length = self._positions.shape
        sample = token // length if self._positions.row is None else self._positions.row.sample_of(token)
        in_side, out_side = self.projection.in_side(block), self.projection.out_side(block)
        signs = self.projection.expert_signs(block)
        kept = _times(inputs.detach(), in_side)
        full = inputs.detach() if self.exact_norms else None

        def on_gradient(gradient: Tensor) -> None:
            left, right = _times(gradient, out_side), kept
            if signs is not None:
                left, right = left * signs[0][expert], right * signs[1][expert]
            left, right = by_sample(sample, samples, left, right)
            product = torch.bmm(left.transpose(1, 2).float(), right.float())
            self.sketches[:, block.columns(expert)] += product.flatten(1)
            if full is not None:
                left, right = by_sample(sample, samples, gradient, full)
                for rows in _runs(samples, left.shape[-1] * right.shape[-1]):
                    self.squared_norms[rows] += _outer(left[rows], right[rows]).square().sum((1, 2))

        started = self._watch(output, on_gradient)
        return output if started is None else started

    @staticmethod
    def _watch(output: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor | None:
        """Await the gradient of a module's output; where there is no graph yet, start one at that output."""
        started = None if output.requires_grad else output.detach().requires_grad_(True)
        (output if started is None else started).register_hook(on_gradient)
        return None if started is None else started.clone()  # a leaf must not be written to, as Falcon does

    def _shared_input(self, block: Block, inputs: Tensor) -> Tensor:
        """`A P_i`, computed once for consecutive modules that are given the same tensor (q, k, v; gate, up)."""
        in_side = self.projection.in_side(block)
        if in_side is None:
            return inputs.detach()
        last = self._projected_input
        if last is not None and last[0] is inputs and last[1] == block.in_key:
            return last[2]
        projected = _times(inputs.detach(), in_side)
        self._projected_input = (inputs, block.in_key, projected)
        return projected

    def _per_sample(self, block: Block, module: nn.Module, *tensors: Tensor) -> list[Tensor]:
        """Give every tensor the shape (b, t, features), from the head's chosen positions or a flattened batch."""
        assert self._positions is not None
        samples, length = self._positions.shape
        if module is self.head.module:
            return by_sample(self._positions.sample, samples, *(tensor.flatten(0, -2) for tensor in tensors))
        found, row = tensors[0].shape[:-1], self._positions.row
        given = (samples, length) if row is None else (1, len(row.place))
        if found.numel() != given[0] * given[1]:
            raise ModelError(
                f"{block.parameter.uses[0].module} works on {tuple(found)} rows, not on the batch's "
                f"{given[0]} x {given[1]} (a routed expert?); leave it out with a regular expression as parameters"
            )
        if row is not None:
            return [row.unpack(tensor) for tensor in tensors]
        return [tensor.reshape(samples, length, tensor.shape[-1]) for tensor in tensors]

    def _padded(self, tensor: Tensor) -> Tensor:
        """(b, t, features), whether the model was given the batch so or in one row."""
        assert self._positions is not None
        return tensor if self._positions.row is None else self._positions.row.unpack(tensor)

    def _add(self, block: Block, left: Tensor, right: Tensor) -> None:
        """Add `left^T right` of every sample, (b, t, p_o) and (b, t, p_i), to its sketch; sums run in float32."""
        self.sketches[:, block.start : block.stop] += _outer(left, right).flatten(1)

    def _add_whole(self, index: int, block: Block, form: Callable[[slice], Tensor]) -> None:
        """Form full gradients, some samples at a time; those that come in parts are summed until the batch ends."""
        assert self._positions is not None
        samples = self._positions.shape[0]
        if self._comes_in_parts(block) or self._calls[index] > 1:
            product = form(slice(0, samples))
            self._partial[index] = self._partial[index].add_(product) if index in self._partial else product
            return
        for rows in _runs(samples, block.parameter.size):
            self._use_whole(block, rows, form(rows))

    def _use_whole(self, block: Block, rows: slice, gradients: Tensor) -> None:
        """What only full gradients (r, o, i) can give: exact norms, and the optimizer's direction."""
        if self.exact_norms:
            self.squared_norms[rows] += torch.linalg.vector_norm(gradients, dim=(1, 2)).square()
        if self.moments is not None:
            direction = self.moments.direction(block.parameter, gradients.div_(self.loss_scale))
            self.directions[rows, block.start : block.stop] = self.projection.sketch_matrix(block, direction)


def _thaw(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)


def _times(rows: Tensor, side: Tensor | None) -> Tensor:
    """Rows projected, in their own type: an adapter's may differ from the model's."""
    return rows if side is None else rows @ side.to(rows.dtype)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """`left^T right` of every sample, (b, t, o) and (b, t, i) to (b, o, i), in float32."""
    return torch.bmm(left.transpose(1, 2).float(), right.float())


def _runs(samples: int, elements: int) -> Iterator[slice]:
    """Runs of samples whose full gradients, of so many elements each, are formed together."""
    at_once = max(1, WHOLE_ELEMENTS // elements)
    for start in range(0, samples, at_once):
        yield slice(start, min(start + at_once, samples))
