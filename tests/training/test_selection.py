"""A selection is read as its run read the pool: the same samples, the same labels."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spicerack.config import DataConfig, LabelConfig, ModelConfig, RunConfig, dump_config
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, DataError, UnknownNameError
from spicerack.export.rows import write_selection
from spicerack.selectors import select
from spicerack.testing import tiny_tokenizer
from spicerack.training.adapters import resolve_model
from spicerack.training.options import TrainConfig, WarmupConfig, make_options, split_options
from spicerack.training.samples import label_rows
from spicerack.training.selection import read_selection


def write_run(folder, pool, config, rows=None):
    folder.mkdir()
    selection = select(np.random.default_rng(0).normal(size=(len(pool), 4)), "random", 6, seed=3)
    write_selection(folder, rows if rows is not None else pool, selection, config_yaml=dump_config(config))
    return selection.indices


def labeled(pool, rows=None):
    return label_rows(pool, Labeler(tiny_tokenizer(), LabelConfig()), rows)


def test_a_run_its_indices_and_its_file_are_one_selection(tiny_pool, tmp_path):
    pool = load_pool(tiny_pool, DataConfig())
    indices = write_run(tmp_path / "run", pool, RunConfig(data=DataConfig(pool=str(tiny_pool))))
    truth = labeled(pool, indices).fingerprint()
    for selected in (
        read_selection(tmp_path / "run"),
        read_selection(tmp_path / "run/selected.jsonl"),
        read_selection(tiny_pool, indices=tmp_path / "run/indices.npy"),
    ):
        assert labeled(selected.pool(selected.config), selected.indices).fingerprint() == truth


def test_a_run_brings_its_format_and_labels(tiny_pool, tmp_path):
    config = RunConfig(data=DataConfig(pool=str(tiny_pool), format="alpaca"), labels=LabelConfig(max_length=77))
    write_run(tmp_path / "run", load_pool(tiny_pool, DataConfig()), config)
    assert read_selection(tmp_path / "run").config.labels.max_length == 77
    assert read_selection(tmp_path / "run").config.data.format == "alpaca"


def test_the_model_section_of_a_run_holds_for_its_model_only(tiny_pool, tmp_path):
    model = ModelConfig(model_name_or_path="small", tokenizer_name_or_path="t", adapter_name_or_path="warm")
    config = RunConfig(data=DataConfig(pool=str(tiny_pool)), model=model)
    write_run(tmp_path / "run", load_pool(tiny_pool, DataConfig()), config)
    same = read_selection(tmp_path / "run", model_name="small")
    assert (same.config.model.tokenizer_name_or_path, same.config.model.adapter_name_or_path) == ("t", None)
    assert [choice.name for choice in same.choices] == ["data", "adapter"]
    other = read_selection(tmp_path / "run", model_name="large")
    assert other.config.model == ModelConfig()
    assert [choice.name for choice in other.choices] == ["data", "model options"]


def test_nulls_of_a_table_are_absent_keys_in_its_selection_too(tmp_path):
    """A template that asks whether a message has `tool_calls` must get the answer that it got from the pool."""
    messages = [
        [{"role": "user", "content": f"q{i}", "name": None}, {"role": "assistant", "content": "a", "name": None}]
        for i in range(8)
    ]
    messages[0][0]["name"] = "ann"
    pq.write_table(pa.Table.from_pylist([{"messages": turns} for turns in messages]), tmp_path / "pool.parquet")
    pool = load_pool(tmp_path / "pool.parquet", DataConfig())
    config = RunConfig(data=DataConfig(pool=str(tmp_path / "pool.parquet")))
    indices = write_run(tmp_path / "run", pool, config)
    selected = read_selection(tmp_path / "run")
    assert selected.source.endswith("selected.parquet")
    read = selected.pool(selected.config)
    assert [read.sample(i) for i in range(len(read))] == [pool.sample(int(i)) for i in indices]


def test_a_run_without_rows_says_what_to_name(tiny_pool, tmp_path):
    write_run(tmp_path / "run", load_pool(tiny_pool, DataConfig()), RunConfig())
    (tmp_path / "run/selected.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no selected\.jsonl; .*--indices .*indices\.npy"):
        read_selection(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="is a run and has indices of its own"):
        read_selection(tmp_path / "run", indices=tmp_path / "run/indices.npy")


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.zeros((2, 2), int), "does not hold a list of row numbers"),
        (np.array([0.5]), "does not hold a list of row numbers"),
        (np.array([], dtype=np.int64), "does not hold a list of row numbers"),
        (np.array([-1]), "names row -1; expected row numbers from 0"),
    ],
)
def test_indices_that_are_no_rows(tiny_pool, tmp_path, indices, message):
    np.save(tmp_path / "indices.npy", indices)
    with pytest.raises(DataError, match=message):
        read_selection(tiny_pool, indices=tmp_path / "indices.npy")


def test_indices_of_another_pool(tiny_pool, tmp_path):
    np.save(tmp_path / "indices.npy", np.array([3, 40]))
    selected = read_selection(tiny_pool, indices=tmp_path / "indices.npy")
    with pytest.raises(DataError, match=r"reach row 40, but .* has 40 rows"):
        selected.pool(selected.config)
    with pytest.raises(DataError, match=r"cannot read .*name a selection's folder or an indices\.npy"):
        read_selection(tiny_pool, indices=tmp_path / "nothing.npy")


def test_an_adapter_knows_its_model(tmp_path):
    assert resolve_model("some/model", ModelConfig())[0].model_name_or_path == "some/model"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "peft/base"}))
    section, choices = resolve_model(str(tmp_path), ModelConfig())
    assert (section.model_name_or_path, section.adapter_name_or_path) == ("peft/base", str(tmp_path))
    assert choices[0].value == "peft/base"
    (tmp_path / "manifest.json").write_text(json.dumps({"model": {"name": "our/base.gguf"}}))
    assert resolve_model(str(tmp_path), ModelConfig())[0].model_name_or_path == "our/base.gguf"
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="names no base model"):
        resolve_model(str(tmp_path), ModelConfig())


def test_options_are_checked_by_name():
    own, rest = split_options(TrainConfig, {"seed": 3, "dtype": "float32"})
    assert (own, rest) == ({"seed": 3}, {"dtype": "float32"})
    with pytest.raises(UnknownNameError, match="did you mean 'learning_rate'"):
        make_options(TrainConfig, {"learning_rat": 1})
    with pytest.raises(ConfigurationError, match=r"lora_r: .*got 0; learning_rate: .*got -1"):
        make_options(TrainConfig, {"lora_r": 0, "learning_rate": -1})
    with pytest.raises(ConfigurationError, match="num_train_epochs"):
        make_options(WarmupConfig, {"num_train_epochs": 2.5})
