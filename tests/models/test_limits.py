"""Samples that a model cannot read are named before any work."""

import json

import numpy as np
import pytest

import spicerack
from spicerack.config import DataConfig, LabelConfig
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.errors import DataError
from spicerack.models.limits import check_fits, learned_positions, past_training
from spicerack.testing import tiny_model, tiny_tokenizer
from spicerack.training.samples import label_rows


@pytest.mark.parametrize(
    ("architecture", "learned"), [("gpt2", True), ("opt", True), ("llama", False), ("gemma", False)]
)
def test_learned_positions_end_and_computed_ones_do_not(architecture, learned):
    model = tiny_model(architecture)
    positions = learned_positions(model)
    assert (positions is not None) == learned
    long = np.array([3, model.config.max_position_embeddings, model.config.max_position_embeddings + 1])
    if not learned:
        check_fits(model, long, np.zeros(3, dtype=int), str)
        return
    assert positions == model.config.max_position_embeddings
    check_fits(model, long[:2], np.zeros(2, dtype=int), str)
    with pytest.raises(DataError, match=f"^2: {long[2]} tokens, and the model has learned {positions} positions"):
        check_fits(model, long, np.zeros(3, dtype=int), str)


def test_samples_longer_than_the_model_was_made_for_are_told():
    model = tiny_model("llama")
    most = model.config.max_position_embeddings
    assert past_training(model, np.array([most])) == []
    (told,) = past_training(model, np.array([most + 2, 3, most + 1]))
    assert told.value == most + 2
    assert f"2 samples have more tokens than the {most} positions" in told.reason


def test_a_long_row_is_refused_by_its_line(tmp_path):
    model = tiny_model("gpt2", vocab_size=300)
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    rows = [{"instruction": "say", "output": "x" * length} for length in (5, 4 * model.config.max_position_embeddings)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data": {"pool": str(tmp_path / "pool.jsonl")}, "model": {"model_name_or_path": str(tmp_path / "m")}}
    with pytest.raises(DataError, match=r"pool\.jsonl:2: .* give --max-length"):
        spicerack.run({**given, "selection": {"budget": 1}, "output_dir": str(tmp_path / "out")})


@pytest.mark.parametrize("method", ["spice", "loss"])
@pytest.mark.parametrize("field", ["input_ids", "labels"])
def test_a_token_outside_the_vocabulary_is_refused_by_its_line(tiny_folder, tmp_path, method, field):
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}]
    rows[1][field][1] = 300
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data": {"pool": str(tmp_path / "pool.jsonl")}, "model": {"model_name_or_path": str(tiny_folder)}}
    with pytest.raises(DataError, match=r"pool\.jsonl:2: input_ids or labels have 300, and .* vocabulary ends at 299"):
        spicerack.run({**given, "selection": {"method": method, "budget": 1}, "output_dir": str(tmp_path / "out")})


def test_a_label_outside_the_vocabulary_is_refused_before_training():
    rows = label_rows(
        load_pool([{"input_ids": [1, 2], "labels": [-100, 300]}], DataConfig()), Labeler(None, LabelConfig())
    )
    with pytest.raises(DataError, match="input_ids or labels have 300"):
        rows.check_fits(tiny_model("llama", vocab_size=300))
