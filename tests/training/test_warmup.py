"""LESS's warm-up: its share, a checkpoint an epoch, moments by name, weights by learning rate."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

from spicerack.config import DataConfig, LabelConfig
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, ModelError
from spicerack.models.loading import LoadedModel
from spicerack.testing import tiny_model, tiny_tokenizer
from spicerack.training.callbacks import StopWhenLost, summarize_epochs
from spicerack.training.moments import write_moments
from spicerack.training.options import WarmupConfig
from spicerack.training.warmup import draw, read_warmup, warmup

SMALL = WarmupConfig(
    fraction=0.5,
    lora_r=4,
    lora_alpha=8,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    num_train_epochs=3,
)


class Optimizers(TrainerCallback):
    """Keep the optimizer's moments by name, as they are when each checkpoint is written, and every rate used."""

    def __init__(self, interrupt_at=None):
        self.moments, self.rates, self.interrupt_at = [], [], interrupt_at

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.interrupt_at:
            raise KeyboardInterrupt

    def on_save(self, args, state, control, model=None, optimizer=None, **kwargs):
        inner = getattr(optimizer, "optimizer", optimizer)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        parameters = [p for group in inner.param_groups for p in group["params"]]
        by_number = inner.state_dict()["state"]
        self.moments.append(
            {
                names[id(p)]: (by_number[i]["exp_avg"].clone(), by_number[i]["exp_avg_sq"].clone())
                for i, p in enumerate(parameters)
            }
        )


@pytest.fixture
def pool(tiny_pool):
    return load_pool(tiny_pool, DataConfig())


@pytest.fixture
def labeler():
    return Labeler(tiny_tokenizer(), LabelConfig(max_length=64))


def loaded_model():
    return LoadedModel(tiny_model(vocab_size=300), tiny_tokenizer(), "tiny", torch.device("cpu"))


def test_the_default_is_the_recipe_of_less():
    recipe = WarmupConfig()
    assert (recipe.fraction, recipe.lora_r, recipe.lora_alpha, recipe.lora_dropout) == (0.05, 128, 512, 0.1)
    assert recipe.modules() == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (recipe.learning_rate, recipe.lr_scheduler_type, recipe.warmup_ratio) == (2e-5, "linear", 0.03)
    assert recipe.num_train_epochs == 4
    assert recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps == 128
    assert (recipe.adam_beta1, recipe.adam_beta2, recipe.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert LabelConfig().max_length == 2048


def test_a_checkpoint_an_epoch_with_moments_by_name(pool, labeler, tmp_path):
    loaded, watch = loaded_model(), Optimizers()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    done = warmup(pool, labeler, loaded, SMALL, tmp_path, callbacks=[watch])
    assert [checkpoint.name for checkpoint in done.checkpoints] == ["epoch-1", "epoch-2", "epoch-3"]
    assert len(watch.moments) == 3
    for checkpoint, truth in zip(done.checkpoints, watch.moments, strict=True):
        assert (checkpoint.folder / "adapter_model.safetensors").is_file()
        stored = load_file(checkpoint.folder / "adam.safetensors")
        with safe_open(checkpoint.folder / "adam.safetensors", "pt") as file:
            metadata = file.metadata()
        assert set(stored) == {f"{moment}.{name}" for name in truth for moment in ("first", "second")}
        assert len(truth) == 2 * 4 * 2  # layers, modules, A and B
        for name, (first, second) in truth.items():
            assert torch.equal(stored[f"first.{name}"], first)
            assert torch.equal(stored[f"second.{name}"], second)
        assert int(json.loads(metadata["step"])) == int(checkpoint.folder.name.partition("-")[2])
        assert json.loads(metadata["betas"]) == [0.9, 0.999]
        assert json.loads(metadata["eps"]) == 1e-8
    assert all(torch.equal(loaded.model.state_dict()[name], value) for name, value in before.items())
    assert np.array_equal(np.load(tmp_path / "rows.npy"), draw(40, SMALL))


def test_the_names_are_those_of_the_model_loaded_with_the_checkpoint(pool, labeler, tmp_path):
    from peft import PeftModel

    done = warmup(pool, labeler, loaded_model(), SMALL, tmp_path)
    model = PeftModel.from_pretrained(tiny_model(vocab_size=300), str(done.checkpoints[0].folder))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for key, moment in load_file(done.checkpoints[0].folder / "adam.safetensors").items():
        assert moment.shape == shapes[key.partition(".")[2]]


def test_weights_are_the_mean_learning_rates(pool, labeler, tmp_path):
    watch = Optimizers()
    done = warmup(pool, labeler, loaded_model(), SMALL, tmp_path, callbacks=[watch])
    truth = np.array(watch.rates).reshape(3, -1).mean(axis=1)
    rates = np.array([checkpoint.mean_learning_rate for checkpoint in done.checkpoints])
    assert np.allclose(rates, truth, rtol=1e-12)
    assert np.allclose([checkpoint.weight for checkpoint in done.checkpoints], truth / truth.sum())
    written = json.loads((tmp_path / "warmup.json").read_text())["checkpoints"]
    assert [set(entry) for entry in written] == 3 * [{"name", "folder", "weight", "mean_learning_rate", "loss"}]


def test_a_resumed_warm_up_is_the_undisturbed_one(pool, labeler, tmp_path):
    first = warmup(pool, labeler, loaded_model(), SMALL, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        warmup(pool, labeler, loaded_model(), SMALL, tmp_path / "b", callbacks=[Optimizers(interrupt_at=7)])
    last = tmp_path / "b" / first.checkpoints[1].folder.name
    (last / "adam.safetensors").unlink()  # killed between the trainer's files and ours: that epoch is trained again
    again = warmup(pool, labeler, loaded_model(), SMALL, tmp_path / "b")
    for one, other in zip(first.checkpoints, again.checkpoints, strict=True):
        for name in ("adapter_model.safetensors", "adam.safetensors"):
            truth, stored = load_file(one.folder / name), load_file(other.folder / name)
            assert truth.keys() == stored.keys()
            assert all(torch.equal(truth[key], stored[key]) for key in truth)
        assert one.weight == other.weight
    assert warmup(pool, labeler, loaded_model(), SMALL, tmp_path / "b").manifest == again.manifest


def test_a_warm_up_of_one_step_learns(pool, labeler, tmp_path):
    once = SMALL.model_copy(update={"fraction": 0.1, "num_train_epochs": 1})
    done = warmup(pool, labeler, loaded_model(), once, tmp_path)
    assert [(checkpoint.mean_learning_rate, checkpoint.weight) for checkpoint in done.checkpoints] == [(2e-5, 1.0)]
    assert "warmup_ratio" in [choice.name for choice in done.choices]


def test_the_share_is_drawn_by_the_seed():
    options = WarmupConfig()
    rows = draw(1000, options)
    assert len(rows) == len(set(rows.tolist())) == 50
    assert np.array_equal(rows, draw(1000, options))
    assert not np.array_equal(rows, draw(1000, options.model_copy(update={"seed": 1})))
    assert len(draw(3, options)) == 1


def test_a_warm_up_that_diverges_is_an_error(pool, labeler, tmp_path):
    wild = SMALL.model_copy(update={"learning_rate": 10.0, "warmup_ratio": 0.0, "use_peft": False})
    with pytest.raises(ConfigurationError, match=r"diverged.*lower learning_rate"):
        warmup(pool, labeler, loaded_model(), wild, tmp_path)
    assert not (tmp_path / "warmup.json").exists()


@pytest.mark.parametrize(("losses", "lost"), [([2.0, 2.0, 5.9, 2.0], False), ([2.0, 2.0, 4.1, 4.1], True)])
def test_diverged_is_an_epoch_above_twice_the_first_step(losses, lost):
    log = [{"loss": loss, "learning_rate": 1e-3, "epoch": i / 2, "step": i} for i, loss in enumerate(losses, 1)]
    state, arguments = SimpleNamespace(log_history=log), SimpleNamespace(learning_rate=1e-3)
    watch = StopWhenLost(bounded=True)
    if lost:
        with pytest.raises(ConfigurationError, match=r"2 at the first step and 4\.1 on average in epoch 2"):
            watch.on_epoch_end(arguments, state, None)
    else:
        watch.on_epoch_end(arguments, state, None)


def test_epochs_are_told_apart():
    log = [{"loss": float(step), "learning_rate": step / 10, "epoch": step / 3, "step": step} for step in range(1, 7)]
    epochs = summarize_epochs([*log, {"train_loss": 1.0, "epoch": 2.0, "step": 6}])
    assert [(epoch["epoch"], epoch["last_step"], epoch["steps"]) for epoch in epochs] == [(1, 3, 3), (2, 6, 3)]
    assert [epoch["loss"] for epoch in epochs] == [2.0, 5.0]
    assert math.isclose(epochs[1]["mean_learning_rate"], 0.5)


def test_an_optimizer_without_moments_is_refused(tmp_path):
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ModelError, match="has not taken a step"):
        write_moments(tmp_path / "adam.safetensors", model, optimizer)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    with pytest.raises(ModelError, match="keeps no Adam moments"):
        write_moments(tmp_path / "adam.safetensors", model, optimizer)


def test_a_folder_without_a_warm_up_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="holds no finished warm-up"):
        read_warmup(tmp_path)
