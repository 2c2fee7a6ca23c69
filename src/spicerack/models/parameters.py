"""Which parameters are tracked: the weights whose per-sample gradients are taken.

Trackable are the weights of `Linear`, GPT-2's `Conv1D` and `Embedding` modules (those that look up rows), and the fused
weights of a mixture-of-experts block, (experts, out, in) in one tensor. One weight may be used by several modules (a
head tied to the embedding): then its gradient is the sum over its uses, as autograd has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spicerack.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Kind = Literal["linear", "conv1d", "embedding", "experts"]
FUSED_EXPERTS = ("gate_up_proj", "down_proj")


@dataclass(frozen=True)
class Use:
    """A module that multiplies by, or looks up in, a tracked weight."""

    module: str
    kind: Kind


@dataclass(frozen=True)
class TrackedParameter:
    """A tracked weight; its gradient is seen as (out_features, in_features) whatever the module stores.

    `transposed`: the module stores (in_features, out_features), as `Conv1D` does. `experts`: how many such matrices a
    fused weight holds; 1 for every other.
    """

    name: str
    out_features: int
    in_features: int
    uses: tuple[Use, ...]
    transposed: bool = False
    experts: int = 1

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.experts * self.out_features * self.in_features


def tracked_parameters(model: PreTrainedModel, which: str) -> tuple[TrackedParameter, ...]:
    """Resolve `which` to the tracked weights, in the order of the model's modules.

    Args:
        model: the model.
        which: `blocks` (every linear weight of the transformer blocks, adapters excluded), `last:N` (the same of the
            last N blocks), `lora` (the adapters' matrices), or a regular expression searched in the names of
            trackable weights.

    Raises:
        ModelError: nothing matches, or `which` is not a valid expression.
    """
    trackable = _trackable(model)
    if which == "lora":
        names = [name for name in trackable if re.search(r"\.lora_[AB]\.", name)]
        if not names:
            raise ModelError(
                "parameters=lora, but the model has no LoRA matrices; name an adapter with adapter_name_or_path"
            )
    elif which == "blocks" or which.startswith("last:"):
        names = _in_blocks(model, trackable, which)
    else:
        names = _matching(trackable, which)
    _refuse_wrapped(model, names)
    return tuple(trackable[name] for name in names)


def _refuse_wrapped(model: PreTrainedModel, names: list[str]) -> None:
    """Adapters on a parameter change it in the model's forward: no module runs with them."""
    wrapped = [name for name, module in model.named_modules() if type(module).__name__ == "ParamWrapper"]
    for name in names:
        if any(name.startswith(f"{prefix}.") for prefix in wrapped):
            raise ModelError(
                f"{name} belongs to an adapter on a parameter (target_parameters of peft), whose gradients cannot be "
                "taken; leave it out with a regular expression as parameters (q_proj.*lora_), or put the adapters on "
                "modules (target_modules)"
            )


def _trackable(model: PreTrainedModel) -> dict[str, TrackedParameter]:
    """Every weight that can be tracked, by the first name it is known under, with all its uses."""
    found: dict[int, tuple[str, nn.Module, list[Use]]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        kind = _kind(module)
        if kind is not None:
            name = f"{module_name}.weight" if module_name else "weight"
            _, _, uses = found.setdefault(id(module.weight), (name, module, []))
            if all(model.get_submodule(use.module) is not module for use in uses):
                uses.append(Use(module_name, kind))
    tracked = {}
    for name, module, uses in found.values():
        rows, columns = _features(module)
        tracked[name] = TrackedParameter(name, rows, columns, tuple(uses), uses[0].kind == "conv1d")
    return tracked | _fused_experts(model)


def _fused_experts(model: PreTrainedModel) -> dict[str, TrackedParameter]:
    """The experts' weights that are one tensor (experts, out, in), by name."""
    tracked = {}
    for module_name, module in model.named_modules():
        transposed = bool(getattr(module, "is_transposed", False))
        for attribute in FUSED_EXPERTS:
            weight = module._parameters.get(attribute)
            if weight is not None and weight.ndim == 3:
                experts, rows, columns = weight.shape
                if transposed:
                    rows, columns = columns, rows
                name = f"{module_name}.{attribute}"
                tracked[name] = TrackedParameter(
                    name, rows, columns, (Use(module_name, "experts"),), transposed, experts
                )
    return tracked


def _features(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a module; a quantized linear's weight is packed and has another shape."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    rows, columns = map(int, module.get_parameter("weight").shape)
    return (columns, rows) if _kind(module) == "conv1d" else (rows, columns)


def _kind(module: nn.Module) -> Kind | None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    return "embedding" if _is_lookup(module) else None


def _is_lookup(module: nn.Module) -> bool:
    """Whether a module's output is rows of its weight, as they are or times its `embed_scale`.

    Some embeddings are given something else than the rows to look up (OPT's positions: the attention mask).
    """
    from torch import nn

    if not isinstance(module, nn.Embedding):
        return False
    return type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")


def _in_blocks(model: PreTrainedModel, trackable: dict[str, TrackedParameter], which: str) -> list[str]:
    prefix, count = _blocks(model)
    first = 0
    if which != "blocks":
        number = which.removeprefix("last:")
        if not number.isdigit() or not 1 <= int(number) <= count:
            raise ModelError(f"parameters={which}: expected last:N with N from 1 to {count}, the model's blocks")
        first = count - int(number)
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    names = []
    for name, parameter in trackable.items():
        match = pattern.match(name)
        if match and int(match[1]) >= first and ".lora_" not in name and parameter.uses[0].kind != "embedding":
            names.append(name)
    if not names:
        raise ModelError(f"the blocks of {type(model).__name__} hold no linear weights")
    return names


def _blocks(model: PreTrainedModel) -> tuple[str, int]:
    """Name and length of the list of transformer blocks: the module list that holds the most parameters."""
    from torch import nn

    sizes = {
        name: (sum(parameter.numel() for parameter in module.parameters()), len(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    if not sizes:
        raise ModelError(f"{type(model).__name__} has no list of blocks; give a regular expression as parameters")
    name = max(sizes, key=lambda key: sizes[key][0])
    return name, sizes[name][1]


def _matching(trackable: dict[str, TrackedParameter], which: str) -> list[str]:
    try:
        pattern = re.compile(which)
    except re.error as error:
        raise ModelError(f"parameters={which!r} is not a valid regular expression: {error}") from error
    names = [name for name in trackable if pattern.search(name)]
    if not names:
        raise ModelError(
            f"parameters={which!r} matches none of the {len(trackable)} trackable weights "
            f"(of linear and embedding modules), the last of which is {list(trackable)[-1]!r}"
        )
    return names
