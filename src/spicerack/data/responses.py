"""A sample's response apart from its instruction: alone, as IFD has it, or behind another sample's prompt.

The response is the sample's trained tokens, in order. Alone, they stand behind the model's beginning token. Where there
is no such token, nothing predicts the first of them, so it is left out of both losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
    trained = _trained(encoded)
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


def prompt_of(encoded: Encoded) -> npt.NDArray[np.int32]:
    """The tokens before the first trained one, (p,); none where no token is trained, or all are, as in plain text."""
    trained = _trained(encoded)
    first = trained[0] if len(trained) else 0
    return encoded.input_ids[: first if (encoded.labels[:first] == IGNORED).any() else 0]


def behind(prompt: npt.NDArray[np.int32], encoded: Encoded, max_length: int) -> Encoded:
    """The response behind another sample's prompt, whose first tokens are left out where both are too long.

    Args:
        prompt: (p,) token ids, at least one.
        encoded: a sample with trained tokens, of at most `max_length` tokens.
        max_length: of both together.
    """
    trained = _trained(encoded)
    prompt = prompt[max(0, len(prompt) + len(trained) - max_length) :]
    ids = np.concatenate([prompt, encoded.input_ids[trained]])
    labels = np.concatenate([np.full(len(prompt), IGNORED, dtype=np.int32), encoded.labels[trained]])
    return Encoded(ids, labels, 0, False)


def _trained(encoded: Encoded) -> npt.NDArray[np.int64]:
    """Places of the tokens with a loss; the first token is never predicted."""
    return np.flatnonzero(encoded.labels[1:] != IGNORED) + 1
