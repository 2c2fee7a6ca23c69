"""A sample's response without its instruction, which IFD compares with the response given the instruction.

The response is the sample's trained tokens, in order. Alone, they stand behind the model's beginning token. Where there
is no such token, nothing predicts the first of them, so it is left out of both losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.data.labels import IGNORED, Encoded


def start_token(tokenizer: Any, model_config: Any) -> tuple[int | None, Choice]:
    """The id of the token that text begins with: the tokenizer's, else the model configuration's."""
    token = getattr(tokenizer, "bos_token_id", None)
    if token is not None:
        return int(token), Choice("alone_start", tokenizer.bos_token, "the tokenizer's beginning token")
    token = getattr(model_config, "bos_token_id", None)
    if isinstance(token, int):
        return token, Choice("alone_start", f"token {token}", "the beginning token of the model's configuration")
    reason = "the model has no beginning token; a response's first token is left out of both losses of ifd"
    return None, Choice("alone_start", "none", reason)


def alone(encoded: Encoded, start: int | None) -> Encoded | None:
    """The response behind the beginning token, or None where ifd does not exist.

    It does not where no token that carries no loss stands before the response's last one (a plain text, or labels
    that cover the prompt; a leading beginning token is no instruction), or where no token is left to predict.
    """
    trained = np.flatnonzero(encoded.labels[1:] != IGNORED) + 1
    if len(trained) == 0:
        return None
    before = encoded.labels[: trained[-1]] == IGNORED
    if start is not None and encoded.input_ids[0] == start:
        before[0] = False
    if not before.any() or (start is None and len(trained) == 1):
        return None
    ids, labels = encoded.input_ids[trained], encoded.labels[trained]
    if start is not None:
        ids = np.concatenate([np.array([start], dtype=np.int32), ids])
        labels = np.concatenate([np.array([IGNORED], dtype=np.int32), labels])
    return Encoded(ids, labels, 0, False)
