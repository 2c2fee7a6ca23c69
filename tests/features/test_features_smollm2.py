"""Features of a real model, SmolLM2-135M-Instruct from its wheel: ratios, ratings and neighbors that make sense."""

import importlib.metadata

import numpy as np
import pytest

import spicerack
from spicerack.cli import demo
from spicerack.config import ModelConfig
from spicerack.models.loading import load_model

try:
    importlib.metadata.distribution(demo.MODEL_PACKAGE)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("the demo's model is not installed", allow_module_level=True)

PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Sort the numbers 3, 1, 2.", "1, 2, 3"),
    ("What is the capital of Spain?", "The largest planet of the solar system is Jupiter."),
]


@pytest.mark.slow
def test_features_of_a_real_model_make_sense(tmp_path):
    loaded = load_model(demo.model_file(), ModelConfig(dtype="float32", device="cpu"))
    pool = [{"instruction": asked, "response": answer} for asked, answer in PAIRS]
    options = {"compute": "ifd,selectit,embedding,embedding_weighted", "tokens_per_batch": 256}
    model = {"model": loaded.model, "tokenizer": loaded.tokenizer}
    store = spicerack.collect_features(pool, output_dir=tmp_path / "s", **model, **options)
    ifd = store.column("ifd")
    assert (ifd[:2] < 0.8).all()  # the question helps
    assert ifd[3] > ifd[:2].max()  # an answer to something else is helped least
    assert ((store.column("selectit") >= 0) & (store.column("selectit") <= 5)).all()
    rows = store.matrix("unit", array="embedding_weighted")
    assert np.argsort(-(rows @ rows[0]))[1] == 1  # the other capital
    one = spicerack.collect_features(pool[:1], output_dir=tmp_path / "t", **model, compute="embedding_weighted")
    assert spicerack.select(store, "rds", 2, one).indices.tolist() == [0, 1]


@pytest.mark.slow
def test_a_response_of_another_instruction_stands_out_by_mismatch(tmp_path):
    countries = ["France", "Italy", "Spain", "Japan", "Egypt", "Cuba"]
    cities = ["Paris", "Rome", "Madrid", "Tokyo", "Cairo", "Havana"]
    cities[0], cities[3] = cities[3], cities[0]
    pool = [
        {"instruction": f"What is the capital of {country}?", "response": f"The capital of this country is {city}."}
        for country, city in zip(countries, cities, strict=True)
    ]
    loaded = load_model(demo.model_file(), ModelConfig(dtype="float32", device="cpu"))
    model = {"model": loaded.model, "tokenizer": loaded.tokenizer}
    store = spicerack.collect_features(pool, output_dir=tmp_path / "s", **model, compute="mismatch", mismatches=3)
    found = store.column("mismatch")
    assert set(np.argsort(-found)[:2].tolist()) == {0, 3}
    assert (np.delete(found, [0, 3]) < 0.9).all()
