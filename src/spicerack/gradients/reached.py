"""Whether every tracked weight is used by running its module: hooks see nothing else, and its rows would be zeros.

Mamba multiplies by the weight of its `dt_proj` directly. It hangs on the model and on the release of transformers, so
no list is kept: a few tokens are run, and a weight whose module was not run must not be part of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from spicerack.errors import ModelError
from spicerack.gradients.meter import is_out_of_memory
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from spicerack.models.parameters import TrackedParameter

TOKENS = 12


def check_reached(model: PreTrainedModel, parameters: Sequence[TrackedParameter]) -> None:
    """Find out that no tracked weight is used behind its module's back. The model is left as it was.

    A weight that was not used at all is none: its gradient is zero.

    Raises:
        ModelError: names the first, and an expression that leaves such weights out.
    """
    with evaluating(model):
        missed = _used_directly(model, _not_run(model, parameters))
    if missed:
        refused = {_leaf(parameter.name) for parameter in missed}
        left = [leaf for leaf in dict.fromkeys(_leaf(p.name) for p in parameters) if leaf not in refused]
        way = f"; parameters='{'|'.join(left)}' leaves such weights out" if left else ""
        raise ModelError(
            f"{missed[0].name}{f' and {len(missed) - 1} more' if len(missed) > 1 else ''}: {type(model).__name__} "
            f"multiplies by the weight without running its module, so its gradients cannot be taken{way}"
        )


def _leaf(name: str) -> str:
    """The last part of a module's name, as `dt_proj`."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _not_run(model: PreTrainedModel, parameters: Sequence[TrackedParameter]) -> list[TrackedParameter]:
    run: set[str] = set()
    handles = [
        model.get_submodule(use.module).register_forward_hook(lambda *_, name=parameter.name: run.add(name))
        for parameter in parameters
        for use in parameter.uses
    ]
    try:
        with torch.no_grad():
            _try(model)
    finally:
        for handle in handles:
            handle.remove()
    return [parameter for parameter in parameters if parameter.name not in run]


def _used_directly(model: PreTrainedModel, parameters: Sequence[TrackedParameter]) -> list[TrackedParameter]:
    weights = {p.name: model.get_parameter(p.name) for p in parameters}
    weights = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    if not weights:
        return []
    with torch.enable_grad(), _alone_trainable(model, list(weights.values())):
        logits = _try(model)
        if logits is None or not logits.requires_grad:
            return []
        gradients = torch.autograd.grad(logits.float().sum(), list(weights.values()), allow_unused=True)
    used = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    return [parameter for parameter in parameters if parameter.name in used]


@contextmanager
def _alone_trainable(model: PreTrainedModel, weights: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def _try(model: PreTrainedModel) -> Tensor | None:
    """Logits of a few tokens; None where the model cannot be run so: the pass will say it better."""
    weight: Tensor = model.get_input_embeddings().weight
    ids = torch.randint(0, len(weight), (1, TOKENS), generator=torch.Generator().manual_seed(0))
    try:
        logits: Tensor = model(input_ids=ids.to(weight.device), use_cache=False).logits
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return None
    return logits
