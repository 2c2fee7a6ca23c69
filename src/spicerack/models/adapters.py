"""A PEFT adapter on a model, and whether these are the weights that it was trained on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from spicerack.config import Choice
from spicerack.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_FILE = "adapter_config.json"
RECORDS = ("settings.json", "../settings.json")  # of our own trainings: beside the adapter, or above its checkpoint


def with_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """Put a PEFT adapter on a model, in the model's dtype.

    Raises:
        ModelError: no such adapter, one in pickled form only, or one that does not fit.
    """
    from peft import PeftModel

    folder, renamed = Path(adapter), "`is_gradient_checkpointing` is deprecated"  # peft asks for it
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no adapter_model.safetensors; save the adapter with save_pretrained")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=renamed, category=FutureWarning)
            adapted: PreTrainedModel = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"cannot load the adapter {adapter!r}: {first_line(error)}") from error
    return adapted


def other_base(adapter: str | Path, fingerprint: str) -> tuple[Choice, ...]:
    """Told where an adapter of ours was trained on other weights than those with `fingerprint`; nothing otherwise.

    It fits whatever has its shapes. Quantized weights differ from those they were made from, so it is no error.
    """
    for record in RECORDS:
        try:
            before = json.loads((Path(adapter) / record).read_text(encoding="utf-8"))["model"]
            trained_on, name = str(before["fingerprint"]), str(before["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if trained_on != fingerprint:
            reason = f"it was trained on {name}, whose weights are not those of this model: is it the right one?"
            return (Choice("adapter", str(adapter), reason),)
        return ()
    return ()
