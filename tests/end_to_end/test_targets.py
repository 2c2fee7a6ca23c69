"""Targets as a user gives them: data files, stores, several by name, subtasks by a column."""

import json

import numpy as np
import pytest

import spicerack
from spicerack.config import make_config
from spicerack.errors import ConfigurationError, DataError, StoreMismatchError
from spicerack.pipeline import plan_run, select_from_store

pytestmark = pytest.mark.usefixtures("no_measuring")


def rows_of(names, capability=None):
    rows = [{"instruction": f"say {i}", "output": f"{i * 7919 % 1000} is {i}"} for i in names]
    for row, label in zip(rows, capability or [], strict=bool(capability)):
        row["capability"] = label
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def section(tiny_pool, tiny_folder, tmp_path):
    def make(folder="run", gradients=(), **selection):
        return {
            "data": {"pool": str(tiny_pool)},
            "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
            "labels": {"max_length": 64},
            "gradients": {"dimension": 64, "shard_rows": 16, **dict(gradients)},
            "selection": {"method": "less", "budget": 4, **selection},
            "output_dir": str(tmp_path / folder),
        }

    return make


def test_a_data_file_is_taken_with_the_pools_model_and_projection(section, tmp_path, tiny_folder):
    target = write(tmp_path / "dev.jsonl", rows_of([13, 29]))
    run = spicerack.run(section(target=target))
    assert set(run.selection.indices[:2].tolist()) <= set(range(40))
    taken = spicerack.GradientStore.open(run.output_dir / "targets" / "target")
    np.testing.assert_array_equal(taken.matrix("unit"), run.store.matrix("unit")[[13, 29]])  # the same rows
    again = spicerack.run(run.files["config.yaml"])
    np.testing.assert_array_equal(again.selection.indices, run.selection.indices)
    alone = spicerack.select(run.store, "less", 4, run.output_dir / "targets" / "target")
    np.testing.assert_array_equal(alone.indices, run.selection.indices)


def test_a_copy_of_a_pool_sample_as_the_only_target_ranks_first(section, tmp_path):
    for method in ("less", "bids"):
        run = spicerack.run(section(method=method, target=write(tmp_path / "dev.jsonl", rows_of([13]))))
        assert run.selection.indices[0] == 13
    run = spicerack.run(section(method="in2core", target=write(tmp_path / "dev.jsonl", rows_of([13]))))
    assert run.selection.scores[13] > 0


def test_several_targets_are_subtasks_and_a_column_parts_them_further(section, tmp_path):
    math = write(tmp_path / "math.jsonl", rows_of([1, 2, 3], ["add", "mul", "add"]))
    shell = write(tmp_path / "shell.jsonl", rows_of([30], ["find"]))
    run = spicerack.run(section("a", target={"math": math, "shell": shell}))
    assert run.selection.manifest["findings"]["subtasks"] == ["math", "shell"]
    assert run.selection.manifest["findings"]["target_rows"] == [3, 1]
    assert (run.output_dir / "targets/math/manifest.json").is_file()
    parted = spicerack.run(section("b", target={"math": math, "shell": shell}, subtask_column="capability"))
    assert parted.selection.manifest["findings"]["subtasks"] == ["math/add", "math/mul", "shell/find"]
    stores = {name: str(run.output_dir / "targets" / name) for name in ("math", "shell")}
    mixed = spicerack.run(section("c", target={"math": stores["math"], "shell": shell}))
    np.testing.assert_array_equal(mixed.selection.indices, run.selection.indices)


def test_targets_follow_the_pool_through_its_layout(section, tmp_path):
    target = write(tmp_path / "dev.jsonl", rows_of([13, 5]))
    run = spicerack.run(
        section(gradients={"layout": "blocks", "sketch": 4}, method="in2core", budget=0.5, target=target)
    )
    findings = run.selection.manifest["findings"]
    assert findings["blocks_in_all"] > len(findings["blocks"]) > 0
    assert findings["pilot"]["rows"] == 40
    assert len(findings["coverage"]["target_rows"]) == 2


def warm_up(folder):
    """Adapters and Adam's moments of two epochs, as `spicerack warmup` leaves them."""
    import peft
    import torch

    from spicerack.testing import random_samples, tiny_model
    from spicerack.training.moments import write_moments

    torch.manual_seed(0)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(tiny_model(vocab_size=300), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    entries = []
    for epoch, weight in ((1, 0.7), (2, 0.3)):
        ids = torch.from_numpy(random_samples([9], vocab_size=300, seed=epoch)[0].input_ids).long()[None]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.save_pretrained(folder / f"checkpoint-{epoch}")
        write_moments(folder / f"checkpoint-{epoch}" / "adam.safetensors", model, optimizer)
        entry = {"name": f"epoch-{epoch}", "folder": f"checkpoint-{epoch}", "weight": weight}
        entries.append(entry | {"mean_learning_rate": 1.0, "loss": 1.0})
    (folder / "warmup.json").write_text(json.dumps({"checkpoints": entries, "model": {"name": "base"}}))
    return folder


def test_less_as_published_takes_pool_and_target_at_every_checkpoint(section, tmp_path):
    warmed = {"checkpoints": str(warm_up(tmp_path)), "parameters": "lora", "sketch": 4, "dimension": 48}
    target = write(tmp_path / "dev.jsonl", rows_of([13, 29]))
    run = spicerack.run(section(gradients=warmed, target={"one": target}, budget=40))
    assert run.selection.manifest["options"]["pool_rows"] == "adam"
    taken = spicerack.GradientStore.open(run.output_dir / "targets" / "one")
    assert [c.name for c in taken.checkpoints] == ["epoch-1", "epoch-2"]
    assert list(taken.arrays) == ["gradient"]
    expected = np.zeros(40)
    for ours, theirs in zip(run.store.checkpoints, taken.checkpoints, strict=True):
        G, V = ours.store.matrix("unit", array="adam"), theirs.store.matrix("unit")
        np.testing.assert_array_equal(V, ours.store.matrix("unit")[[13, 29]])
        expected += ours.weight * (G @ V.T).mean(axis=1)
    np.testing.assert_allclose(run.selection.scores, expected, atol=2e-3)  # stored in half precision
    np.testing.assert_array_equal(spicerack.run(run.files["config.yaml"]).selection.indices, run.selection.indices)


def test_quotas_and_fixed_rows_repeat_with_the_configuration(section, tmp_path):
    run = spicerack.run(
        section(method="random", budget=8, quotas={"s0": "4", "*": "..2"}, include=["t7"], exclude=["t0", 4])
    )
    picked = run.selection.indices.tolist()
    assert picked[0] == 7
    assert not {0, 4} & set(picked)
    assert sum(i % 4 == 0 for i in picked) == 4
    again = spicerack.run(run.files["config.yaml"])
    np.testing.assert_array_equal(again.selection.indices, run.selection.indices)


@pytest.mark.parametrize("method", ["random", "fisher"])
@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"quotas": {"s9": "1"}}, "unknown group 's9'; did you mean"),
        ({"quotas": {"s0": "11"}}, "at least 11, but only 10 of its rows"),
        ({"quotas": {"s0": "5", "*": "2..3"}}, "ask for at least 11 rows, the budget is 4"),
        ({"quotas": "proportional", "groups": "keep"}, "'keep', which the store of pool.jsonl will not have"),
        ({"groups": "source"}, "groups label the rows for quotas, and there are none"),
        ({"include": ["nobody"]}, "include: sample 'nobody'"),
        ({"exclude": [40]}, "exclude names row 40"),
        ({"include": ["t1"], "exclude": [1]}, "row 1 is forced in, but cannot be picked: it is also excluded"),
        ({"budget": 41}, "budget 41 is above the 40 rows"),
    ],
)
def test_rows_that_the_pool_cannot_give_cost_no_pass(section, tmp_path, method, selection, message):
    config = make_config(section(method=method, **selection))
    for work in (spicerack.run, plan_run):
        with pytest.raises(ConfigurationError, match=message) as caught:
            work(config)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("rows-*.parquet"))


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({}, ConfigurationError, "'less' needs a target.*--target"),
        ({"method": "random", "target": "{dev}"}, ConfigurationError, "'random' reads no target"),
        ({"method": "random", "subtask_column": "x"}, ConfigurationError, "--subtask-column.*there is no target"),
        ({"method": "in2core", "target": "{dev}", "subtask_column": "x"}, ConfigurationError, "no use for subtasks"),
        ({"target": "{dev}", "subtask_column": "kind"}, DataError, "dev.jsonl:1 has no 'kind', which subtask_column"),
        ({"target": "{empty}"}, DataError, "target .*no row of empty.jsonl has a trained token"),
        ({"target": "{dev}.gone"}, DataError, "no such file"),
        ({"target": {"a/b": "{dev}"}}, ConfigurationError, "target name 'a/b'"),
        ({"target": {}}, ConfigurationError, "empty mapping"),
    ],
)
def test_a_target_that_cannot_be_used_costs_no_gradient_pass(section, tmp_path, selection, error, message):
    places = {
        "dev": write(tmp_path / "dev.jsonl", rows_of([1])),
        "empty": write(tmp_path / "empty.jsonl", [{"instruction": "x" * 200, "output": "cut off"}]),
    }

    def filled(value):
        return {k: v.format(**places) for k, v in value.items()} if isinstance(value, dict) else value.format(**places)

    with pytest.raises(error, match=message) as caught:
        spicerack.run(section(**{name: filled(value) for name, value in selection.items()}))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_selecting_from_a_store_says_how_to_take_a_targets_gradients(section, tmp_path):
    dev = write(tmp_path / "dev.jsonl", rows_of([1]))
    run = spicerack.run(section(method="fisher"))
    with pytest.raises(ConfigurationError, match=r"is a data file.*collect_gradients"):
        spicerack.select(run.store, "less", 3, dev)
    config = make_config(section(target=dev))
    with pytest.raises(ConfigurationError, match=r"--dimension 64 --layout folded --sketch .* --projection-seed 0"):
        select_from_store(run.output_dir / "gradients", config, output_dir=tmp_path / "s")


def test_a_store_without_the_subtask_column_says_how_to_have_it(section, tmp_path):
    dev = write(tmp_path / "dev.jsonl", rows_of([1]))
    store = str(spicerack.run(section(target=dev)).output_dir / "targets/target")
    with pytest.raises(ConfigurationError, match="--source-column capability and name the column 'source'"):
        spicerack.run(section("b", target=store, subtask_column="capability"))
    assert spicerack.run(section("b", target=store, subtask_column="source")).selection.indices.size == 4


def test_a_target_of_another_projection_is_refused(section, tmp_path):
    dev = write(tmp_path / "dev.jsonl", rows_of([1]))
    other = spicerack.run(section("other", {"projection_seed": 5}, target=dev)).output_dir / "targets/target"
    with pytest.raises(StoreMismatchError, match=r"projection\.seed is 5, the pool's 0"):
        spicerack.run(section(target=str(other)))
