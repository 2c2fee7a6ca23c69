"""Which attention each batch of a pass runs with, where nobody named one; what it computes is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice

if TYPE_CHECKING:
    from spicerack.models.loading import LoadedModel

SCORES_AT_ONCE = 1 << 23
"""Attention scores of a batch, all heads, that plain products may hold: 32 MB in float32. A larger array is given fresh
pages by the system every time that it is made."""


class AttentionByBatch:
    """Plain matrix products for batches of few scores, the model's own fused kernel for the others.

    On a CPU in bfloat16 the backward of the fused kernel is slower than plain products: a tenth of the whole pass at
    128 tokens. With more than `SCORES_AT_ONCE` the plain ones are slower: a sixth at 512.
    """

    def __init__(self, model: Any) -> None:
        """Take the model as it is: its own kernel is what it has now."""
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.fused = str(self.model.config._attn_implementation)
        self.heads = heads_of(self.model.config)

    @property
    def name(self) -> str:
        """What a store's settings call it."""
        return f"eager up to {SCORES_AT_ONCE} scores, else {self.fused}"

    @property
    def choice(self) -> Choice:
        """What is said of it."""
        reason = "on a CPU in bfloat16 plain products are faster where a batch has few scores"
        return Choice("attn_implementation", self.name, reason)

    @contextmanager
    def of(self, samples: int, width: int) -> Iterator[None]:
        """The attention of a batch (samples, width), for its forward."""
        if samples * self.heads * width * width > SCORES_AT_ONCE:
            yield
            return
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(self.fused)


def heads_of(config: Any) -> int:
    """Attention heads of a layer; 0 where the configuration names none."""
    return int(getattr(config.get_text_config(), "num_attention_heads", 0) or 0)


def choose_attention(loaded: LoadedModel) -> AttentionByBatch | None:
    """The attention of a pass; None: the model's own for every batch."""
    own = getattr(loaded.model.config, "_attn_implementation", None)
    open_ = loaded.attention_is_open and own not in (None, "eager") and heads_of(loaded.model.config)
    if not (open_ and loaded.device.type == "cpu" and loaded.dtype == "bfloat16"):
        return None
    return AttentionByBatch(loaded.model)
