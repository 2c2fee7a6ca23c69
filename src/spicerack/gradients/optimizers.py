"""What an optimizer would make of a sample's gradient: the direction of its step, not of the gradient itself.

LESS (arXiv 2402.04333) compares the pool's Adam-form gradients with plain target gradients. With the moments m, v
that Adam holds after `step` steps, a sample's gradient g alone would give

    m+ = b1 m + (1 - b1) g,   v+ = b2 v + (1 - b2) g^2
    torch:  Gamma = (m+ / (1 - b1^(step+1))) / (sqrt(v+ / (1 - b2^(step+1))) + eps)     what torch's AdamW does
    less:   Gamma = m+ / sqrt(v+ + eps)                                                what LESS's released code does

The second has eps inside the root and no bias correction; where coordinate scales spread, its direction differs.

Adafactor (arXiv 1804.04235) keeps the rows' and the columns' mean squares R, C in place of v. With `w = step+1` to the
power `beta2_decay`, its normalized gradient is

    R+ = (1 - w) R + w mean_columns(g^2),   C+ = (1 - w) C + w mean_rows(g^2)
    Gamma = g / sqrt(R+ C+^T / mean(R+))

Its clipping by the update's size and its step relative to the weight's size scale Gamma by one number a weight, its
momentum belongs to no sample: all three are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from spicerack.models.optimizer_state import OptimizerState
    from spicerack.models.parameters import TrackedParameter

AdamEps = Literal["torch", "less"]
AdafactorEps = Literal["transformers", "torch"]
KEPT_BYTES = 1 << 30  # of moments that a GPU may hold; larger ones are sent a weight at a time


class Moments(Protocol):
    """What a gradient capture needs of an optimizer's state."""

    def direction(self, parameter: TrackedParameter, gradient: Tensor) -> Tensor:
        """What the optimizer makes of gradients (..., out_features, in_features): a new tensor of that shape."""


@dataclass(frozen=True)
class AdamMoments:
    """Adam's moments of the tracked weights after `step` >= 0 steps.

    Attributes:
        first: by parameter name, shaped as the module stores the weight.
        second: the same, non-negative.
        step: steps taken when the moments were saved.
        betas: b1 and b2, each in [0, 1).
        eps: > 0.
        eps_form: where eps stands, see the module's docstring.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_form: AdamEps = "torch"

    def direction(self, parameter: TrackedParameter, gradient: Tensor) -> Tensor:
        """Gamma of gradients (..., out_features, in_features), float32.

        Args:
            parameter: the weight; its moments are turned to (out_features, in_features) where it is stored the other
            way.
            gradient: of one sample or several.
        """
        beta1, beta2 = self.betas
        first = (gradient * (1 - beta1)).add_(self._moment(self.first, parameter, gradient), alpha=beta1)
        second = gradient.square().mul_(1 - beta2).add_(self._moment(self.second, parameter, gradient), alpha=beta2)
        if self.eps_form == "less":
            return first.div_(second.add_(self.eps).sqrt_())
        second.div_(1 - beta2 ** (self.step + 1)).sqrt_().add_(self.eps)
        return first.div_(1 - beta1 ** (self.step + 1)).div_(second)

    @staticmethod
    def _moment(moments: Mapping[str, Tensor], parameter: TrackedParameter, gradient: Tensor) -> Tensor:
        moment = moments[parameter.name].to(gradient.device, gradient.dtype)
        return moment.mT if parameter.transposed else moment


@dataclass(frozen=True)
class AdafactorMoments:
    """Adafactor's factored second moments of the tracked weights after `step` >= 0 steps.

    A name stands in `rows` and `columns`, or, where the optimizer keeps it whole as it does vectors, in `whole`.

    Attributes:
        rows: by parameter name, mean squares along the last axis of the weight as the module stores it, with or
            without that axis (`exp_avg_sq_row` of transformers, `row_var` of torch).
        columns: the same along the axis before (`exp_avg_sq_col`, `col_var`).
        whole: mean squares of each element, shaped as the weight (`exp_avg_sq`, `variance`).
        step: steps taken when the moments were saved.
        beta2_decay: the exponent, < 0.
        eps: > 0; transformers' first eps, or torch's eps1.
        eps_form: `transformers` adds eps to every squared gradient; `torch` keeps mean(R+) from falling below eps, and
            the estimated second moment below eps^2.
    """

    rows: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]
    step: int
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    beta2_decay: float = -0.8
    eps: float = 1e-30
    eps_form: AdafactorEps = "transformers"

    def direction(self, parameter: TrackedParameter, gradient: Tensor) -> Tensor:
        """Gamma of gradients (..., out_features, in_features), in their type.

        Args:
            parameter: the weight.
            gradient: of one sample or several; each is normalized on its own.
        """
        stored = gradient.mT if parameter.transposed else gradient
        weight = (self.step + 1) ** self.beta2_decay
        added = self.eps if self.eps_form == "transformers" else 0.0
        if parameter.name in self.whole:
            before = self.whole[parameter.name].to(stored.device, stored.dtype)
            second = stored.square().add_(added).mul_(weight).add_(before, alpha=1 - weight)
            scale = self._above_eps(second, 2).rsqrt_()
            direction = stored * scale
        else:
            row = self._factor(self.rows[parameter.name], stored, -1, weight, added)
            column = self._factor(self.columns[parameter.name], stored, -2, weight, added)
            row = row / self._above_eps(row.mean(-2, keepdim=True), 1)
            direction = self._divided(stored, row, column)
        return direction.mT if parameter.transposed else direction

    def _divided(self, stored: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """`stored / sqrt(row column^T)`; only torch's form needs the product itself, to keep it from vanishing."""
        if self.eps_form == "transformers":
            return (stored * row.rsqrt()).mul_(column.rsqrt())
        return self._above_eps(row * column, 2).rsqrt_().mul_(stored)

    def _above_eps(self, second: Tensor, power: int) -> Tensor:
        return second.clamp_(min=self.eps**power) if self.eps_form == "torch" else second

    @staticmethod
    def _factor(before: Tensor, stored: Tensor, axis: int, weight: float, added: float) -> Tensor:
        """One factor with the gradient's share: (..., o, 1) along the last axis, (..., 1, i) along the one before."""
        shape = [*stored.shape[-2:]]
        shape[axis] = 1
        mean: Tensor = torch.linalg.vector_norm(stored, dim=axis, keepdim=True).square_() / stored.shape[axis]
        before = before.to(stored.device, stored.dtype).reshape(shape)
        return mean.add_(added).mul_(weight).add_(before, alpha=1 - weight)


def moments_of(state: OptimizerState, *, eps_form: AdamEps, device: torch.device) -> AdamMoments | AdafactorMoments:
    """The moments in an optimizer's state, on the device where there is room for them.

    Args:
        state: of the tracked weights.
        eps_form: Adam's.
        device: the model's.
    """
    size = sum(4 * t.numel() for words in state.tensors.values() for t in words.values())
    small = device.type != "cpu" and size <= KEPT_BYTES

    def kept(*words: str) -> dict[str, Tensor]:
        found = {n: t for n, held in state.tensors.items() for word, t in held.items() if word in words}
        return {name: tensor.to(device, torch.float32) for name, tensor in found.items()} if small else found

    options = state.options
    if state.kind == "adam":
        beta1, beta2 = (float(beta) for beta in options["betas"])
        first, second = kept("exp_avg"), kept("exp_avg_sq")
        return AdamMoments(first, second, state.step, (beta1, beta2), float(options["eps"]), eps_form)
    ours = "beta2_decay" not in options  # transformers' class, not torch's
    eps = options["eps"][0]
    return AdafactorMoments(
        rows=kept("exp_avg_sq_row", "row_var"),
        columns=kept("exp_avg_sq_col", "col_var"),
        whole=kept("exp_avg_sq", "variance"),
        step=state.step,
        beta2_decay=float(options["decay_rate"] if ours else options["beta2_decay"]),
        eps=float(torch.finfo(torch.float32).eps if eps is None else eps),
        eps_form="transformers" if ours else "torch",
    )
