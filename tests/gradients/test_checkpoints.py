"""Gradients at the checkpoints of a training: rows of Adam's form by hand, a store each, gone on with after a kill."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import spicerack
from spicerack.config import DataConfig, LabelConfig, RunConfig, with_options
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, ModelError, StoreMismatchError
from spicerack.gradients import collect as collecting
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_gradients
from spicerack.models.parameters import tracked_parameters
from spicerack.pipeline import plan_pass
from spicerack.store.reader import GradientStore
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer
from spicerack.training.moments import write_moments

OPTIONS = {"parameters": "lora", "dimension": 24, "sketch": 4, "shard_rows": 16, "storage_dtype": "float32"}
WEIGHTS = (0.6, 0.4)


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch):
    """What the machine can do is measured at each checkpoint, a third of a second."""
    monkeypatch.setattr(collecting, "measure_peak", lambda *_: 1e9)


def base_model():
    return tiny_model(vocab_size=300)


def train(folder, *, moments=True, rank=2, targets=("q_proj", "down_proj")):
    """A warm-up of two epochs, by hand: adapters and moments that differ."""
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=rank, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(base_model(), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    entries = []
    for epoch, weight in enumerate(WEIGHTS, 1):
        for sample in random_samples([6, 9, 12], vocab_size=300, seed=epoch):
            ids = torch.from_numpy(sample.input_ids).long()[None]
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        name = f"checkpoint-{3 * epoch}"
        model.save_pretrained(folder / name)
        if moments:
            write_moments(folder / name / "adam.safetensors", model, optimizer)
        entry = {"name": f"epoch-{epoch}", "folder": name, "weight": weight, "mean_learning_rate": 1.0, "loss": 1.0}
        entries.append(entry)
    (folder / "warmup.json").write_text(json.dumps({"checkpoints": entries, "model": {"name": "base"}}))
    return folder


@pytest.fixture(scope="module")
def warmup(tmp_path_factory):
    return train(tmp_path_factory.mktemp("warmup"))


def collect(pool, output, **options):
    model = options.pop("model", None) or base_model()
    return spicerack.collect_gradients(
        str(pool), model=model, tokenizer=tiny_tokenizer(), output_dir=output, **{**OPTIONS, **options}
    )


@pytest.fixture(scope="module")
def collected(tiny_pool, warmup, tmp_path_factory):
    return collect(tiny_pool, tmp_path_factory.mktemp("stores") / "all", checkpoints=str(warmup))


def check_by_hand(store, folder, step, pool, direction):
    """Rows of three samples against one backward each, and the moments in the checkpoint's file."""
    moments = load_file(folder / "adam.safetensors")
    model = peft.PeftModel.from_pretrained(base_model(), str(folder))
    parameters = tracked_parameters(model, "lora")
    projection = Projection(parameters, dimension=24, sketch=4)
    rows = load_pool(str(pool), DataConfig())
    labeler = Labeler(tiny_tokenizer(), LabelConfig())
    for row in (0, 7, 39):
        sample = labeler.encode(rows.sample(row), where=rows.where(row))
        gradients = reference_gradients(model, parameters, sample)
        plain, adam = [], []
        for block in projection.blocks:
            name = block.parameter.name
            g, m, v = gradients[name], moments[f"first.{name}"], moments[f"second.{name}"]
            plain.append(projection.sketch_matrix(block, g))
            adam.append(projection.sketch_matrix(block, direction(0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, step)))
        for array, pieces in (("gradient", plain), ("adam", adam)):
            truth = projection.fold(torch.cat(pieces)[None])[0].numpy()
            found = store.matrix("plain", array=array)[row]
            assert np.allclose(found, truth, rtol=1e-3, atol=1e-4 * np.abs(truth).max())


def torch_form(first, second, step):
    return first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)


def less_form(first, second, step):
    return first / (second + 1e-8).sqrt()


@pytest.mark.parametrize("place", [0, 1])
def test_rows_are_adams_direction_computed_by_hand_from_the_stored_moments(collected, tiny_pool, warmup, place):
    step = 3 * (place + 1)
    store = collected.checkpoints[place].store
    check_by_hand(store, warmup / f"checkpoint-{step}", step, tiny_pool, torch_form)


def test_a_collection_has_a_store_a_checkpoint_and_its_weights(collected):
    assert [(c.name, c.weight) for c in collected.checkpoints] == [("epoch-1", 0.6), ("epoch-2", 0.4)]
    opened = GradientStore.open(collected.checkpoints[0].store.path.parent)
    assert opened.path == collected.checkpoints[1].store.path
    for checkpoint in opened.checkpoints:
        assert checkpoint.store.arrays == {"gradient": 24, "adam": 24}
        assert checkpoint.store.settings["adam_eps"] == "torch"
    first, second = (c.store for c in opened.checkpoints)
    assert not np.allclose(first.matrix(), second.matrix())
    assert first.settings["optimizer_state"].startswith("adam after 3 steps")
    assert second.settings["optimizer_state"].startswith("adam after 6 steps")


def test_a_store_of_the_collection_is_that_of_its_adapter_alone(collected, tiny_pool, warmup, tmp_path):
    folder = warmup / "checkpoint-6"
    base = tmp_path / "base"
    base_model().save_pretrained(base)
    alone = collect(
        tiny_pool,
        tmp_path / "alone",
        model=str(base),
        adapter_name_or_path=str(folder),
        optimizer_state=str(folder / "adam.safetensors"),
        dtype="float32",
    )
    for array in ("gradient", "adam"):
        assert np.array_equal(alone.matrix(array=array), collected.matrix(array=array))


def test_the_less_form_is_another_direction(collected, tiny_pool, warmup, tmp_path):
    less = collect(tiny_pool, tmp_path, checkpoints=str(warmup), adam_eps="less")
    check_by_hand(less, warmup / "checkpoint-6", 6, tiny_pool, less_form)
    assert np.array_equal(less.matrix(), collected.matrix())
    assert not np.allclose(less.matrix(array="adam"), collected.matrix(array="adam"), rtol=0.1)


def test_rows_of_adams_form_can_be_left_out_as_for_targets(collected, tiny_pool, warmup, tmp_path):
    plain = collect(tiny_pool, tmp_path, checkpoints=str(warmup), adam_rows=False)
    assert plain.arrays == {"gradient": 24}
    assert np.array_equal(plain.matrix(), collected.matrix())


def test_the_model_given_is_as_it_was(tiny_pool, warmup, tmp_path):
    model = base_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for output in ("a", "b"):
        collect(tiny_pool, tmp_path / output, checkpoints=str(warmup), model=model)
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def folder_bytes(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_a_killed_collection_goes_on_to_the_same_bytes(collected, tiny_pool, warmup, tmp_path, monkeypatch, shards):
    """Killed inside the first checkpoint, just after it, and inside the second."""
    done = 0
    whole = collecting.GradientPass._shard

    def dying(self, *arguments):
        nonlocal done
        if done == shards:
            raise KeyboardInterrupt
        done += 1
        return whole(self, *arguments)

    monkeypatch.setattr(collecting.GradientPass, "_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        collect(tiny_pool, tmp_path, checkpoints=str(warmup))
    monkeypatch.undo()
    again = []
    monkeypatch.setattr(collecting.GradientPass, "_shard", lambda *a: again.append(a[2].index) or whole(*a))
    collect(tiny_pool, tmp_path, checkpoints=str(warmup))
    assert len(again) >= 6 - shards  # the last one may not have reached the disk
    assert len(again) <= 6 - shards + 1
    assert folder_bytes(tmp_path) == folder_bytes(collected.checkpoints[0].store.path.parent)


def test_one_survey_serves_all_checkpoints(tiny_pool, warmup, tmp_path):
    stages = []
    collect(tiny_pool, tmp_path, checkpoints=str(warmup), progress=lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["survey", "gradients at epoch-1", "gradients at epoch-2"]
    assert stages.count("survey") == 1


def test_other_weights_or_settings_are_refused(tiny_pool, warmup, tmp_path):
    collect(tiny_pool, tmp_path / "s", checkpoints=str(warmup))
    with pytest.raises(StoreMismatchError, match="parameters"):
        collect(tiny_pool, tmp_path / "s", checkpoints=str(warmup), parameters="lora_A")
    other = train(tmp_path / "other")
    manifest = json.loads((other / "warmup.json").read_text())
    manifest["checkpoints"][0]["weight"] = 0.5
    (other / "warmup.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreMismatchError, match=r"epoch-1 \(0.6\)"):
        collect(tiny_pool, tmp_path / "s", checkpoints=str(other))


def test_checkpoints_of_a_trainer_are_weighted_by_its_logs(tiny_pool, tmp_path):
    folder = train(tmp_path / "trainer")
    (folder / "warmup.json").unlink()
    rates = [1e-3, 2e-3, 3e-3, 3e-3, 2e-3, 1e-3 * 0.25]
    log = [{"step": step, "learning_rate": rate, "loss": 1.0} for step, rate in enumerate(rates, 1)]
    for step in (3, 6):
        state = {"log_history": [entry for entry in log if entry["step"] <= step]}
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    store = collect(tiny_pool, tmp_path / "s", checkpoints=str(folder))
    assert [c.name for c in store.checkpoints] == ["checkpoint-3", "checkpoint-6"]
    means = np.array([sum(rates[:3]) / 3, sum(rates[3:]) / 3])
    assert np.allclose([c.weight for c in store.checkpoints], means / means.sum())


def test_whole_models_are_loaded_one_after_the_other(tiny_pool, tmp_path):
    folder = tmp_path / "full"
    entries = []
    for epoch in (1, 2):
        target = folder / f"checkpoint-{epoch}"
        model = tiny_model(vocab_size=300, seed=epoch)
        model.save_pretrained(target)
        tiny_tokenizer().save_pretrained(target)
        entry = {"name": f"epoch-{epoch}", "folder": target.name, "weight": 0.5, "mean_learning_rate": 1, "loss": 1}
        entries.append(entry)
    (folder / "warmup.json").write_text(json.dumps({"checkpoints": entries}))
    options = {**OPTIONS, "parameters": "blocks", "dtype": "float32"}
    store = spicerack.collect_gradients(str(tiny_pool), output_dir=tmp_path / "s", checkpoints=str(folder), **options)
    assert store.arrays == {"gradient": 24}
    for epoch, checkpoint in enumerate(store.checkpoints, 1):
        alone = spicerack.collect_gradients(
            str(tiny_pool),
            model=str(folder / f"checkpoint-{epoch}"),
            output_dir=tmp_path / str(epoch),
            **options,
        )
        assert np.array_equal(checkpoint.store.matrix(), alone.matrix())


def test_adapters_need_the_model_they_belong_on(tiny_pool, tmp_path):
    folder = train(tmp_path / "w")
    (folder / "warmup.json").write_text((folder / "warmup.json").read_text().replace('"base"', "null"))
    config = with_options(RunConfig(), {"checkpoints": str(folder), "pool": str(tiny_pool)})
    with pytest.raises(ModelError, match="is an adapter; name the model that it belongs on"):
        plan_pass(config)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adam_rows": True}, ConfigurationError, "adam_rows needs the state of the optimizer"),
        ({"checkpoints": "nowhere"}, ConfigurationError, "nowhere holds no checkpoints"),
        ({"checkpoints": "WARMUP", "optimizer_state": "x"}, ConfigurationError, "states of their own"),
        ({"checkpoints": "WARMUP", "adapter_name_or_path": "x"}, ConfigurationError, "bring their own adapters"),
        ({"optimizer_state": "nowhere", "parameters": "blocks"}, ModelError, "nowhere has no optimizer state"),
    ],
)
def test_options_that_cannot_be_together(tiny_pool, warmup, tmp_path, options, error, message):
    options = {name: str(warmup) if value == "WARMUP" else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        collect(tiny_pool, tmp_path, **{"parameters": "blocks", **options})


def test_a_checkpoint_without_a_state_among_others_is_named(tiny_pool, tmp_path):
    folder = train(tmp_path / "w")
    (folder / "checkpoint-6" / "adam.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="no optimizer state at epoch-2 of the 2 checkpoints"):
        collect(tiny_pool, tmp_path / "s", checkpoints=str(folder))
    assert collect(tiny_pool, tmp_path / "s", checkpoints=str(folder), adam_rows=False).n == 40


def test_without_any_state_the_rows_are_plain(tiny_pool, tmp_path):
    folder = train(tmp_path / "w", moments=False)
    assert collect(tiny_pool, tmp_path / "s", checkpoints=str(folder)).arrays == {"gradient": 24}


def test_checkpoints_with_other_adapters_are_refused(tiny_pool, tmp_path):
    folder = train(tmp_path / "w")
    other = train(tmp_path / "other", targets=("k_proj",))
    (folder / "checkpoint-6").rename(tmp_path / "gone")
    (other / "checkpoint-6").rename(folder / "checkpoint-6")
    with pytest.raises(ModelError, match="tracks 4 weights at one checkpoint and 8 others"):
        collect(tiny_pool, tmp_path / "s", checkpoints=str(folder))


@pytest.mark.parametrize("kind", ["transformers", "torch"])
def test_adafactors_rows_have_an_array_of_its_name(tiny_pool, tmp_path, kind):
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(base_model(), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    if kind == "torch":
        optimizer = torch.optim.Adafactor([{"params": trained}, {"params": []}], lr=1e-3)
    else:
        optimizer = transformers.Adafactor(trained, lr=1e-3, scale_parameter=False, relative_step=False)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    model.save_pretrained(tmp_path / "c")
    torch.save(optimizer.state_dict(), tmp_path / "c" / "optimizer.pt")
    base_model().save_pretrained(tmp_path / "base")
    store = collect(
        tiny_pool,
        tmp_path / "s",
        model=str(tmp_path / "base"),
        adapter_name_or_path=str(tmp_path / "c"),
        optimizer_state=str(tmp_path / "c"),
        dtype="float32",
    )
    assert store.arrays == {"gradient": 24, "adafactor": 24}
    assert "adam_eps" not in store.settings
    plain, direction = store.matrix("unit"), store.matrix("unit", array="adafactor")
    cosines = (plain * direction).sum(1)
    assert (cosines > 0.1).all()  # a positive scale for every coordinate keeps to the gradient's side
    assert (cosines < 0.999).all()


@pytest.mark.parametrize("dimension", [8, None])
def test_blocks_keep_every_weights_sketch_in_columns_of_its_own(tiny_pool, tmp_path, dimension):
    options = {"parameters": "blocks", "layout": "blocks", "dimension": dimension, "sketch": 4}
    store = collect(tiny_pool, tmp_path, **options)
    model = base_model()
    parameters = tracked_parameters(model, "blocks")
    projection = Projection(parameters, dimension=dimension, sketch=4, layout="blocks")
    assert store.k == projection.columns == store.segments[-1].stop
    assert [segment.name for segment in store.segments] == [p.name for p in parameters]
    pool = load_pool(str(tiny_pool), DataConfig())
    sample = Labeler(tiny_tokenizer(), LabelConfig()).encode(pool.sample(3), where=pool.where(3))
    gradients = reference_gradients(model, parameters, sample)
    row = store.matrix()[3]
    for segment, block in zip(store.segments, projection.blocks, strict=True):
        truth = projection.sketch_matrix(block, gradients[segment.name]).numpy()
        assert np.allclose(row[segment.start : segment.stop], truth, rtol=1e-3, atol=1e-4 * np.abs(truth).max())


def test_folded_columns_belong_to_no_weight(tiny_pool, tmp_path):
    store = collect(tiny_pool, tmp_path, parameters="blocks")
    assert [(s.name, s.start, s.stop) for s in store.segments] == [("gradient", 0, 24)]
