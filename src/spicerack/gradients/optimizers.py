"""What an optimizer would make of a sample's gradient: the direction of its step, not of the gradient itself.

LESS (arXiv 2402.04333) compares the pool's Adam-form gradients with plain target gradients. With the moments m, v
that Adam holds after `step` steps, a sample's gradient g alone would give

    m+ = b1 m + (1 - b1) g,   v+ = b2 v + (1 - b2) g^2
    torch:  Gamma = (m+ / (1 - b1^(step+1))) / (sqrt(v+ / (1 - b2^(step+1))) + eps)     what torch's AdamW does
    less:   Gamma = m+ / sqrt(v+ + eps)                                                what LESS's released code does

The second has eps inside the root and no bias correction; where coordinate scales spread, its direction differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from spicerack.models.parameters import TrackedParameter

AdamEps = Literal["torch", "less"]


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
        first = self._moment(self.first, parameter, gradient)
        second = self._moment(self.second, parameter, gradient)
        beta1, beta2 = self.betas
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient.square()
        if self.eps_form == "less":
            return first / (second + self.eps).sqrt()
        first = first / (1 - beta1 ** (self.step + 1))
        second = second / (1 - beta2 ** (self.step + 1))
        return first / (second.sqrt() + self.eps)

    @staticmethod
    def _moment(moments: Mapping[str, Tensor], parameter: TrackedParameter, gradient: Tensor) -> Tensor:
        moment = moments[parameter.name].to(gradient.device, gradient.dtype)
        return moment.T if parameter.transposed else moment
