"""Pads behind a sample go unmasked where a model looks back only, and the rows are those of each sample alone."""

import dataclasses

import numpy as np
import pytest
import torch

from spicerack.config import RunConfig, with_options
from spicerack.data.batching import collate
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.leaks import why_masked
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_row
from spicerack.models.parameters import tracked_parameters
from spicerack.passes import plan_pass
from spicerack.testing import ARCHITECTURES, random_samples, tiny_model, tiny_tokenizer

RAGGED = [5, 9, 12, 3]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_mask_rows_are_those_of_each_sample_alone(architecture):
    model = tiny_model(architecture)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=96, sketch=8)
    samples = random_samples(RAGGED)
    assert why_masked(model) is None
    batch = dataclasses.replace(collate(samples), attention_mask=None)
    with GradientCapture(model, projection) as capture:
        rows = batch_gradients(capture, batch, "mean").rows
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    torch.testing.assert_close(rows, truth, rtol=1e-4, atol=1e-5)


class LooksAhead(torch.nn.Module):
    """A decoder whose every token sees all tokens that its mask keeps."""

    def __init__(self, decoder):
        super().__init__()
        self.inner = decoder

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        both = kept[:, None, None, :].bool().expand(-1, 1, input_ids.shape[1], -1)
        return self.inner(input_ids=input_ids, attention_mask=both, use_cache=use_cache)


class CountsAll(torch.nn.Module):
    """A decoder that scales its hidden states by the length of the row: no slope shows it, values do."""

    def __init__(self, decoder):
        super().__init__()
        self.inner = decoder

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        output = self.inner(input_ids=input_ids, use_cache=use_cache)
        output.last_hidden_state = output.last_hidden_state * input_ids.shape[1]
        return output


@pytest.mark.parametrize(
    ("wrapper", "reason"), [(LooksAhead, "changes with the tokens that follow"), (CountsAll, "hidden states differ by")]
)
def test_a_model_that_looks_ahead_keeps_its_mask(wrapper, reason):
    model = tiny_model("llama")
    model.model = wrapper(model.model)
    model.get_input_embeddings = lambda: model.model.inner.embed_tokens
    model.get_decoder = lambda: model.model
    assert reason in why_masked(model)


def test_the_pass_stores_the_same_with_and_without(tmp_path, monkeypatch):
    """Up to rounding, over ragged rows."""
    words = ["one", "two and two", "a longer prompt of more words", "b"]
    pool = [{"instruction": words[i % 4] * (1 + i % 3), "output": words[-i % 4]} for i in range(12)]
    given = {"dimension": 32, "sketch": 4, "storage_dtype": "float32", "tokens_per_batch": 256}
    stores = {}
    for name, reason in (("masked", "told so"), ("open", None)):
        monkeypatch.setattr("spicerack.gradients.leaks.why_masked", lambda model, reason=reason: reason)
        model, tokenizer = tiny_model(vocab_size=300), tiny_tokenizer()
        planned = plan_pass(with_options(RunConfig(), given), pool=pool, model=model, tokenizer=tokenizer)
        assert planned.masked is (reason is not None)
        stores[name] = planned.run(tmp_path / name).matrix()
    np.testing.assert_allclose(stores["open"], stores["masked"], rtol=1e-4, atol=1e-5)
    assert np.abs(stores["open"]).max() > 1e-3
