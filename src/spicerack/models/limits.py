"""What a model cannot read: tokens outside its vocabulary, and positions behind the last that it has learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.config import Choice
from spicerack.errors import DataError

Counts = npt.NDArray[Any]


def check_fits(model: Any, tokens: Counts, largest: Counts, where: Callable[[int], str]) -> None:
    """Find out before any work whether a model can read all samples.

    Rotary and other computed positions have no end; only learned ones are checked.

    Args:
        model: a transformers model.
        tokens: of each sample, (n,).
        largest: id of each sample's largest token or label, (n,), -1 where it has none.
        where: names a sample, for the message.

    Raises:
        DataError: the first sample that it cannot.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    outside = np.flatnonzero(largest >= vocabulary)
    if outside.size:
        i = int(outside[0])
        raise DataError(
            f"{where(i)}: input_ids or labels have {int(largest[i])}, and the model's vocabulary ends at "
            f"{vocabulary - 1}; expected the ids of its own tokenizer"
        )
    positions = learned_positions(model)
    if positions is not None and (long := np.flatnonzero(tokens > positions)).size:
        i = int(long[0])
        raise DataError(
            f"{where(i)}: {int(tokens[i])} tokens, and the model has learned {positions} positions ({long.size} such "
            f"samples); give --max-length {positions} or less"
        )


def past_training(model: Any, tokens: Counts) -> list[Choice]:
    """What is said of samples longer than the positions that a model was made for: it reads them, and less well."""
    made_for = getattr(model.config, "max_position_embeddings", None)
    long = 0 if not isinstance(made_for, int) else int(np.count_nonzero(tokens > made_for))
    if not long:
        return []
    reason = f"{long} samples have more tokens than the {made_for} positions the model was made for; max_length cuts"
    return [Choice("longest sample", int(tokens.max()), reason)]


def learned_positions(model: Any) -> int | None:
    """How many positions a model has an embedding of, None where it computes them."""
    named = (name.rpartition(".")[2] for name, _ in model.named_modules())
    if not any(name == "wpe" or "position_embedding" in name or name == "embed_positions" for name in named):
        return None
    most = getattr(model.config, "max_position_embeddings", None)
    return int(most) if isinstance(most, int) else None
