"""How many tokens a pass's batches hold: as told, as begun with, as found, or the device's default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.gradients.meter import DeviceMeter, device_name
from spicerack.gradients.probing import Lengths, batch_question, choose_tokens_per_batch, random_batches
from spicerack.gradients.remembered import Answer, Remembered
from spicerack.store.filling import settled_tokens_per_batch

if TYPE_CHECKING:
    from spicerack.config import GradientConfig
    from spicerack.gradients.collect import GradientPass

TOKENS_PER_BATCH = {"cpu": 2048, "mps": 4096, "cuda": 16384}


class BatchSize:
    """The size of a pass's batches, chosen once and said once.

    Attributes:
        tokens: of a batch, pads counted.
        default: what the device has where nothing is told or found.
        found: what was tried or remembered, None where the size has another reason.
    """

    def __init__(self, planned: GradientPass, begun: dict[str, Any] | None = None) -> None:
        """Choose.

        Args:
            planned: the pass, whose choices are added to.
            begun: what an interrupted store was begun with; its batches stay what they were.

        Raises:
            ConfigurationError: the longest sample alone does not fit.
        """
        self.found: Answer | None = None
        self.default = TOKENS_PER_BATCH.get(planned.loaded.device.type, TOKENS_PER_BATCH["cpu"])
        self._planned = planned
        settled = settled_tokens_per_batch(planned.config.tokens_per_batch, begun)
        self.tokens = self._find() if settled is None else settled

    def _find(self) -> int:
        planned = self._planned
        device = planned.loaded.device
        tokens = planned.survey.tokens[planned.survey.trained_tokens > 0]
        vocabulary = int(planned.loaded.model.get_input_embeddings().weight.shape[0])
        with planned.capture() as capture:
            self.found, choices = choose_tokens_per_batch(
                random_batches(capture, planned.config.reduction, vocabulary=vocabulary, device=device),
                DeviceMeter(device),
                Lengths(np.asarray(tokens), planned.config.shard_rows, planned.packing),
                default=self.default,
                question=self._question(),
                remembered=Remembered(),
            )
        planned.choices += choices
        return self.default if self.found is None else self.found.tokens_per_batch

    def resolved(self, config: GradientConfig) -> GradientConfig:
        """The options that give batches of this size again, on a machine that would find another."""
        return config if self.tokens == self.default else config.model_copy(update={"tokens_per_batch": self.tokens})

    def _question(self) -> dict[str, Any]:
        planned = self._planned
        whole = ["exact_norms"] if planned.config.gradient_norm == "exact" else []
        return batch_question(
            fingerprint=planned.loaded.fingerprint(),
            dtype=planned.loaded.dtype,
            device=device_name(planned.loaded.device),
            tracked=[parameter.name for parameter in planned.parameters],
            dimension=planned.projection.columns,
            whole=[*whole, *(["moments"] if planned.moments else [])],
            packed=planned.packing,
        )

    def lower(self, limit: int) -> None:
        """Remember that the size found did not fit, and what did."""
        if self.found is not None:
            answer = Answer(limit, self.found.longest, f"a batch of {self.tokens:,} tokens did not fit")
            if trouble := Remembered().put(self._question(), answer):
                self._planned.choices.append(trouble)
