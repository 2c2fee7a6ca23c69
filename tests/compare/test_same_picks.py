"""Cells of the same picks are trained once, and each has the result all the same."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from spicerack.compare import bench
from spicerack.compare.driver import Comparison, Watcher, compare
from spicerack.compare.plan import Budget, Cell, Method, parse_methods
from spicerack.compare.same_picks import share


def cell(label, seed=0, name="random"):
    return Cell(Method(label, name), Budget("2", 2, "rows-2"), seed)


def test_only_the_first_of_the_same_picks_and_seed_is_run():
    picks, other = np.array([3, 1]), np.array([1, 3])
    work = [
        (cell("a"), picks),
        (cell("b"), picks),
        (cell("in-another-order"), other),
        (cell("a", seed=1), picks),
        (cell("c"), picks),
    ]
    runs, twins = share(work, set())
    assert [str(one) for one, _ in runs] == ["a 2, seed 0", "in-another-order 2, seed 0", "a 2, seed 1"]
    assert [(twin.method.label, like.method.label) for twin, like in twins] == [("b", "a"), ("c", "a")]


def test_a_finished_cell_is_copied_and_a_finished_twin_is_left_alone():
    picks = np.array([3, 1])
    work = [(cell(label), picks) for label in "abc"]
    runs, twins = share(work, {cell("b").folder, cell("c").folder})
    assert runs == []
    assert [(twin.method.label, like.method.label) for twin, like in twins] == [("a", "b")]


def test_the_untrained_model_is_no_twin_of_a_training_on_no_row():
    nothing = np.array([], dtype=np.int64)
    runs, twins = share([(cell("full", name="full"), nothing), (cell("none", name="none"), nothing)], set())
    assert len(runs) == 2
    assert twins == []


def test_a_comparison_trains_the_same_picks_once(make_spec, tmp_path, monkeypatch):
    trained = []
    run = bench.Bench._train

    def counted(self, one, indices, folder):
        trained.append(one.method.label)
        return run(self, one, indices, folder)

    monkeypatch.setattr(bench.Bench, "_train", counted)
    lines = []
    comparison = Comparison(make_spec(tmp_path), parse_methods("a=random,b=random,fisher"), [4], seeds=(0,))
    results = compare(comparison, Watcher(say=lines.append))
    assert trained == ["a", "fisher"]
    assert any("b 4, seed 0: held-out loss" in line and "same picks as a 4, seed 0" in line for line in lines)
    a, b, fisher = results["cells"]
    assert (b["label"], b["trained_as"]) == ("b", "a 4, seed 0")
    assert "trained_as" not in a
    assert b["loss"] == a["loss"] != fisher["loss"]
    kept = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["trained_as"] for row in kept] == [None, "a 4, seed 0", None]

    monkeypatch.setattr("spicerack.models.loading.load_model", lambda *_: pytest.fail("a model was loaded"))
    later = parse_methods("a=random,b=random,c=random")
    again = compare(Comparison(make_spec(tmp_path), later, [4], seeds=(0,)))
    assert [one["loss"] for one in again["cells"]] == [a["loss"]] * 3
    copied = json.loads((tmp_path / "cells" / "c" / "rows-4" / "seed-0" / "result.json").read_text())
    assert (copied["label"], copied["trained_as"]) == ("c", "a 4, seed 0")

    read = compare(Comparison(make_spec(tmp_path / "there"), later, [4], seeds=(0,), also=[tmp_path]))
    assert [one.get("trained_as") for one in read["cells"]] == [None, "a 4, seed 0", "a 4, seed 0"]
