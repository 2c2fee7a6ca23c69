"""A folder with an adapter, as `train` and peft leave it: which model it belongs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spicerack.config import Choice, ModelConfig
from spicerack.errors import ConfigurationError
from spicerack.models.adapters import ADAPTER_FILE


def resolve_model(name: str, section: ModelConfig) -> tuple[ModelConfig, tuple[Choice, ...]]:
    """The model options for what a user called a model: a hub id, folder or GGUF file, or a folder with an adapter.

    Args:
        name: what was named.
        section: the other options of the model.

    Returns:
        The options with `model_name_or_path`, and for an adapter its base and `adapter_name_or_path`.

    Raises:
        ConfigurationError: an adapter that does not say what it belongs on, or a second one on top of it.
    """
    folder = Path(name)
    if not (folder / ADAPTER_FILE).is_file():
        return section.model_copy(update={"model_name_or_path": name}), ()
    if section.adapter_name_or_path is not None:
        raise ConfigurationError(
            f"{name} is an adapter itself, and {section.adapter_name_or_path} is named as another; name the base model"
        )
    base = section.model_name_or_path or base_of(folder)
    if not base:
        raise ConfigurationError(f"{folder / ADAPTER_FILE} names no base model; give the model, and --adapter {name}")
    updated = section.model_copy(update={"model_name_or_path": base, "adapter_name_or_path": name})
    return updated, (Choice("model", base, f"what the adapter in {name} was trained on"),)


def base_of(folder: Path) -> str | None:
    """The model that a folder's adapter belongs on: as our own manifest says (it knows GGUF files), else peft's."""
    manifest = _read(folder / "manifest.json").get("model", {})
    name = manifest.get("name") if isinstance(manifest, dict) else None
    base: str | None = name or _read(folder / ADAPTER_FILE).get("base_model_name_or_path")
    return base


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
