"""The model's own output head, run on chosen hidden states in chunks.

Hidden states of trained positions alone go through the head, a chunk at a time, so that the logits of a batch never
exist together: with a vocabulary of 128k they would be the largest tensor by far. The head is the model's own code from
the decoder on (scaling, soft caps, whatever it does), reached by calling the model with its decoder stubbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spicerack.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spicerack.gradients.packing import PackedRow

LOGITS_AT_ONCE = 1 << 24  # elements of a chunk's logits: 64 MB in float32
ROWS_AT_ONCE = 512  # enough for a product at full speed; a larger tensor is given fresh pages every time it is made


def has_flash_attention(model: Any) -> bool:
    """Whether a model's attention is of the flash family, which takes samples of any lengths side by side."""
    return "flash" in (getattr(model.config, "_attn_implementation", None) or "")


class Head:
    """A causal language model in two parts: the decoder, and what makes logits of its hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the parts.

        Raises:
            ModelError: no head, or no decoder apart from it.
        """
        whole: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model: nn.Module = whole
        self.module: nn.Module = whole.get_output_embeddings()
        self.decoder: nn.Module = whole.get_decoder()
        if self.module is None or self.decoder is whole:
            raise ModelError(f"{type(whole).__name__} has no output head; expected a causal language model")
        self._output_type: type[Any] = object

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None, row: PackedRow | None = None) -> Tensor:
        """Last hidden states (b, t, h), or (1, s, h) of the tokens in one row, which needs no mask."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if row is not None:
            inputs = row.inputs(input_ids, lengths=has_flash_attention(self.model))
        output = self.decoder(**inputs, use_cache=False)
        self._output_type = type(output)
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (m, vocabulary) of hidden states (m, h)."""
        place = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with self._decoder_gives(hidden.unsqueeze(0)):
            logits: Tensor = self.model(input_ids=place, use_cache=False).logits.squeeze(0)
        return logits

    def chunks(self, count: int) -> Iterator[slice]:
        """Runs of positions whose logits are formed together."""
        vocabulary = int(self.module.get_parameter("weight").shape[0])
        rows = max(16, min(ROWS_AT_ONCE, LOGITS_AT_ONCE // vocabulary))
        for start in range(0, count, rows):
            yield slice(start, min(start + rows, count))

    @contextmanager
    def _decoder_gives(self, hidden: Tensor) -> Iterator[None]:
        before = self.decoder.__dict__.get("forward")
        self.decoder.forward = lambda *_, **__: self._output_type(last_hidden_state=hidden)
        try:
            yield
        finally:
            del self.decoder.forward
            if before is not None:  # a wrapper of the caller's, such as accelerate's
                self.decoder.forward = before
