"""Training by TRL on our labels: it learns, goes on where it stopped, and leaves the model as it should."""

import json

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from spicerack.errors import (
    ConfigurationError,
    DataError,
    ModelError,
    OutputError,
    StoreLockedError,
    StoreMismatchError,
)
from spicerack.models.loading import LoadedModel
from spicerack.store.locks import alone
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer
from spicerack.training.finetune import finetune
from spicerack.training.losses import loss_sums
from spicerack.training.options import TrainConfig
from spicerack.training.samples import LabeledRows

LORA = TrainConfig(
    lora_r=4, lora_alpha=8, learning_rate=5e-3, num_train_epochs=3, per_device_train_batch_size=4, lora_dropout=0.1
)
WHOLE = LORA.model_copy(update={"use_peft": False, "learning_rate": 1e-3})


class Interrupt(TrainerCallback):
    """Pull the plug at the beginning of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Seen(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


@pytest.fixture(scope="module")
def data():
    samples = tuple(random_samples([5, 9, 7, 12, 8, 6, 7, 9, 10, 11, 5, 6, 20], vocab_size=300))
    ids = tuple(f"s{i}" for i in range(len(samples)))
    return LabeledRows(samples, np.arange(len(samples)), ids, (), "rule")


def loaded_model(architecture="llama"):
    model = tiny_model(architecture, vocab_size=300)
    return LoadedModel(model, tiny_tokenizer(), architecture, torch.device("cpu"))


def weights(trained):
    return {name: parameter.detach().clone() for name, parameter in trained.loaded.model.named_parameters()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def mean_loss(loaded, data):
    return loss_sums(loaded, data.samples, tokens_per_batch=64).sum() / data.trained_tokens


@pytest.mark.parametrize("options", [LORA, WHOLE], ids=["lora", "whole"])
def test_training_lowers_the_loss_on_its_data(data, options, tmp_path):
    loaded = loaded_model()
    before = mean_loss(loaded, data)
    trained = finetune(data, loaded, options, tmp_path)
    assert mean_loss(trained.loaded, data) < before - 0.05
    assert not trained.loaded.model.training
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == trained.manifest
    assert manifest["steps"] == 12
    assert manifest["tokens"] == 3 * data.tokens
    assert manifest["data"]["fingerprint"] == data.fingerprint()
    assert [epoch["steps"] for epoch in manifest["epochs"]] == [4, 4, 4]
    assert manifest["epochs"][-1]["loss"] < manifest["epochs"][0]["loss"]
    assert (tmp_path / ("adapter_model.safetensors" if options.use_peft else "model.safetensors")).is_file()


@pytest.mark.parametrize("options", [LORA, WHOLE], ids=["lora", "whole"])
@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(data, options, step, tmp_path):
    undisturbed = weights(finetune(data, loaded_model(), options, tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        finetune(data, loaded_model(), options, tmp_path / "b", callbacks=[Interrupt(step)])
    assert not (tmp_path / "b/manifest.json").exists()
    seen = Seen()
    resumed = finetune(data, loaded_model(), options, tmp_path / "b", callbacks=[seen])
    assert seen.steps == (12 if step < 4 else 8)
    assert_equal(weights(resumed), undisturbed)
    assert resumed.manifest["steps"] == 12
    assert resumed.manifest["tokens"] == 3 * data.tokens


def test_a_training_resumed_within_an_epoch_is_undisturbed_too(data, tmp_path):
    options = LORA.model_copy(update={"save_strategy": "steps", "save_steps": 3})
    undisturbed = weights(finetune(data, loaded_model(), options, tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        finetune(data, loaded_model(), options, tmp_path / "b", callbacks=[Interrupt(7)])
    assert_equal(weights(finetune(data, loaded_model(), options, tmp_path / "b")), undisturbed)


def test_a_finished_training_is_read_and_not_repeated(data, tmp_path):
    first = finetune(data, loaded_model(), LORA, tmp_path)
    seen = Seen()
    again = finetune(data, loaded_model(), LORA, tmp_path, callbacks=[seen])
    assert seen.steps == 0
    assert_equal(weights(again), weights(first))
    assert again.manifest == first.manifest


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data, tmp_path):
    first = weights(finetune(data, loaded_model(), LORA, tmp_path / "a"))
    assert_equal(weights(finetune(data, loaded_model(), LORA, tmp_path / "b")), first)
    other = weights(finetune(data, loaded_model(), LORA.model_copy(update={"seed": 1}), tmp_path / "c"))
    assert any(not torch.equal(other[name], first[name]) for name in first)


def test_a_loaded_model_is_given_back_as_it_was(data, tmp_path):
    loaded = loaded_model()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    forward = type(loaded.model).forward
    trained = finetune(data, loaded, LORA, tmp_path / "a")
    assert "forward" not in vars(trained.loaded.model.get_base_model())
    back = trained.unload()
    assert_equal(dict(back.model.state_dict()), before)
    assert type(back.model).forward is forward
    with pytest.raises(KeyboardInterrupt):
        finetune(data, back, LORA, tmp_path / "b", callbacks=[Interrupt(2)])
    assert_equal(dict(back.model.state_dict()), before)
    assert not hasattr(back.model, "peft_config")
    first = weights(trained_again := finetune(data, back, LORA, tmp_path / "c"))
    trained_again.unload()
    assert_equal(first, weights(finetune(data, loaded_model(), LORA, tmp_path / "d")))


def test_equal_steps_whatever_the_size(data, tmp_path):
    trained = finetune(data, loaded_model(), LORA.model_copy(update={"max_steps": 5}), tmp_path)
    assert trained.manifest["steps"] == 5


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant_with_warmup"])
def test_a_training_of_one_step_takes_it_at_the_peak_and_says_so(data, scheduler, tmp_path):
    options = LORA.model_copy(update={"num_train_epochs": 1, "lr_scheduler_type": scheduler})
    few = LabeledRows(data.samples[:3], np.arange(3), data.ids[:3], (), "rule")
    trained = finetune(few, loaded_model(), options, tmp_path)
    assert trained.manifest["steps"] == 1
    assert [epoch["mean_learning_rate"] for epoch in trained.manifest["epochs"]] == [5e-3]
    adapters = {name: value for name, value in weights(trained).items() if "lora_B" in name}
    assert all(value.abs().max() > 0 for value in adapters.values())  # they begin as zeros
    assert trained.manifest["options"]["warmup_ratio"] == 0.0
    assert ("warmup_ratio", 0.0) in [choice[:2] for choice in trained.choices]


def test_a_longer_training_begins_at_zero_as_before(data, tmp_path):
    trained = finetune(data, loaded_model(), LORA.model_copy(update={"max_steps": 2}), tmp_path)
    assert [epoch["mean_learning_rate"] for epoch in trained.manifest["epochs"]] == [5e-3 / 2]  # 0, then the peak
    assert trained.manifest["options"]["warmup_ratio"] == 0.03
    assert "warmup_ratio" not in [choice.name for choice in trained.choices]


@pytest.mark.parametrize(
    "update", [{}, {"num_train_epochs": 0.4}, {"gradient_accumulation_steps": 3}, {"max_steps": 2}]
)
def test_steps_are_counted_as_the_trainer_does(data, update, tmp_path):
    options = LORA.model_copy(update=update)
    assert finetune(data, loaded_model(), options, tmp_path).manifest["steps"] == options.steps(len(data))


def test_the_step_is_the_gradient_of_the_mean_over_the_accumulated_tokens(data, tmp_path):
    """One step of plain accumulation by hand: the loss of all tokens of the step, whatever batch they were in."""
    options = WHOLE.model_copy(
        update={"max_steps": 1, "gradient_accumulation_steps": 2, "warmup_ratio": 0.0, "max_grad_norm": 0.0}
    )
    eight = LabeledRows(data.samples[:8], np.arange(8), data.ids[:8], (), "rule")
    trained = weights(finetune(eight, loaded_model(), options, tmp_path))
    model = loaded_model().model
    total = 0.0
    for sample in eight.samples:
        ids, labels = torch.tensor(sample.input_ids[None]).long(), torch.tensor(sample.labels[None]).long()
        total = total + model(input_ids=ids, labels=labels).loss * sample.trained_tokens
    (total / eight.trained_tokens).backward()
    for name, parameter in model.named_parameters():
        # Adam's first step is lr * g / (|g| + eps): the sign of the gradient wherever it is well above eps
        if parameter.grad is None:
            continue
        clear = parameter.grad.abs() > 1e-4
        step = trained[name] - parameter.detach()
        assert torch.allclose(step[clear], -1e-3 * parameter.grad[clear].sign(), rtol=2e-3, atol=1e-7), name


def test_other_settings_in_the_folder_are_refused(data, tmp_path):
    finetune(data, loaded_model(), LORA.model_copy(update={"max_steps": 1}), tmp_path)
    with pytest.raises(StoreMismatchError, match=r"options\.learning_rate was 0\.005, now 0\.001; give another"):
        finetune(data, loaded_model(), LORA.model_copy(update={"max_steps": 1, "learning_rate": 1e-3}), tmp_path)


@pytest.mark.parametrize(("key", "there"), [("method", "a selection"), ("format_version", "a store")])
def test_the_folder_of_something_else_is_refused(data, tmp_path, key, there):
    (tmp_path / "manifest.json").write_text(f'{{"{key}": 1}}')
    with pytest.raises(OutputError, match=f"holds {there}"):
        finetune(data, loaded_model(), LORA, tmp_path)
    assert (tmp_path / "manifest.json").read_text() == f'{{"{key}": 1}}'


def test_a_folder_where_another_trains_is_refused(data, tmp_path):
    with alone(tmp_path / "lock", "the folder"), pytest.raises(StoreLockedError, match="another process is writing"):
        finetune(data, loaded_model(), LORA, tmp_path)
    assert not (tmp_path / "settings.json").exists()


def test_modules_that_are_not_there_are_named(data, tmp_path):
    options = LORA.model_copy(update={"lora_target_modules": "q_proj_of_another"})
    loaded = loaded_model()
    with pytest.raises(ModelError, match="lora_target_modules=q_proj_of_another fits no module of LlamaForCausalLM"):
        finetune(data, loaded, options, tmp_path)
    corrected = LORA.model_copy(update={"lora_target_modules": "q_proj", "max_steps": 1})
    done = finetune(data, loaded, corrected, tmp_path)  # nothing was made by the settings that did not fit
    assert json.loads((tmp_path / "settings.json").read_text())["options"]["lora_target_modules"] == "q_proj"
    assert done.manifest["steps"] == 1


def test_a_loss_that_is_not_finite_ends_the_training(data, tmp_path):
    loaded = loaded_model()
    with torch.no_grad():
        loaded.model.lm_head.weight[7] = float("inf")
    with pytest.raises(ConfigurationError, match=r"diverged: the loss is (nan|inf) at step 1"):
        finetune(data, loaded, LORA, tmp_path)


def test_a_model_without_a_tokenizer_is_refused(data, tmp_path):
    loaded = LoadedModel(tiny_model(vocab_size=300), None, "llama", torch.device("cpu"))
    with pytest.raises(ConfigurationError, match="tokenizer"):
        finetune(data, loaded, LORA, tmp_path)
    assert not hasattr(loaded.model, "peft_config")


def test_rows_without_a_trained_token_are_an_error():
    from spicerack.config import DataConfig, LabelConfig
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.training.samples import label_rows

    pool = load_pool([{"messages": [{"role": "user", "content": "hello"}]}], DataConfig(format="messages"))
    with pytest.raises(DataError, match=r"no row of .* has a trained token"):
        label_rows(pool, Labeler(tiny_tokenizer(), LabelConfig()))
