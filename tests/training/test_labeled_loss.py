"""The loss at the labels is TRL's loss: the same value, the same gradients, the same trained weights."""

import numpy as np
import pytest
import torch
from trl import SFTTrainer

from spicerack.gradients import head
from spicerack.models.loading import LoadedModel
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer
from spicerack.training import labeled_loss, loss_sum
from spicerack.training.options import TrainConfig
from spicerack.training.samples import LabeledRows
from spicerack.training.trainer import add_adapters, make_trainer, pad_rows, quiet_libraries

LORA = TrainConfig(lora_r=4, learning_rate=5e-3, num_train_epochs=2, per_device_train_batch_size=3, lora_dropout=0.1)
WHOLE = LORA.model_copy(update={"use_peft": False, "learning_rate": 1e-3})


@pytest.fixture
def data():
    samples = tuple(random_samples([5, 9, 7, 12, 8, 6, 7], vocab_size=300, trained=0.4))
    return LabeledRows(samples, np.arange(7), tuple(f"s{i}" for i in range(7)), (), "rule")


def make(data, options, folder, which, monkeypatch, architecture="llama", **arguments):
    """A trainer of the given class, and its model."""
    monkeypatch.setattr(labeled_loss, "trainer_class", lambda device: which)
    loaded = LoadedModel(tiny_model(architecture, vocab_size=300), tiny_tokenizer(), architecture, torch.device("cpu"))
    with quiet_libraries():
        model = add_adapters(loaded.model, options)
        return make_trainer(model, data, loaded, options, folder, save_strategy="no", **arguments), model


def batch_of(data):
    return pad_rows([{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in data.samples])


def loss_and_gradients(trainer, model, data, count):
    torch.manual_seed(0)
    model.eval()  # no dropout: adapters draw their masks where each implementation calls them
    loss = trainer.compute_loss(model, batch_of(data), num_items_in_batch=count)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("options", [LORA, WHOLE], ids=["lora", "whole"])
@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gemma2"])
def test_loss_and_gradients_are_those_of_trl(data, options, architecture, chunks, tmp_path, monkeypatch):
    if chunks > 1:
        monkeypatch.setattr(head, "LOGITS_AT_ONCE", 1)  # sixteen positions at once
    found = []
    for which in (SFTTrainer, labeled_loss.LabeledTrainer):
        trainer, model = make(data, options, tmp_path, which, monkeypatch, architecture)
        found.append(loss_and_gradients(trainer, model, data, 50))
    (loss, gradients), (ours, our_gradients) = found
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("options", [LORA, WHOLE], ids=["lora", "whole"])
def test_a_whole_training_ends_at_the_same_weights(data, options, tmp_path, monkeypatch):
    still = options.model_copy(update={"lora_dropout": 0.0, "gradient_accumulation_steps": 2})
    ends = []
    for which in (SFTTrainer, labeled_loss.LabeledTrainer):
        trainer, model = make(data, still, tmp_path / which.__name__, which, monkeypatch)
        with quiet_libraries():
            trainer.train()
        ends.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        ends.append(logged)
    trl, trl_losses, ours, our_losses = ends
    np.testing.assert_allclose(our_losses, trl_losses, rtol=1e-4)
    for name, weight in trl.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_rows_of_similar_length_go_through_the_model_together(data, monkeypatch):
    monkeypatch.setattr(loss_sum, "PART_TOKENS", 32)
    parts = loss_sum.of_similar_length(batch_of(data))
    assert [tuple(part["input_ids"].shape) for part in parts] == [(4, 7), (2, 9), (1, 12)]
    members = [(0, 5, 2, 6), (4, 1), (3,)]
    for part, rows in zip(parts, members, strict=True):
        expected = pad_rows([{"input_ids": data.samples[i].input_ids, "labels": data.samples[i].labels} for i in rows])
        assert all(torch.equal(part[name], expected[name]) for name in expected)


def test_only_a_cpu_has_no_width_to_spare(data):
    inputs = {name: tensor.to("meta") for name, tensor in batch_of(data).items()}
    assert loss_sum.of_similar_length(inputs) == [inputs]


@pytest.mark.parametrize("options", [LORA, WHOLE], ids=["lora", "whole"])
def test_parts_of_a_batch_have_its_loss_and_gradients(data, options, tmp_path, monkeypatch):
    found = []
    for tokens in (10_000, 32):
        monkeypatch.setattr(loss_sum, "PART_TOKENS", tokens)
        trainer, model = make(data, options, tmp_path, labeled_loss.LabeledTrainer, monkeypatch)
        assert (len(loss_sum.of_similar_length(batch_of(data))) > 1) == (tokens == 32)
        found.append(loss_and_gradients(trainer, model, data, 50))
    (loss, gradients), (in_parts, their_gradients) = found
    torch.testing.assert_close(in_parts, loss, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(their_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_without_labels_gives_a_zero_that_can_be_differentiated(data):
    model = tiny_model("llama", vocab_size=300).requires_grad_(True)
    inputs = batch_of(data)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss = labeled_loss.labeled_loss_sum(model, inputs)
    loss.backward()
    assert loss.item() == 0.0


def test_a_gpu_keeps_the_kernels_of_trl():
    assert labeled_loss.trainer_class(torch.device("cuda")) is SFTTrainer
    assert labeled_loss.trainer_class(torch.device("cpu")) is labeled_loss.LabeledTrainer
