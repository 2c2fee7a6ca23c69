"""train, evaluate and warmup as a user runs them, one after the other."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from spicerack.cli.app import app, register_commands
from spicerack.config import DataConfig, LabelConfig, ModelConfig, RunConfig, dump_config
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, OutputError
from spicerack.export.rows import write_selection
from spicerack.selectors import select

LIGHT = ["--dtype", "float32", "--device", "cpu", "--max-length", "64"]


def run(*arguments):
    register_commands()
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def tiny_run(tiny_folder, tiny_pool, tmp_path_factory):
    """What `spicerack run` leaves, without its gradients."""
    folder = tmp_path_factory.mktemp("run")
    config = RunConfig(
        data=DataConfig(pool=str(tiny_pool)),
        model=ModelConfig(model_name_or_path=str(tiny_folder), dtype="float32", device="cpu"),
        labels=LabelConfig(max_length=64),
    )
    pool = load_pool(tiny_pool, config.data)
    selection = select(np.random.default_rng(0).normal(size=(len(pool), 4)), "random", 12)
    write_selection(folder, pool, selection, config_yaml=dump_config(config))
    return folder


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "train"
    options = ["--lora-r", 4, "--learning-rate", "0.01", "--num-train-epochs", 2]
    return folder, run("train", tiny_run, "--output", folder, *options), options


def test_a_run_is_trained_on_with_its_own_model_and_labels(trained, tiny_run, tiny_folder):
    folder, done, options = trained
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"]["name"] == str(tiny_folder)
    assert manifest["data"]["samples"] == 12
    assert manifest["steps"] == 4
    assert "12 samples" in done.output
    assert "epoch 2: loss" in done.output
    assert "FutureWarning" not in done.output
    before = (folder / "manifest.json").read_bytes()
    run("train", tiny_run, "--output", folder, *options)
    assert (folder / "manifest.json").read_bytes() == before


def test_the_adapter_is_evaluated_on_its_model(trained, tiny_folder, tiny_pool, tmp_path):
    folder = trained[0]
    options = ["--data", tiny_pool, "--by", "source", *LIGHT]
    base = run("evaluate", tiny_folder, *options, "--output", tmp_path / "base")
    assert "mean of groups" in base.output
    assert "s3" in base.output
    exact = run("evaluate", folder, *options, "--exact-match", "--output", tmp_path / "a")
    assert "exact match of greedy answers" in exact.output
    nothing = ("--exact-match", "--max-answer-tokens", 1, "--output", tmp_path / "b")
    assert "nothing was asked" in run("evaluate", folder, *options, *nothing).output
    run("evaluate", tiny_folder, "--adapter", folder, *options, "--output", tmp_path / "b")
    loss = {
        name: json.loads((tmp_path / name / "evaluation.json").read_text())["overall"]["loss"]["mean"]
        for name in ("base", "a", "b")
    }
    assert loss["a"] == loss["b"] < loss["base"]


def test_a_warm_up_leaves_checkpoints(tiny_folder, tiny_pool, tmp_path):
    options = ["--fraction", "0.5", "--lora-r", 4, "--num-train-epochs", 2, "--gradient-accumulation-steps", 1]
    done = run("warmup", tiny_pool, "--model", tiny_folder, *LIGHT, *options, "--output", tmp_path)
    assert "2 checkpoints with moments" in done.output
    for checkpoint in json.loads((tmp_path / "warmup.json").read_text())["checkpoints"]:
        assert (tmp_path / checkpoint["folder"] / "adam.safetensors").is_file()


def test_a_selection_never_writes_over_a_store_or_a_training(tiny_folder, tiny_pool, tmp_path):
    model = [tiny_pool, "--model", tiny_folder, *LIGHT]
    run("gradients", *model, "--output", tmp_path / "store")
    before = (tmp_path / "store" / "manifest.json").read_bytes()
    for command in (["select", tmp_path / "store"], ["run", *model, "--method", "length"]):
        with pytest.raises(OutputError, match="holds a store"):
            run(*command, "--budget", 5, "--output", tmp_path / "store")
    assert (tmp_path / "store" / "manifest.json").read_bytes() == before
    (tmp_path / "manifest.json").write_text('{"steps": 3}')
    with pytest.raises(OutputError, match="holds a training"):
        run("select", tmp_path / "store", "--budget", 5, "--output", tmp_path)


def test_exact_gradients_are_asked_for_by_a_word(tiny_folder, tiny_pool, tmp_path):
    words = [tiny_pool, "--model", tiny_folder, *LIGHT, "--parameters", "last:1", "--output", tmp_path]
    done = run("gradients", *words, "--dimension", "none")
    columns = json.loads((tmp_path / "manifest.json").read_text())["settings"]["projection"]["dimension"]
    assert re.search(rf"parameters = last:1 .* {columns:,} parameters", done.output.replace("\n", " "))
    with pytest.raises(ConfigurationError, match="dimension"):
        run("gradients", *words, "--dimension", "few")


def test_what_is_wrong_is_said_in_one_line(tiny_pool, tmp_path):
    command = [sys.executable, "-m", "spicerack.cli.app", "train", str(tiny_pool), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "spicerack: error: no model is named; give a hub id, folder or GGUF file (--model)"
    ]
