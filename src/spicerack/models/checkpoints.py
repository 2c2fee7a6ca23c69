"""The model at each of several checkpoints: adapters are swapped on one base, whole models loaded one at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import ModelConfig
from spicerack.errors import ConfigurationError, ModelError
from spicerack.models.adapters import ADAPTER_FILE, other_base, with_adapter
from spicerack.models.loading import LoadedModel, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelCheckpoint:
    """A checkpoint of a model.

    Attributes:
        name: a folder's name; pool and target are compared at checkpoints of one name.
        folder: an adapter, or a whole model.
        weight: its share of a score over all checkpoints, >= 0; they sum to 1.
    """

    name: str
    folder: Path
    weight: float


class CheckpointModels:
    """Gives the model at a checkpoint, and takes it back with the next."""

    def __init__(
        self,
        model: str | Path | PreTrainedModel | None,
        config: ModelConfig,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            model: what adapters belong on; whole checkpoints need none.
            config: how to load it.
            tokenizer: used instead of the model's own.

        Raises:
            ConfigurationError: `config` names an adapter too.
        """
        if config.adapter_name_or_path is not None:
            raise ConfigurationError(
                f"checkpoints bring their own adapters, and {config.adapter_name_or_path} is named as another; leave "
                "adapter_name_or_path out"
            )
        self._model, self._config, self._tokenizer = model, config, tokenizer
        self._base: LoadedModel | None = None
        self._adapted: Any = None

    def load(self, checkpoint: ModelCheckpoint) -> LoadedModel:
        """The model at a checkpoint; the one given before is no longer to be used.

        Raises:
            ModelError: no model there, or an adapter that does not fit; it, or no base model is named.
        """
        self.release()
        if not (checkpoint.folder / ADAPTER_FILE).is_file():
            return load_model(checkpoint.folder, self._config, tokenizer=self._tokenizer)
        base = self._load_base(checkpoint)
        told = other_base(checkpoint.folder, base.fingerprint())
        self._adapted = with_adapter(base.model, str(checkpoint.folder))
        return replace(base, model=self._adapted.eval(), choices=(*base.choices, *told))

    def release(self) -> None:
        """Take the checkpoint's adapter off again: the base is as it was."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None

    def _load_base(self, checkpoint: ModelCheckpoint) -> LoadedModel:
        if self._base is None:
            if self._model is None:
                raise ModelError(f"{checkpoint.folder} is an adapter; name the model that it belongs on (--model)")
            self._base = load_model(self._model, self._config, tokenizer=self._tokenizer)
            if hasattr(self._base.model, "peft_config"):
                raise ModelError("the model has adapters already, and checkpoints bring theirs; give it without them")
        return self._base
