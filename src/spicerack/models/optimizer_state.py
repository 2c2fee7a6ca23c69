"""What an optimizer had gathered when a checkpoint was saved, by parameter name, whoever saved it.

Three files are read:

adam.safetensors    ours: `first.<name>` and `second.<name>`, with `step`, `betas` and `eps` in the metadata
optimizer.pt        torch's `state_dict()`, under integer ids, as the transformers Trainer writes it
optimizer.bin       the same under parameter names, as FSDP and LESS's code have it (accelerate's has ids)

An id says in which place of which parameter group a weight stood. Where the file does not name them too, the groups are
those that the transformers Trainer forms: weights with decay, then those without, each in the model's order. Numbers
and shapes must agree, else the file is refused. Tensors stay where they are on disk until they are used.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spicerack.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MOMENTS_FILE = "adam.safetensors"
STATE_FILES = (MOMENTS_FILE, "optimizer.bin", "optimizer.pt")  # the first that a folder has is read
LEFT_OUT = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "default"}  # of a name's parts
EXPECTED = f"expected {', '.join(STATE_FILES)}"
SAMPLED_ELEMENTS = 1024  # of each tensor, for the fingerprint

Kind = Literal["adam", "adafactor"]


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state of some weights.

    Attributes:
        kind: which optimizer.
        tensors: by parameter name, then by the optimizer's own word, as in `exp_avg`; Adam's are always `exp_avg` and
            `exp_avg_sq`, shaped as the weight.
        step: steps taken.
        options: of the optimizer: `betas`, `eps`, ...
        path: the file.
    """

    kind: Kind
    tensors: Mapping[str, Mapping[str, Tensor]]
    step: int
    options: Mapping[str, Any]
    path: Path

    def fingerprint(self) -> str:
        """SHA-256 over the step, the options that count, and a fixed sample of every tensor."""
        import torch

        numbers = {key: self.options.get(key) for key in ("betas", "eps", "decay_rate", "beta2_decay")}
        digest = hashlib.sha256(json.dumps([self.kind, self.step, numbers], sort_keys=True).encode())
        for name, tensors in sorted(self.tensors.items()):
            for word, tensor in sorted(tensors.items()):
                flat = tensor.detach().reshape(-1)
                sample = flat[:: max(1, flat.numel() // SAMPLED_ELEMENTS)].to("cpu", torch.float32).contiguous()
                digest.update(f"{name} {word} {tuple(tensor.shape)}".encode())
                digest.update(sample.numpy().tobytes())
        return digest.hexdigest()


def find_optimizer_state(path: str | Path) -> Path | None:
    """The file with an optimizer's state that a path names or a checkpoint's folder holds, or None."""
    path = Path(path)
    if path.is_file():
        return path
    return next((path / name for name in STATE_FILES if (path / name).is_file()), None)


def read_optimizer_state(path: str | Path, model: PreTrainedModel, names: Sequence[str]) -> OptimizerState:
    """The state of some of a model's weights.

    Args:
        path: a file of the three forms, or a checkpoint's folder with one.
        model: with the checkpoint's adapter, if it has one: its parameters' names, order and shapes.
        names: of the weights wanted, as `model.named_parameters()` has them.

    Raises:
        ModelError: no such file, an optimizer of another kind, a weight without a state, a state of another shape, or
            ids that cannot be told apart.
    """
    found = find_optimizer_state(path)
    if found is None:
        raise ModelError(f"{path} has no optimizer state; {EXPECTED}{_hint(Path(path))}")
    ours = found.suffix == ".safetensors"
    state = _read_safetensors(found, names) if ours else _read_state_dict(found, model, names)
    for name in names:
        shape = tuple(model.get_parameter(name).shape)
        for word, tensor in state.tensors[name].items():
            if not _fits(word, tuple(tensor.shape), shape):
                raise ModelError(
                    f"{found}: {word} of {name} has shape {tuple(tensor.shape)}, the weight {shape}; name the state "
                    "that was saved with this model and adapter"
                )
    return state


def _read_safetensors(path: Path, names: Sequence[str]) -> OptimizerState:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
            options = {"betas": tuple(metadata["betas"]), "eps": float(metadata["eps"])}
            step = int(metadata["step"])
            held = _by_plain_name(path, (key.partition(".")[2] for key in keys if key.startswith("first.")))
            tensors = {}
            for name in names:
                own = _look_up(path, held, name)
                words = {"exp_avg": f"first.{own}", "exp_avg_sq": f"second.{own}"}
                tensors[name] = {word: file.get_tensor(key) for word, key in words.items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is not a file of Adam's moments ({error}); `spicerack warmup` writes them") from error
    return OptimizerState("adam", tensors, step, options, path)


def _read_state_dict(path: Path, model: PreTrainedModel, names: Sequence[str]) -> OptimizerState:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}; {EXPECTED}") from error
    states, groups = _parts(path, content)
    if all(isinstance(key, int) for key in states):
        names_by_id = _names_by_id(path, groups, model)
        states = {names_by_id[key]: state for key, state in states.items()}
    held = _by_plain_name(path, states)
    options = groups[0]
    kind = _kind(path, options)
    chosen = {name: states[_look_up(path, held, name)] for name in names}
    tensors = {name: _tensors(path, name, kind, state) for name, state in chosen.items()}
    step = max(int(state.get("step", options.get("step", 0))) for state in chosen.values())
    return OptimizerState(kind, tensors, step, options, path)


def _parts(path: Path, content: Any) -> tuple[dict[Any, dict[str, Any]], list[dict[str, Any]]]:
    """The states and the parameter groups of a `state_dict()`."""
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        raise ModelError(f"{path} is no optimizer's state_dict: it has no `state`; {EXPECTED}")
    if not content["state"]:
        raise ModelError(f"{path} holds an optimizer that has not taken a step")
    if not content.get("param_groups"):
        raise ModelError(f"{path} has no `param_groups`, so the optimizer's betas and eps are not known")
    return content["state"], content["param_groups"]


def _kind(path: Path, options: Mapping[str, Any]) -> Kind:
    if "decay_rate" in options or "beta2_decay" in options:
        return "adafactor"
    if "betas" not in options or options.get("amsgrad"):
        raise ModelError(f"{path} is the state of an optimizer that is neither Adam (or AdamW) nor Adafactor")
    return "adam"


def _tensors(path: Path, name: str, kind: Kind, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the direction needs of a weight's state; bitsandbytes' 32-bit Adam calls the moments by number."""
    import torch

    held = {word: value for word, value in state.items() if isinstance(value, torch.Tensor) and word != "step"}
    if kind == "adafactor":
        words = ("exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var", "variance")
        factors = {word: held[word] for word in words if word in held}
        return factors or {"exp_avg_sq": held["exp_avg_sq"]}
    moments = {}
    for word, other in (("exp_avg", "state1"), ("exp_avg_sq", "state2")):
        moment = held.get(word, held.get(other))
        if moment is None or not moment.is_floating_point():
            found = ", ".join(held) or "nothing"
            raise ModelError(f"{path} keeps no Adam moments of {name} ({found}; 8-bit ones cannot be read); {EXPECTED}")
        moments[word] = moment
    return moments


def _names_by_id(path: Path, groups: Sequence[Mapping[str, Any]], model: PreTrainedModel) -> dict[int, str]:
    """Parameter names of the ids, from the file's own names, else from the groups that the Trainer forms."""
    ids = [list(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        named = [list(group["param_names"]) for group in groups]
    else:
        named = _trained_groups(model, len(groups))
    if [len(group) for group in ids] != [len(group) for group in named]:
        raise ModelError(
            f"{path} has parameter groups of {_counts(ids)} weights under integer ids, where the transformers Trainer "
            f"would have {_counts(named)} for this model: which weight is which cannot be told; load the adapter that "
            "was saved with it, or give a file with parameter names"
        )
    return {key: name for group, own in zip(ids, named, strict=True) for key, name in zip(group, own, strict=True)}


def _trained_groups(model: PreTrainedModel, groups: int) -> list[list[str]]:
    """The trained weights' names as the Trainer groups them: decayed ones, then the others; or all in one."""
    from transformers import Trainer

    names = [name for name, _ in model.named_parameters() if _trained(model, name)]
    if groups == 1:
        return [names]
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    return [[name for name in names if name in decayed], [name for name in names if name not in decayed]]


def _trained(model: PreTrainedModel, name: str) -> bool:
    """Whether training steps a weight: all of a model's, or all that an adapter brings."""
    if not hasattr(model, "peft_config"):
        return True
    prefix = str(getattr(model.base_model, "prefix", "lora_"))
    return prefix in name or ".modules_to_save." in name


def _by_plain_name(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The file's names by what is left without wrappers and the adapter's own name."""
    found: dict[str, str] = {}
    for name in names:
        plain = _plain(name)
        if plain in found:
            raise ModelError(f"{path} has both {found[plain]!r} and {name!r}, which are one weight of the model")
        found[plain] = name
    return found


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in LEFT_OUT)


def _look_up(path: Path, held: Mapping[str, str], name: str) -> str:
    if _plain(name) not in held:
        example = next(iter(held.values()), "none")
        raise ModelError(
            f"{path} has no state of {name}; it has {len(held)} weights, as {example}. Track weights that were "
            "trained, as in parameters=lora, or name the state that was saved with this adapter"
        )
    return held[_plain(name)]


def _fits(word: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Adafactor's factors are the means along one of the last two axes, with or without that axis."""
    if word in ("exp_avg_sq_row", "row_var"):
        return shape in (weight[:-1], (*weight[:-1], 1))
    if word in ("exp_avg_sq_col", "col_var"):
        return shape in ((*weight[:-2], weight[-1]), (*weight[:-2], 1, weight[-1]))
    return shape == weight


def _counts(groups: Sequence[Sequence[Any]]) -> str:
    return " and ".join(str(len(group)) for group in groups)


def _hint(folder: Path) -> str:
    """What a folder that has none of the files may hold instead."""
    if any(folder.glob("optimizer_*/*.distcp")):
        return "; it has a sharded FSDP state: save it with state_dict_type FULL_STATE_DICT"
    if any(folder.glob("global_step*")):
        return "; it has a DeepSpeed state, whose moments are flattened and cannot be told apart"
    return ""
