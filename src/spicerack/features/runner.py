"""From a sample to its texts, and from a batch of texts to its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spicerack.config import Choice
from spicerack.data.batching import collate, plan_batches
from spicerack.data.responses import alone, behind, prompt_of, start_token
from spicerack.errors import ConfigurationError
from spicerack.features.forward import read_batch
from spicerack.features.options import FeatureConfig
from spicerack.features.ratings import SPREAD, RatingTexts, read_prompts
from spicerack.features.shard import Layout, ShardFeatures, Text
from spicerack.gradients.head import Head
from spicerack.gradients.meter import is_out_of_memory, release
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from spicerack.data.formats import Sample
    from spicerack.data.labels import Labeler
    from spicerack.models.loading import LoadedModel

KINDS = ("sample", "alone", "mismatched", "rating")


class Runner:
    """Makes the texts that the features need, and runs them."""

    def __init__(
        self, loaded: LoadedModel, labeler: Labeler, config: FeatureConfig, *, has_losses: bool = False
    ) -> None:
        """Find the model's parts, its width and its beginning token.

        Raises:
            ModelError: no output head, or ratings that are not one token each.
            ConfigurationError: rating prompts that cannot be read or do not fit.
        """
        self.loaded, self.labeler, self.config = loaded, labeler, config
        self.head = Head(loaded.model)
        self.choices: list[Choice] = []
        self.late_choices: list[Choice] = []
        self.ratings: RatingTexts | None = None
        self._start: int | None = None
        if "ifd" in config.features:
            self._start, choice = start_token(loaded.tokenizer, loaded.model.config)
            self.choices.append(choice)
        if "selectit" in config.features:
            if loaded.tokenizer is None:
                raise ConfigurationError("selectit needs a tokenizer; give tokenizer= with a loaded model")
            prompts = read_prompts(config.rating_prompts)
            self.ratings = RatingTexts(loaded.tokenizer, prompts, max_length=labeler.config.max_length)
        count = len(self.ratings.prompts) if self.ratings else 0
        self.layout = Layout(config, self._width(), count, has_start=self._start is not None, has_losses=has_losses)

    def _width(self) -> int:
        """Entries of a hidden state, as the head is given it."""
        with torch.inference_mode():
            one = torch.zeros(1, 1, dtype=torch.long, device=self.loaded.device)
            return int(self.head.hidden(one, None).shape[-1])

    def settings(self) -> dict[str, Any]:
        """What fixes the features beside model, pool and labels, and what a reader needs to know of them."""
        result: dict[str, Any] = {
            "compute": list(self.config.features),
            "hidden_size": self.layout.width,
            "model_parameters": int(self.loaded.model.num_parameters()),
        }
        if "states" in self.config.features:
            result["state_rank"] = self.config.state_rank
        if "ifd" in self.config.features:
            result["alone_start"] = self._start
        if "mismatch" in self.config.features:
            result["mismatches"] = self.config.mismatches
        if self.ratings is not None:
            result |= {"rating_prompts": list(self.ratings.prompts), "rating_spread": SPREAD}
        return result

    def texts(self, row: int, sample: Sample, *, where: str, others: Sequence[np.ndarray] = ()) -> list[Text]:
        """The texts of a sample, as far as they exist.

        Itself, its response alone and behind `others`, which are prompts of other samples, and one a rating prompt.
        """
        encoded = self.labeler.encode(sample, where=where)
        texts = []
        if self.layout.runs_samples and len(encoded.input_ids):
            texts.append(Text("sample", row, 0, encoded))
        if "ifd" in self.config.features and (response := alone(encoded, self._start)) is not None:
            texts.append(Text("alone", row, 0, response))
        if others and encoded.trained_tokens and len(prompt_of(encoded)):
            most = self.labeler.config.max_length
            texts += [Text("mismatched", row, i, behind(other, encoded, most)) for i, other in enumerate(others)]
        if self.ratings is not None:
            texts += [Text("rating", row, i, rated) for i, rated in enumerate(self.ratings.encode(sample))]
        return texts

    def batches(self, texts: Sequence[Text], tokens_per_batch: int) -> Iterator[list[Text]]:
        """Batches of one kind and of similar length, the longest first: memory shows early."""
        for _, group in groupby(sorted(texts, key=lambda text: KINDS.index(text.kind)), key=lambda text: text.kind):
            kind = list(group)
            lengths = np.array([len(text.encoded.input_ids) for text in kind])
            for members in reversed(plan_batches(lengths, tokens_per_batch)):
                yield [kind[i] for i in members]

    def run(self, texts: Sequence[Text], results: ShardFeatures) -> None:
        """Run a batch and put its results at their rows; one that does not fit is run in halves.

        Raises:
            ConfigurationError: the device has no memory for one text alone.
        """
        try:
            batch = collate([text.encoded for text in texts]).to(self.loaded.device)
            wanted = self.layout.wanted(texts[0].kind, self.ratings.rating_ids if self.ratings else None)
            with evaluating(self.loaded.model):
                results.take(texts, read_batch(self.head, batch, wanted))
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            longest = max(len(text.encoded.input_ids) for text in texts)
            if len(texts) == 1:
                raise ConfigurationError(
                    f"out of memory at one text of {longest} tokens on {self.loaded.device}; lower max_length, or load "
                    "the weights in a smaller dtype"
                ) from error
        # Only here is the error, whose traceback holds the failed batch's tensors, gone.
        release(self.loaded.device)
        if not self.late_choices:
            reason = f"a batch of {len(texts)} x {longest} tokens did not fit on {self.loaded.device}"
            self.late_choices.append(Choice("tokens_per_batch", "halved", f"{reason}; such batches are run in parts"))
        middle = len(texts) // 2
        self.run(texts[:middle], results)
        self.run(texts[middle:], results)
