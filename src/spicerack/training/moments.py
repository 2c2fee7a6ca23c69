"""Adam's moments by parameter name, in safetensors: what stock trainers keep under integer ids in a pickle.

`adam.safetensors` holds `first.<name>` and `second.<name>` for every trained parameter, float32, under the names of
`model.named_parameters()`; its metadata are `step`, `betas` and `eps`, as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from spicerack.errors import ModelError
from spicerack.store.files import write_atomically

if TYPE_CHECKING:
    from torch import nn

MOMENTS_FILE = "adam.safetensors"


def write_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the moments of every parameter that the optimizer has stepped.

    Args:
        path: the file.
        model: the model as it is trained, adapters included.
        optimizer: torch's Adam or AdamW, or a wrapper that shares its `state` and `param_groups`.

    Raises:
        ModelError: the optimizer has no Adam moments, or has not stepped.
        OutputError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    steps = set()
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if not state:
            continue
        if "exp_avg" not in state or "exp_avg_sq" not in state:
            raise ModelError(f"{type(optimizer).__name__} keeps no Adam moments of {name}; train with AdamW")
        tensors[f"first.{name}"] = _plain(state["exp_avg"])
        tensors[f"second.{name}"] = _plain(state["exp_avg_sq"])
        steps.add(int(state["step"]))
    if not tensors:
        raise ModelError(f"{type(optimizer).__name__} has no state to write; it has not taken a step")
    group = optimizer.param_groups[0]
    metadata = {
        "step": json.dumps(max(steps)),
        "betas": json.dumps([float(beta) for beta in group["betas"]]),
        "eps": json.dumps(float(group["eps"])),
    }
    content = save(tensors, metadata)
    write_atomically(path, lambda file: file.write(content))


def _plain(moment: torch.Tensor) -> torch.Tensor:
    return moment.detach().to("cpu", torch.float32).contiguous()
