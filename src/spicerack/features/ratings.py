"""SelectIT: the model rates each sample under several prompts, and its uncertainty lowers the score (arXiv 2402.16705).

A rating prompt, the sample's instruction and response, and a line to answer on make one text; the model's probabilities
of the digits 1 to 5 as its next token, normalized over the five, are the rating. The text is plain, without a chat
template, as in the released code. The released code's prompts differ in their scales ("zero to five"); ours have one.
Several models are averaged by the method itself (`selectors/selectit.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spicerack.data.formats import Chat, Completion, Sample
from spicerack.data.labels import IGNORED, Encoded
from spicerack.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FloatArray = npt.NDArray[np.float64]

RATINGS = 5  # K
SPREAD = 0.2  # a: what the prompts' disagreement costs
ANSWER = "\nThe rating from 1 to 5 is:\n"
PROMPTS = (
    "Rate from 1 to 5 how well the response below follows its instruction. Answer with the number alone.",
    "How accurate and complete is this response to the instruction? Give one number from 1, poor, to 5, excellent.",
    "Judge the response as a teacher would: does it do what the instruction asks? Write a grade from 1 to 5, best 5.",
    "On a scale of 1 to 5, where 5 means most helpful and correct, rate the response to the instruction.",
    "Read the instruction and the response. Give the quality of the response as a single digit between 1 and 5.",
)


class RatingTexts:
    """Turns samples into the texts that ask for a rating."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, max_length: int) -> None:
        """Find the rating tokens.

        Args:
            tokenizer: the model's.
            prompts: rating prompts, at least one.
            max_length: tokens of a text with its rating; longer responses lose their end, the answer line stays.

        Raises:
            ModelError: the tokenizer does not write each of the digits 1 to 5 as one token.
            ConfigurationError: a prompt leaves no room for a sample.
        """
        self.tokenizer, self.prompts, self.max_length = tokenizer, tuple(prompts), max_length
        endings = [self._tokens(f"{ANSWER}{rating}", special=False) for rating in range(1, RATINGS + 1)]
        self.rating_ids = np.array([ending[-1] for ending in endings])
        if len({tuple(ending[:-1]) for ending in endings}) > 1 or len(set(self.rating_ids.tolist())) < RATINGS:
            raise ModelError("the tokenizer does not write the ratings 1 to 5 as one token each; leave selectit out")
        self._ending = endings[0]
        needed = max(len(self._tokens(prompt, special=True)) for prompt in self.prompts) + len(self._ending)
        if needed >= max_length:
            raise ConfigurationError(
                f"max_length {max_length} leaves no room for a sample beside a rating prompt of {needed} tokens; "
                "raise it"
            )

    def encode(self, sample: Sample) -> list[Encoded]:
        """A sample's text under every prompt, its one label at the rating; none where it has no pair to rate."""
        pair = instruction_and_response(sample)
        return [] if pair is None else [self._text(prompt, *pair) for prompt in self.prompts]

    def _text(self, prompt: str, instruction: str, response: str) -> Encoded:
        ids = self._tokens(f"{prompt}\nInstruction: {instruction}\nResponse: {response}{ANSWER}1", special=True)
        if ids[-1] != self._ending[-1]:
            raise ModelError(f"the tokenizer puts {ids[-1]} where the rating token {self._ending[-1]} should stand")
        cut = max(0, len(ids) - self.max_length)
        if cut:
            ids = ids[: self.max_length - len(self._ending)] + self._ending
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        labels[-1] = ids[-1]
        return Encoded(np.asarray(ids, dtype=np.int32), labels, cut, False)

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        """Tokens without an end token, which some tokenizers append."""
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
        return ids[:-1] if ids and special and ids[-1] == self.tokenizer.eos_token_id else ids


def instruction_and_response(sample: Sample) -> tuple[str, str] | None:
    """What is rated: the last assistant turn, and all that stands before it; None where a sample has no such pair.

    An instruction of one message is its words; of more messages, a line `role: words` each. Plain text and tokenized
    samples have no pair, nor has a turn without words (tool calls alone, or images).
    """
    if isinstance(sample, Completion):
        return (sample.prompt, sample.completion) if sample.completion else None
    if not isinstance(sample, Chat):
        return None
    last = next((i for i in reversed(range(len(sample.messages))) if sample.messages[i]["role"] == "assistant"), 0)
    if last < max(1, sample.context):
        return None
    contents = [message.get("content") for message in sample.messages[: last + 1]]
    words = [text for text in contents if isinstance(text, str)]
    if len(words) < len(contents) or not words[-1]:
        return None
    named = [f"{message['role']}: {message['content']}" for message in sample.messages[:last]]
    return (words[0] if last == 1 else "\n".join(named)), words[-1]


def read_prompts(path: str | None) -> tuple[str, ...]:
    """Rating prompts of a file, one a line, or ours.

    Raises:
        ConfigurationError: no such file, or nothing in it.
    """
    if path is None:
        return PROMPTS
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the rating prompts {path}: {error}; give a text file") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ConfigurationError(f"{path} holds no rating prompt; expected one a line")
    return prompts


def token_level(probabilities: FloatArray) -> FloatArray:
    """SelectIT's token-level score, in [0, K].

    `S = r * (1 / (K - 1)) * sum_k |p_k - p_r|` with r the most probable rating, 1..K (the smaller of two equal ones).

    Args:
        probabilities: (..., K), normalized over the K ratings.

    Returns:
        (...,).
    """
    best = probabilities.max(-1, keepdims=True)
    spread = np.abs(probabilities - best).sum(-1) / (probabilities.shape[-1] - 1)
    result: FloatArray = (probabilities.argmax(-1) + 1) * spread
    return result


def sentence_level(scores: FloatArray, *, spread: float = SPREAD) -> FloatArray:
    """SelectIT's sentence-level score `mean / (1 + a * std)` over the prompts' token-level scores (..., prompts).

    The standard deviation is the population's, as in the released code.
    """
    result: FloatArray = scores.mean(-1) / (1.0 + spread * scores.std(-1))
    return result
