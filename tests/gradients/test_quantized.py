"""Gradients flow through frozen quantized weights: those of the weights that they stand for."""

import pytest
import torch

from spicerack.config import ModelConfig
from spicerack.data.batching import collate
from spicerack.errors import ConfigurationError, MissingDependencyError
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.leaks import why_not_packed
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_row
from spicerack.models import loading
from spicerack.models.loading import load_model
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_tokenizer

pytest.importorskip("bitsandbytes")
pytestmark = [
    # the CPU kernels cast on their own and say so at every product
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore:.*_check_is_size.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def rows_of(model, samples, *, packing=False):
    projection = Projection(tracked_parameters(model, "blocks"), dimension=128, sketch=8)
    with GradientCapture(model, projection, packing=packing) as capture:
        return batch_gradients(capture, collate(samples), "mean").rows, projection


def test_four_bit_rows_are_those_of_the_dequantized_model(folder):
    config = ModelConfig(load_in_4bit=True, dtype="float32", device="cpu")
    plain = load_model(folder, config).model.dequantize().float()  # before its first product, which packs the weights
    samples = random_samples([9, 14, 6], vocab_size=300)
    rows, projection = rows_of(load_model(folder, config).model, samples)
    truth = torch.stack([reference_row(plain, projection, sample) for sample in samples])
    assert torch.nn.functional.cosine_similarity(rows, truth).min() > 0.999
    torch.testing.assert_close(rows.norm(dim=1), truth.norm(dim=1), rtol=0.01, atol=0)


def test_eight_bit_rows_point_where_the_full_ones_do(folder):
    quantized = load_model(folder, ModelConfig(load_in_8bit=True, dtype="float32", device="cpu"))
    full = load_model(folder, ModelConfig(dtype="float32", device="cpu"))
    samples = random_samples([9, 14, 6], vocab_size=300)
    rows, truth = rows_of(quantized.model, samples)[0], rows_of(full.model, samples)[0]
    assert torch.nn.functional.cosine_similarity(rows, truth).min() > 0.98
    assert quantized.fingerprint() != full.fingerprint()


@pytest.mark.parametrize("width", ["load_in_4bit", "load_in_8bit"])
def test_a_quantized_model_is_tried_for_packing_without_being_changed(folder, width):
    model = load_model(folder, ModelConfig(**{width: True}, dtype="float32", device="cpu")).model
    untried = load_model(folder, ModelConfig(**{width: True}, dtype="float32", device="cpu")).model
    samples = random_samples([9, 14, 6], vocab_size=300)
    assert why_not_packed(model) is None
    rows, truth = rows_of(model, samples)[0], rows_of(untried, samples)[0]
    torch.testing.assert_close(rows, truth)
    torch.testing.assert_close(rows_of(model, samples, packing=True)[0], truth, rtol=1e-3, atol=1e-6)


def test_both_widths_or_none_installed_is_an_error(folder, monkeypatch):
    with pytest.raises(ConfigurationError, match="exclude each other"):
        load_model(folder, ModelConfig(load_in_8bit=True, load_in_4bit=True))
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="need bitsandbytes"):
        load_model(folder, ModelConfig(load_in_8bit=True))
