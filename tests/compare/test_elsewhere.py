"""Cells of other folders put in the table: what they hold is not run again, and counts as if it had been run here."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from spicerack.compare import bench
from spicerack.compare.driver import Comparison, Watcher, compare
from spicerack.compare.origins import origin_of
from spicerack.compare.plan import parse_methods
from spicerack.config import make_config
from spicerack.errors import ConfigurationError, DataError, StoreCorruptError, StoreMismatchError
from spicerack.passes import plan_pass
from spicerack.store.reader import GradientStore

METHODS = parse_methods("random,t=spice:objective=transductive,none")


@pytest.fixture(scope="module")
def there(tmp_path_factory, make_spec):
    """A comparison with two seeds, run on another machine."""
    folder = tmp_path_factory.mktemp("there")
    comparison = Comparison(make_spec(folder), METHODS, ["25%", "200 tokens"], seeds=(0, 1), flag_column="noise")
    return folder, comparison, compare(comparison)


def in_folder(comparison, make_spec, folder, **changes):
    return replace(comparison, spec=make_spec(folder), **changes)


def test_put_together_without_a_cell_of_its_own(there, make_spec, tmp_path, monkeypatch):
    """No pass, no training: the summary, the cells and the pool are those of the table."""
    folder, comparison, results = there
    monkeypatch.setattr(bench.Bench, "run", lambda *_: pytest.fail("a cell was run"))
    monkeypatch.setattr("spicerack.models.loading.load_model", lambda *_: pytest.fail("a model was loaded"))
    lines = []
    watcher = Watcher(say=lines.append)
    for finished in (True, False):
        found = compare(in_folder(comparison, make_spec, tmp_path, also=[folder], finished=finished), watcher)
        for section in ("summary", "pool", "overlap", "seeds", "budgets"):
            assert found[section] == results[section]
        assert [cell["loss"] for cell in found["cells"]] == [cell["loss"] for cell in results["cells"]]
    assert lines == [f"9 cells of {folder} are put in"] * 2


def test_what_the_first_cell_has_none_of_is_kept_of_the_others(there, make_spec, tmp_path):
    """The untrained model comes first, with picks of no source."""
    comparison = there[1]
    first = in_folder(comparison, make_spec, tmp_path, methods=METHODS[::-1], budgets=["25%"], seeds=(0,))
    mixes = {(cell["label"], cell["budget"]): cell["selection"]["mix"] for cell in compare(first)["cells"]}
    assert not mixes["none", None]
    assert len(mixes["random", "25%"]) == 2
    again = compare(in_folder(first, make_spec, tmp_path / "again", finished=True, also=[tmp_path]))
    assert {(cell["label"], cell["budget"]): cell["selection"]["mix"] for cell in again["cells"]} == mixes


def test_what_is_missing_there_is_run_here(there, make_spec, tmp_path, monkeypatch):
    folder, comparison, results = there
    ran = []
    run = bench.Bench.run
    monkeypatch.setattr(bench.Bench, "run", lambda self, cell, rows: ran.append(str(cell)) or run(self, cell, rows))
    more = in_folder(comparison, make_spec, tmp_path, seeds=(0, 1, 2), budgets=["25%"], also=[folder])
    found = compare(more)
    assert ran == ["random 25%, seed 2", "t 25%, seed 2"]
    rows = {row["label"]: row for row in found["summary"] if row["budget"] == "25%"}
    before = {row["label"]: row for row in results["summary"] if row["budget"] == "25%"}
    for label in ("random", "t"):
        assert rows[label]["seeds"] == 3
        assert rows[label]["per_seed"][:2] == before[label]["per_seed"]
    assert rows["t"]["samples"] == before["t"]["samples"]  # of a mean over the same picks
    assert {row["budget"] for row in found["summary"]} == {None, "25%", "200 tokens"}

    chain = in_folder(comparison, make_spec, tmp_path / "third", also=[tmp_path, folder], finished=True)
    lines = []
    assert compare(chain, Watcher(say=lines.append))["summary"] == found["summary"]
    assert [line.split()[0] for line in lines] == ["11", "0"]


def test_an_own_cell_counts_before_one_from_elsewhere(there, make_spec, tmp_path):
    folder, comparison, _ = there
    one = in_folder(comparison, make_spec, tmp_path, methods=METHODS[:1], budgets=["25%"], seeds=(0,))
    compare(one)
    path = next(tmp_path.glob("cells/random/*/seed-0/result.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": 7.0}))
    found = compare(replace(one, also=[folder]))
    (own,) = [c for c in found["cells"] if (c["label"], c["budget"], c["seed"]) == ("random", "25%", 0)]
    assert own["loss"] == 7.0
    assert len(found["cells"]) == 9


def test_the_table_holds_what_the_cells_found(there):
    folder, _, results = there
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    for row, cell in zip(rows, results["cells"], strict=True):
        assert row["loss"] == cell["loss"]
        assert row["samples"] == len(row["picks"]) == sum(v or 0 for k, v in row.items() if k.startswith("samples of"))
        assert np.isclose(np.mean(list(cell["groups"].values())), row["loss"])
        assert len(row["losses"]) > 3


def test_other_settings_are_refused_and_named(there, make_spec, tmp_path):
    folder, comparison, _ = there
    spec = make_spec(tmp_path)
    spec = replace(spec, recipe=spec.recipe.model_copy(update={"learning_rate": 0.5}))
    with pytest.raises(StoreMismatchError, match=r"cells of other settings: recipe.learning_rate was .*, now 0.5;"):
        compare(replace(comparison, spec=spec, also=[folder]))


def test_where_the_model_lies_does_not_matter(there, make_spec, tmp_path):
    folder, comparison, results = there
    spec = make_spec(tmp_path / "here")
    model = spec.config.model.model_name_or_path
    moved = tmp_path / "elsewhere" / str(model).rsplit("/", 1)[-1]
    moved.parent.mkdir()
    moved.symlink_to(model)
    config = spec.config.model_copy(
        update={"model": spec.config.model.model_copy(update={"model_name_or_path": str(moved)})}
    )
    found = compare(replace(comparison, spec=replace(spec, config=config), also=[folder], finished=True))
    assert found["summary"] == results["summary"]
    assert str(model) not in pq.read_metadata(folder / "results.parquet").metadata[b"spicerack"].decode()


def test_a_label_of_two_meanings_is_refused(there, make_spec, tmp_path):
    folder, comparison, _ = there
    methods = parse_methods("t=spice:rows=unit")
    with pytest.raises(ConfigurationError, match=r"'t' is .*transductive.*, and here .*unit.*give one of them another"):
        compare(in_folder(comparison, make_spec, tmp_path, methods=methods, also=[folder]))


def test_what_is_no_table_is_refused(there, make_spec, tmp_path):
    folder, comparison, _ = there
    table = pq.read_table(folder / "results.parquet")
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "older.parquet")
    (tmp_path / "cut.parquet").write_bytes((folder / "results.parquet").read_bytes()[:-100])
    cases = {
        "older": (DataError, "no table of a comparison's cells, or an older one"),
        "cut": (StoreCorruptError, "truncated or altered"),
        "none": (DataError, "there is no .*none.parquet; name the results.parquet of a comparison, or its folder"),
    }
    for name, (error, words) in cases.items():
        with pytest.raises(error, match=words):
            compare(in_folder(comparison, make_spec, tmp_path / "here", also=[tmp_path / f"{name}.parquet"]))


def test_cells_towards_another_target_are_refused(compare_data, make_spec, tmp_path):
    """The same label may not mean another target; by another label it is another method."""
    target = compare_data / "target.jsonl"
    methods = parse_methods("rds")
    one = Comparison(make_spec(tmp_path / "one"), methods, ["25%"], seeds=(0,), target=target)
    compare(one)
    (tmp_path / "other.jsonl").write_text("".join(target.read_text().splitlines(keepends=True)[:3]))
    other = in_folder(one, make_spec, tmp_path / "two", target=tmp_path / "other.jsonl", also=[tmp_path / "one"])
    with pytest.raises(StoreMismatchError, match=r"rds 25%, seed 0 of another comparison .*: target was .*, now "):
        compare(other)
    found = compare(replace(other, methods=parse_methods("math=rds")))
    assert {cell["label"] for cell in found["cells"]} == {"rds", "math"}
    (tmp_path / "copy.jsonl").write_text(target.read_text())
    again = in_folder(one, make_spec, tmp_path / "three", target=tmp_path / "copy.jsonl", also=[tmp_path / "one"])
    assert len(compare(again)["cells"]) == 1


def test_cells_by_other_gradients_are_refused(there, make_spec, compare_data, tiny_folder, tmp_path):
    """A method that reads none is put in."""
    folder, comparison, _ = there
    config = make_config(
        {
            "data": {"pool": str(compare_data / "pool.jsonl")},
            "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
            "labels": {"max_length": 64},
            "gradients": {"dimension": 16},
        }
    )
    plan_pass(config).run(tmp_path / "store")
    here = in_folder(comparison, make_spec, tmp_path / "cmp", store=tmp_path / "store", seeds=(0, 1, 2), also=[folder])
    with pytest.raises(StoreMismatchError, match=r"t 25%, seed 0 of another.*projection\.dimension was 32, now 16"):
        compare(here)
    assert len(compare(replace(here, methods=parse_methods("random"), budgets=["25%"]))["cells"]) == 10
    both = in_folder(here, make_spec, tmp_path / "both", methods=METHODS[1:2], also=[folder, tmp_path / "own"])
    own = in_folder(both, make_spec, tmp_path / "own", budgets=["25%"], seeds=(2,), also=[])
    compare(own)
    with pytest.raises(StoreMismatchError, match=r"t 25%, seed 2 of another.*projection\.dimension was 16, now 32"):
        compare(replace(both, finished=True))  # of two tables, and with no store at hand


def test_what_a_methods_picks_were_made_by(there, make_spec, compare_data):
    """Rows of the store as far as they are read; of what else is read, whose it is."""
    store = GradientStore.open(there[0] / "gradients")

    def read_by(text):
        return {*origin_of(parse_methods(text)[0], store, "abc")}

    model, gradients = {"model", "label_rule"}, {"parameters", "projection", "reduction", "optimizer_state"}
    assert read_by("random") == read_by("length") == read_by("full") == set()
    assert read_by("loss") == model
    assert read_by("spice") == read_by("random:dedup=0.9") == read_by("random:trim=0.2") == model | gradients
    assert read_by("random:quotas=proportional,groups=clusters:3") == model | gradients
    assert read_by("less") == model | gradients | {"target", "checkpoint checkpoint-0"}
