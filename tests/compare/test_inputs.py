"""What the methods read is made once: gradients, and the features of pool and target that somebody asks for."""

import json

import numpy as np
import pytest

import spicerack
from spicerack.compare.inputs import COST_FILE, Preparation, needs_of_method
from spicerack.compare.plan import parse_methods
from spicerack.config import DataConfig
from spicerack.data.records import load_pool
from spicerack.errors import DataError, StoreError


def test_features_are_made_for_those_who_read_them(make_spec, compare_data, tmp_path):
    config = make_spec(tmp_path).config
    pool = load_pool(config.data.pool, config.data)
    methods = parse_methods("rds,ifd,random,full")
    made = Preparation(config).run(pool, methods, target=compare_data / "target.jsonl")
    assert "embedding_weighted" in made.store.arrays
    assert "embedding_weighted" in made.target.arrays
    assert len(made.store.column("ifd")) == 24
    assert (tmp_path / COST_FILE).is_file()
    assert {name.split(" of ")[0] for name in made.seconds} == {"gradients", "features"}
    again = Preparation(config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})}))
    found = again.run(pool, methods, target=compare_data / "target.jsonl")
    assert found.store.fingerprint() == made.store.fingerprint()
    assert again._tools is None


def test_what_another_method_reads_later_is_added(make_spec, compare_data, tmp_path):
    """And is what it would be alone; what was there stays."""
    alone, config = make_spec(tmp_path / "alone").config, make_spec(tmp_path / "both").config
    pool = load_pool(config.data.pool, config.data)
    first = Preparation(config).run(pool, parse_methods("rds,ifd"), target=compare_data / "target.jsonl").store
    both = Preparation(config).run(pool, parse_methods("unimax,ifd")).store
    other = Preparation(alone).run(pool, parse_methods("unimax")).store
    assert {*both.arrays} == {"gradient", "embedding", "embedding_weighted"}
    np.testing.assert_array_equal(both.matrix(array="embedding"), other.matrix(array="embedding"))
    np.testing.assert_array_equal(both.column("ifd"), first.column("ifd"))
    np.testing.assert_array_equal(
        spicerack.select(both, "unimax", 4).indices, spicerack.select(other, "unimax", 4).indices
    )
    with pytest.raises(StoreError, match="has no array 'states'; it has"):
        both.matrix(array="states")
    with pytest.raises(StoreError, match=r"has no column 'nope'; it has .*ifd"):
        both.column("nope")


def test_a_target_that_no_method_reads_costs_no_pass_and_that_is_said(make_spec, compare_data, tmp_path):
    config = make_spec(tmp_path).config
    pool = load_pool(config.data.pool, config.data)
    made = Preparation(config).run(pool, parse_methods("spice,random,none"), target=compare_data / "target.jsonl")
    assert made.target is None
    assert not (tmp_path / "target").exists()
    assert ("target", "not read") in [choice[:2] for choice in made.choices]


def test_what_a_trim_reads_is_made_of_the_pool_and_not_of_the_target(make_spec, compare_data, tmp_path):
    config = make_spec(tmp_path).config
    pool = load_pool(config.data.pool, config.data)
    towards = "t=spice:objective=transductive,target=true,trim_above=0.9,trim_by=mismatch"
    made = Preparation(config).run(pool, parse_methods([towards]), target=compare_data / "target.jsonl")
    assert len(made.store.column("mismatch")) == 24
    assert made.target is not None
    assert made.target.features is None


def test_what_a_trim_reads_is_read_by_its_method():
    plain, by_loss, by_ifd = parse_methods(["random", "a=random:trim=0.2", "b=random:trim=0.2,trim_by=ifd"])
    assert needs_of_method(plain).columns == ()
    assert needs_of_method(by_loss).columns == ("loss_mean",)
    assert needs_of_method(by_ifd).columns == ("ifd",)
    (above,) = parse_methods(["c=random:trim_above=0,trim_by=mismatch"])
    assert needs_of_method(above).columns == ("mismatch",)


def test_rows_of_other_content_are_refused_though_their_ids_are_the_same(make_spec, tmp_path):
    """A comparison gone on with, and given another target."""
    config = make_spec(tmp_path).config
    for name, words in (("sums", "one and one"), ("laws", "judge the case")):
        lines = [json.dumps({"id": i, "prompt": f"{words} {i}?", "completion": f"{words[::-1]} {i}"}) for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    sums, laws = (load_pool(str(tmp_path / f"{name}.jsonl"), DataConfig()) for name in ("sums", "laws"))
    folder = tmp_path / "target"
    made = Preparation(config).gradients(sums, folder)
    assert Preparation(config).gradients(sums, folder).fingerprint() == made.fingerprint()
    with pytest.raises(DataError, match=r"target is a gradient store of other rows than laws.jsonl: .* other content"):
        Preparation(config).gradients(laws, folder)
