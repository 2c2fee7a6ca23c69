"""Weights of all samples and orders of the picks, and both from a run's folder by the command."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spicerack.cli.app import app, register_commands
from spicerack.config import DataConfig, RunConfig, dump_config
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, DataError
from spicerack.export.rows import write_selection
from spicerack.export.weights import curriculum, soft_weights
from spicerack.selectors import select

SCORES = st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(float("nan"))), min_size=1, max_size=30)


@given(SCORES, st.floats(0.05, 50.0), st.sampled_from(["score", "rank"]))
def test_weights_follow_the_scores(scores, temperature, normalization):
    scores = np.array(scores)
    scored = np.isfinite(scores)
    if not scored.any():
        with pytest.raises(DataError):
            soft_weights(scores)
        return
    weights = soft_weights(scores, temperature=temperature, normalization=normalization)
    assert (weights[~scored] == 0.0).all()
    assert weights[scored].mean() == pytest.approx(1.0)
    order = np.argsort(scores[scored], kind="stable")
    assert (np.diff(weights[scored][order]) >= -1e-9).all()


def test_weights_are_softmax_of_deviations():
    scores = np.array([1.0, 2.0, np.nan, 4.0])
    z = (np.array([1.0, 2.0, 4.0]) - 7 / 3) / np.std([1.0, 2.0, 4.0])
    expected = np.exp(z / 0.5) / np.exp(z / 0.5).sum() * 3
    assert soft_weights(scores, temperature=0.5)[[0, 1, 3]] == pytest.approx(expected)
    assert soft_weights(scores, temperature=1e6)[[0, 1, 3]] == pytest.approx([1.0] * 3, abs=1e-4)
    assert soft_weights(np.array([1.0, 2.0, 9.0]), temperature=0.01).argmax() == 2
    assert soft_weights(np.ones(3)).tolist() == [1.0] * 3
    with pytest.raises(ConfigurationError, match="above 0"):
        soft_weights(scores, temperature=0.0)


def test_orders():
    losses = np.array([3.0, 1.0, np.nan, 2.0])
    assert curriculum("picked", 4, None).tolist() == [0, 1, 2, 3]
    assert curriculum("reversed", 4, None).tolist() == [3, 2, 1, 0]
    assert curriculum("easy", 4, losses).tolist() == [1, 3, 0, 2]
    assert curriculum("hard", 4, losses).tolist() == [2, 0, 3, 1]
    assert sorted(curriculum("shuffled", 50, None, seed=1)) == list(range(50))
    assert curriculum("shuffled", 50, None, seed=1).tolist() != curriculum("shuffled", 50, None, seed=2).tolist()
    with pytest.raises(ConfigurationError, match="do not hold"):
        curriculum("easy", 4, None)
    with pytest.raises(ConfigurationError, match="expected one of"):
        curriculum("best", 4, None)


@pytest.fixture
def run_folder(tmp_path):
    import pyarrow as pa

    rows = [{"id": f"r{i}", "instruction": f"say {i}", "output": str(i)} for i in range(20)]
    G = np.random.default_rng(0).standard_normal((20, 5))
    G[3] = np.nan
    selection, pool = select(G, "spice", 6), load_pool(rows, DataConfig())
    table = pa.table({"id": pool.ids, "loss_mean": [float(i % 7) for i in range(20)]})
    write_selection(tmp_path, pool, selection, config_yaml=dump_config(RunConfig()), rows_table=table)
    return tmp_path, selection


def command(*arguments):
    register_commands()
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_writes_weights_that_a_sampler_reads(run_folder):
    folder, selection = run_folder
    assert "weights.npy" in command("export", folder, "--to", "weights", "--temperature", 0.5)
    weights = np.load(folder / "weights/weights.npy")
    assert weights == pytest.approx(soft_weights(selection.scores, temperature=0.5))
    assert weights[3] == 0.0
    table = pq.read_table(folder / "weights/weights.parquet").to_pylist()
    assert table[5] == {"index": 5, "id": "r5", "spicerack_weight": weights[5]}
    drawn = list(torch.utils.data.WeightedRandomSampler(weights, 500, generator=torch.Generator().manual_seed(0)))
    assert 3 not in drawn
    assert np.bincount(drawn, minlength=20).argmax() == weights.argmax()


def test_the_command_writes_the_picks_in_an_order(run_folder):
    folder, selection = run_folder
    command("export", folder, "--to", "trl", "--order", "easy")
    rows = [json.loads(line) for line in (folder / "trl/train.jsonl").read_text().splitlines()]
    said = [int(row["messages"][1]["content"]) for row in rows]
    assert sorted(said) == sorted(selection.indices.tolist())
    assert [i % 7 for i in said] == sorted(i % 7 for i in said)
    command("export", folder, "--to", "trl", "--output", folder / "other")
    rows = [json.loads(line) for line in (folder / "other/train.jsonl").read_text().splitlines()]
    assert [int(row["messages"][1]["content"]) for row in rows] == selection.indices.tolist()
