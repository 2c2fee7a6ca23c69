"""The main job: pool file in, gradients of a model, selection, selected file out."""

import json

import datasets
import numpy as np
import pytest
import torch

import spicerack
from spicerack.errors import ConfigurationError, DataError, StoreMismatchError, UnknownNameError
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_row
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model

FAST = {"dimension": 64, "dtype": "float32", "device": "cpu", "shard_rows": 16, "max_length": 64}


def config(pool, model, output, **selection):
    return {
        "data": {"pool": str(pool)},
        "model": {"model_name_or_path": str(model), "dtype": "float32", "device": "cpu"},
        "labels": {"max_length": 64},
        "gradients": {"dimension": 64, "shard_rows": 16},
        "selection": {"budget": 0.25, **selection},
        "output_dir": str(output),
    }


@pytest.fixture(scope="module")
def finished(tiny_pool, tiny_folder, tmp_path_factory):
    return spicerack.run(config(tiny_pool, tiny_folder, tmp_path_factory.mktemp("run")))


def test_the_selected_file_is_the_pools_rows_with_ours_behind(finished, tiny_pool):
    pool = [json.loads(line) for line in tiny_pool.read_text().splitlines()]
    lines = (finished.output_dir / "selected.jsonl").read_text().splitlines()
    assert len(lines) == len(finished.selection.indices) == 10
    for rank, (line, index) in enumerate(zip(lines, finished.selection.indices, strict=True)):
        row = json.loads(line)
        assert list(row)[: len(pool[index])] == list(pool[index])
        assert {k: v for k, v in row.items() if not k.startswith("spicerack_")} == pool[index]
        assert (row["spicerack_rank"], row["spicerack_index"]) == (rank, index)


def test_the_files_open_with_datasets(finished, tmp_path):
    for name, kind, rows in [
        ("selected.jsonl", "json", 10),
        ("selected.parquet", "parquet", 10),
        ("scores.parquet", "parquet", 40),
    ]:
        files = str(finished.output_dir / name)
        loaded = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(tmp_path))
        assert len(loaded) == rows
    assert np.array_equal(np.load(finished.files["indices.npy"]), finished.selection.indices)


def test_the_configuration_repeats_the_run(finished, tmp_path):
    text = finished.files["config.yaml"].read_text()
    again = tmp_path / "config.yaml"
    again.write_text(text.replace(str(finished.output_dir), str(tmp_path / "again")))
    repeated = spicerack.run(again)
    assert np.array_equal(repeated.selection.indices, finished.selection.indices)
    for name in ("selected.jsonl", "scores.parquet", "trace.parquet", "indices.npy"):
        assert repeated.files[name].read_bytes() == finished.files[name].read_bytes()


def test_the_store_holds_the_reference_gradients(tmp_path):
    model = tiny_model("qwen2")
    samples = random_samples([5, 9, 7, 12, 6])
    pool = [{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in samples]
    options = {"dimension": 64, "storage_dtype": "float32", "shard_rows": 2}
    store = spicerack.collect_gradients(pool, model=model, output_dir=tmp_path / "s", **options)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=64)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples]).numpy()
    scale = np.abs(truth).max()
    np.testing.assert_allclose(store.matrix(), truth, rtol=2e-4, atol=scale * 2e-5)
    assert store.column("trained_tokens").tolist() == [s.trained_tokens for s in samples]
    assert store.column("gradient_norm") == pytest.approx(np.linalg.norm(truth, axis=1), rel=1e-3)


def test_another_batch_size_agrees_within_tolerance(tiny_pool, tiny_folder, tmp_path):
    matrices = []
    for tokens in (40, 4000):
        options = FAST | {"tokens_per_batch": tokens, "storage_dtype": "float32"}
        store = spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir=tmp_path / str(tokens), **options)
        matrices.append(store.matrix())
    np.testing.assert_allclose(matrices[0], matrices[1], rtol=1e-3, atol=1e-5 * np.abs(matrices[0]).max())


def test_a_pool_that_is_cut_before_its_answers_names_the_option(tiny_pool, tiny_folder):
    with pytest.raises(DataError, match=r"no row .* 40 of 40 rows were cut to max_length=5 tokens.*raise it"):
        spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir="unused", max_length=5)


def test_label_options_that_differ_are_named(tiny_pool, tiny_folder, tmp_path):
    spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir=tmp_path, **FAST)
    with pytest.raises(StoreMismatchError, match=r"label_rule was .*, now .*train_on_turn_suffix=False"):
        spicerack.collect_gradients(
            tiny_pool, model=tiny_folder, output_dir=tmp_path, **FAST, train_on_turn_suffix=False
        )


def test_rows_without_trained_tokens_are_never_selected(tiny_folder, tmp_path):
    pool = [{"instruction": f"say {i}", "output": f"{i}"} for i in range(6)]
    long = {"instruction": "x" * 200, "output": "never seen: cut off"}
    done = spicerack.run(
        {**config("x", tiny_folder, tmp_path, budget=1.0), "data": {}}, pool=[*pool[:3], long, *pool[3:]]
    )
    assert 3 not in done.selection.indices
    assert len(done.selection.indices) == 6
    assert done.selection.excluded["index"].tolist() == [3]
    assert "no trained tokens" in done.selection.excluded["reason"][0]


def test_a_store_of_another_model_or_label_rule_is_refused(tiny_pool, tiny_folder, tmp_path):
    spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir=tmp_path / "s", **FAST)
    with pytest.raises(StoreMismatchError, match="label_rule was"):
        spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir=tmp_path / "s", **FAST, turns="last")
    other = tiny_model("llama", vocab_size=300, seed=1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(StoreMismatchError, match="model was"):
        spicerack.collect_gradients(
            tiny_pool,
            model=tmp_path / "other",
            tokenizer_name_or_path=str(tiny_folder),
            output_dir=tmp_path / "s",
            **FAST,
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dimensoin": 3}, UnknownNameError, "did you mean 'dimension'"),
        ({"dimension": 0}, ConfigurationError, "gradients.dimension"),
        ({"dtype": "float8"}, ConfigurationError, "model.dtype"),
        ({"parameters": "nothing_like_it"}, ConfigurationError, "matches none"),
        ({"format": "sharegpt"}, DataError, "pool.jsonl:1"),
    ],
)
def test_bad_options_are_one_line(tiny_pool, tiny_folder, tmp_path, options, error, message):
    with pytest.raises(error, match=message) as caught:
        spicerack.collect_gradients(tiny_pool, model=tiny_folder, output_dir=tmp_path / "s", **{**FAST, **options})
    assert "\n" not in str(caught.value)


def test_a_misspelt_method_option_costs_no_gradient_pass(tiny_pool, tiny_folder, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'penalty'"):
        spicerack.run(config(tiny_pool, tiny_folder, tmp_path / "r", penlty=0.2))
    assert not (tmp_path / "r" / "gradients").exists()


def test_a_non_finite_gradient_is_named_and_left_out(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")
    samples = random_samples([6, 6, 6, 6], seed=3)
    pool = []
    for i, sample in enumerate(samples):
        ids = [i if t == 9 else int(t) for t in sample.input_ids]
        if i == 2:
            ids[1] = 9
        pool.append({"input_ids": ids, "labels": ids})
    store = spicerack.collect_gradients(pool, model=model, output_dir=tmp_path / "s", dimension=32)
    assert store.excluded() == [(2, "non-finite gradient")]
    assert 2 not in spicerack.select(store, "random", budget=1.0).indices
