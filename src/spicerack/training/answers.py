"""Exact match: the model answers by greedy decoding, where the reference answer is short.

The prompt is every token before the last stretch with loss, the reference that stretch: both as the label rule has
them, so that nothing is rendered again. Two answers are the same if they are equal after `normalize`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spicerack.data.batching import plan_batches
from spicerack.data.labels import IGNORED
from spicerack.data.turns import end_of_turn_tokens
from spicerack.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from spicerack.data.labels import Encoded
    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel


@dataclass(frozen=True)
class Question:
    """What the model is given, and what it should say: token ids (p,) and (r,)."""

    prompt: np.ndarray
    reference: np.ndarray


def normalize(text: str) -> str:
    """What two answers are compared by.

    Unicode compatibility form (NFKC), case folded, every run of white space one blank, none at the ends, and without a
    full stop at the end.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()


def question_of(sample: Encoded, *, longest: int) -> Question | None:
    """The last answer of a sample and what stands before it.

    None where there is nothing before it, where it is longer than `longest` tokens, or where the sample was cut.
    """
    trained = np.flatnonzero(sample.labels != IGNORED)
    if len(trained) == 0 or sample.cut_tokens:
        return None
    breaks = np.flatnonzero(np.diff(trained) > 1)
    start = int(trained[breaks[-1] + 1]) if len(breaks) else int(trained[0])
    stop = int(trained[-1]) + 1
    if start == 0 or stop - start > longest:
        return None
    return Question(sample.input_ids[:start], sample.input_ids[start:stop])


def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    tokens_per_batch: int,
    progress: Progress | None = None,
) -> list[str]:
    """What the model says to each prompt, the most probable token each time, up to the end of its turn.

    Nothing of the model's own generation settings plays a part.

    Args:
        loaded: the model with its tokenizer.
        prompts: token ids (p,) each.
        max_new_tokens: of an answer.
        tokens_per_batch: of prompts, padded on the left, and answers.
        progress: called as (stage, prompts done, 0, 0).

    Raises:
        ConfigurationError: there is no tokenizer.
    """
    from transformers import GenerationConfig

    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise ConfigurationError(
            "answers cannot be read without a tokenizer; give tokenizer=, or leave out exact_match"
        )
    stops = _stop_ids(tokenizer)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=stops[0])
    answers = [""] * len(prompts)
    lengths = np.array([len(prompt) + max_new_tokens for prompt in prompts])
    done = 0
    for rows in plan_batches(lengths, tokens_per_batch):
        ids, mask = _pad_left([prompts[i] for i in rows], loaded.device)
        with torch.inference_mode(), _without_own_settings(loaded.model):
            output = loaded.model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        for i, said in zip(rows.tolist(), output[:, ids.shape[1] :].tolist(), strict=True):
            answers[i] = _text(tokenizer, said, stops)
        done += len(rows)
        if progress is not None:
            progress("answers", done, 0, 0)
    return answers


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """A model's `generation_config` would fill in what ours leaves open: a repetition penalty, beams, banned words."""
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own


def reference_text(tokenizer: PreTrainedTokenizerBase, reference: np.ndarray) -> str:
    """The reference as text, up to the end of its turn."""
    return _text(tokenizer, reference.tolist(), _stop_ids(tokenizer))


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: list[int]) -> str:
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    text: str = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return text.strip()


def _stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer."""
    ids = {int(tokenizer.convert_tokens_to_ids(token)) for token in end_of_turn_tokens(tokenizer)}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    if not ids:
        raise ConfigurationError("the tokenizer has no token that ends an answer; leave out exact_match")
    return sorted(ids)


def _pad_left(prompts: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both (b, t), each prompt at the right."""
    width = max(map(len, prompts))
    ids, mask = np.zeros((2, len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
