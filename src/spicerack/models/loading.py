"""Load a causal language model and its tokenizer, and say what was chosen on the way.

A model is a hub id, a folder with safetensors weights, a GGUF file, or a loaded `PreTrainedModel`. Every automatic
choice (device, dtype) is returned as a `Choice`, to be printed once and recorded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice, ModelConfig
from spicerack.errors import ConfigurationError, MissingDependencyError, ModelError, first_line
from spicerack.models.adapters import other_base, with_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLED_ELEMENTS = 1024  # per parameter, spread over it: enough to tell two trainings of one model apart


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for the gradient pass, and what identifies it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    device: torch.device
    choices: tuple[Choice, ...] = field(default=())
    attention_is_open: bool = False  # nobody named an attention implementation

    @property
    def dtype(self) -> str:
        """Floating-point type of the weights, as in `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    def fingerprint(self) -> str:
        """What tells its weights from others, see `fingerprint_of`."""
        return fingerprint_of(self.model)


def fingerprint_of(model: PreTrainedModel) -> str:
    """SHA-256 over every parameter's name, shape, and a fixed sample of its values.

    A few thousand values of each tensor tell apart two trainings of one architecture without reading gigabytes.
    The values are hashed as float32, after rounding to bfloat16, so the same weights loaded in another dtype or on
    another device have the same fingerprint unless the rounding itself differs.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        stride = max(1, flat.numel() // SAMPLED_ELEMENTS)
        sample = flat[::stride].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def load_model(
    model: str | Path | PreTrainedModel, config: ModelConfig, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> LoadedModel:
    """Load `model` as `config` says; a loaded model is taken as it is.

    Args:
        model: hub id, folder, GGUF file, or a loaded model.
        config: device, dtype, revision, adapter and so on. Ignored for a loaded model, except the tokenizer's name.
        tokenizer: used instead of the model's own; required with a loaded model unless the pool is tokenized.

    Raises:
        ModelError: no such model, no weights in the folder, weights only in pickled form, an adapter that does not fit.
        ConfigurationError: a device that this machine does not have.
    """
    import torch

    if not isinstance(model, str | Path):
        if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
            raise ModelError(
                f"a model of type {type(model).__name__} cannot be used; expected a hub id, a folder, a GGUF file or a "
                "causal language model of transformers"
            )
        tokenizer = tokenizer or (
            load_tokenizer(config.tokenizer_name_or_path, config) if config.tokenizer_name_or_path else None
        )
        name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        return LoadedModel(model, tokenizer, name, next(model.parameters()).device)
    device, device_choice = choose_device(config.device)
    dtype, dtype_choice = choose_dtype(config.dtype, device)
    loaded = _from_pretrained(str(model), config, getattr(torch, dtype), device)
    told: tuple[Choice, ...] = ()
    if config.adapter_name_or_path:
        told = other_base(config.adapter_name_or_path, fingerprint_of(loaded))
        loaded = with_adapter(loaded, config.adapter_name_or_path)
    tokenizer = tokenizer or load_tokenizer(config.tokenizer_name_or_path or str(model), config)
    choices = (*(choice for choice in (device_choice, dtype_choice) if choice), *told)
    return LoadedModel(loaded.eval(), tokenizer, str(model), device, choices, config.attn_implementation is None)


def load_tokenizer(name: str, config: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a hub id, folder or GGUF file.

    Raises:
        ModelError: there is none, with the loader's reason.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_location(name), **_remote(config))
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"cannot load a tokenizer from {name!r}: {_not_here(name)}{first_line(error)}; name one with "
            "tokenizer_name_or_path"
        ) from error
    return tokenizer


def choose_device(device: str) -> tuple[torch.device, Choice | None]:
    """Resolve `auto` to CUDA, then MPS, then the CPU; check that a named device exists."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), Choice("device", "cuda", f"{torch.cuda.get_device_name(0)} is available")
        if torch.backends.mps.is_available():
            return torch.device("mps"), Choice("device", "mps", "Apple GPU is available")
        return torch.device("cpu"), Choice("device", "cpu", "no GPU is visible to torch")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {device!r} cannot be used: {first_line(error)}; use auto, cpu or a GPU that torch sees"
        ) from error
    return torch.device(device), None


def choose_dtype(dtype: str, device: torch.device) -> tuple[str, Choice | None]:
    """Resolve `auto`: bfloat16 where the device multiplies it in hardware, float32 elsewhere."""
    import torch

    if dtype != "auto":
        return dtype, None
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", Choice("dtype", "bfloat16", "the GPU multiplies bfloat16 in hardware")
    if device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
            return "bfloat16", Choice("dtype", "bfloat16", "the CPU multiplies bfloat16 in hardware")
    return "float32", Choice("dtype", "float32", f"no bfloat16 hardware on this {device.type}")


def _from_pretrained(name: str, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    location = _location(name)
    options: dict[str, Any] = {**location, **_remote(config), "dtype": dtype}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    if quantized := _quantization(config, dtype):
        options |= {"quantization_config": quantized, "device_map": {"": device}}
    if "gguf_file" in location:
        options = {**_unpacked(), **options}
    else:
        _check_weights(Path(name))
        options["use_safetensors"] = True
    try:
        with without_bars() if Path(name).exists() else nullcontext():  # a download may show how far it is
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(**options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the model {name!r}: {_not_here(name)}{first_line(error)}") from error
    if "gguf_file" in location:
        _forget_quantization(model)
    return model if quantized else model.to(device)


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers over ours."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _quantization(config: ModelConfig, dtype: torch.dtype) -> Any:
    """What transformers is asked to quantize the weights with on loading, or None.

    Raises:
        ConfigurationError: both widths.
        MissingDependencyError: bitsandbytes is not installed.
    """
    if not (config.load_in_8bit or config.load_in_4bit):
        return None
    if config.load_in_8bit and config.load_in_4bit:
        raise ConfigurationError("load_in_8bit and load_in_4bit exclude each other; give one")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("quantized weights need bitsandbytes; pip install 'spicerack[quantization]'")
    from transformers import BitsAndBytesConfig

    if config.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _unpacked() -> dict[str, Any]:
    """What keeps transformers from leaving a GGUF file's weights in their blocks: no gradient passes through those."""
    import transformers

    known = getattr(transformers, "GgufConfig", None)  # versions without it always unpack
    return {} if known is None else {"quantization_config": known(dequantize=True)}


def _location(name: str) -> dict[str, str]:
    """The loader's arguments for a name: a GGUF file is a folder and a file in it."""
    path = Path(name)
    if path.suffix != ".gguf":
        return {"pretrained_model_name_or_path": name}
    if not path.is_file():
        raise ModelError(f"no such GGUF file: {name}")
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def _remote(config: ModelConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    return options | ({"revision": config.model_revision} if config.model_revision else {})


def _check_weights(folder: Path) -> None:
    """Refuse a local folder that cannot be a model before the loader gives its long answer."""
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model folder: it has no config.json")
    if any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} has only pickled weights ({pickled[0].name}); convert them to safetensors with save_pretrained"
        )
    raise ModelError(f"{folder} has a config.json but no weights; expected *.safetensors")


def _forget_quantization(model: PreTrainedModel) -> None:
    """A GGUF model is dequantized on loading, yet says it is quantized and then refuses to be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _not_here(name: str) -> str:
    """Said before the hub's answer, which is of no use where a folder was meant."""
    return "" if Path(name).exists() else "there is no such folder or file, and as a hub id: "
