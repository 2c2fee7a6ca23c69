"""A whole comparison: every cell once, the same again, more later; the numbers those of its parts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import peft
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from spicerack.compare import bench
from spicerack.compare.driver import Comparison, Watcher, compare
from spicerack.compare.plan import parse_methods
from spicerack.compare.selections import check_methods
from spicerack.config import LabelConfig
from spicerack.errors import (
    BudgetError,
    ConfigurationError,
    DataError,
    ModelError,
    StoreMismatchError,
    UnknownNameError,
)
from spicerack.training.options import TrainConfig

METHODS = parse_methods("spice,random,t=spice:objective=transductive,target=true,full,none")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compare_data, make_spec):
    folder = tmp_path_factory.mktemp("comparison")
    comparison = Comparison(
        make_spec(folder),
        METHODS,
        ["25%", "200 tokens"],
        seeds=(0, 1),
        target=compare_data / "target.jsonl",
        flag_column="noise",
    )
    lines = []
    return folder, comparison, compare(comparison, Watcher(say=lines.append)), lines


def test_every_cell_is_there(finished):
    folder, _, results, lines = finished
    assert len(results["cells"]) == 2 * (3 * 2 + 1) + 1
    assert len([line for line in lines if line.startswith("[")]) == len(results["cells"])
    assert len(list(folder.glob("cells/*/*/*/result.json"))) == len(results["cells"])
    assert not list(folder.glob("cells/*/*/*/train"))
    table = pq.read_table(folder / "results.parquet").to_pylist()
    assert [row["loss"] for row in table] == [cell["loss"] for cell in results["cells"]]
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))


def test_the_summary_is_made_of_the_cells(finished):
    folder, _, results, _ = finished
    spice = next(row for row in results["summary"] if row["label"] == "spice" and row["budget"] == "25%")
    cells = [c for c in results["cells"] if c["label"] == "spice" and c["budget"] == "25%"]
    assert spice["per_seed"] == pytest.approx([cell["loss"] for cell in cells])
    assert spice["loss"]["mean"] == pytest.approx(np.mean([cell["loss"] for cell in cells]))
    random = next(row for row in results["summary"] if row["label"] == "random" and row["budget"] == "25%")
    assert spice["versus_random"]["mean"] == pytest.approx(spice["loss"]["mean"] - random["loss"]["mean"])
    assert spice["versus_random"]["seeds"] == 2
    assert random["versus_random"] is None
    picks = np.load(folder / "selections/spice/rows-6/seed-0/indices.npy")
    assert spice["samples"] == len(picks) == 6
    assert spice["flagged"] == pytest.approx(np.mean([i % 5 == 0 for i in picks]))
    assert spice["mix"]["shell"] == sum(i % 3 == 0 for i in picks)
    assert sum(results["pool"]["mix"].values()) == 24
    tokens = next(row for row in results["summary"] if row["label"] == "random" and row["budget"] == "200 tokens")
    assert tokens["tokens"] <= 200


def test_deterministic_picks_overlap_with_themselves(finished):
    overlap = finished[2]["overlap"]["25%"]
    assert overlap["labels"] == ["spice", "random", "t"]
    assert overlap["jaccard"][0][0] == 1.0
    assert overlap["jaccard"][1][1] < 1.0
    assert overlap["jaccard"][0][1] == overlap["jaccard"][1][0]


def test_the_full_pool_and_no_training_bound_the_others(finished):
    loss = {row["label"]: row["loss"]["mean"] for row in finished[2]["summary"] if row["budget"] in (None, "25%")}
    assert loss["full"] < loss["random"] < loss["none"]


def test_a_table_of_what_is_finished_runs_nothing(finished, monkeypatch):
    _, comparison, results, _ = finished
    monkeypatch.setattr(bench.Bench, "run", lambda *_: pytest.fail("a cell was run"))
    more = replace(
        comparison,
        methods=(*METHODS, *parse_methods("ifd,k_center")),
        seeds=(0, 1, 2),
        budgets=["25%", "50%"],
        finished=True,
    )
    lines = []
    found = compare(more, Watcher(say=lines.append))
    assert lines[-1] == "9 of 22 cells are finished; the table is of these"
    rows = {(row["label"], row["budget"]): row for row in results["summary"]}
    assert {(row["label"], row["budget"]) for row in found["summary"]} == {
        key for key in rows if key[1] in (None, "25%")
    }
    assert all(row["loss"] == rows[row["label"], row["budget"]]["loss"] for row in found["summary"])
    compare(comparison)  # all of it again
    with pytest.raises(ConfigurationError, match=r"no finished cell of these methods.*; leave out --finished"):
        compare(replace(more, methods=parse_methods("ifd")))
    with pytest.raises(ConfigurationError, match=r"no finished cell of these methods.*; leave out --finished"):
        compare(replace(more, methods=METHODS[:2], budgets=["50%"]))


def test_a_table_of_what_is_finished_needs_no_features(make_spec, tmp_path, monkeypatch):
    comparison = Comparison(make_spec(tmp_path), parse_methods("ifd"), [4], seeds=(0,))
    results = compare(comparison)
    shutil.rmtree(tmp_path / "gradients" / "features")
    monkeypatch.setattr("spicerack.models.loading.load_model", lambda *_: pytest.fail("a model was loaded"))
    assert compare(replace(comparison, finished=True))["summary"] == results["summary"]


def test_the_target_may_be_named_when_a_method_that_reads_it_is_asked_for(finished, monkeypatch):
    """Picks that do not depend on it are the same without."""
    _, comparison, results, _ = finished
    monkeypatch.setattr(bench.Bench, "run", lambda *_: pytest.fail("a finished cell was run"))
    again = compare(replace(comparison, methods=METHODS[:2], target=None))
    assert again["summary"] == [row for row in results["summary"] if row["label"] in ("spice", "random")]
    compare(comparison)  # all of it again


def test_again_nothing_is_run_and_the_results_are_the_same(finished, monkeypatch):
    _, comparison, results, _ = finished
    monkeypatch.setattr(bench.Bench, "run", lambda *_: pytest.fail("a finished cell was run"))
    monkeypatch.setattr("spicerack.models.loading.load_model", lambda *_: pytest.fail("a model was loaded"))
    assert compare(comparison) == results


def test_an_interrupted_comparison_goes_on(finished, make_spec, tmp_path, monkeypatch, compare_data):
    """The cells of the second run are those of an undisturbed one."""
    _, _, results, _ = finished
    comparison = Comparison(
        make_spec(tmp_path), METHODS, ["25%"], seeds=(0,), target=compare_data / "target.jsonl", flag_column="noise"
    )
    run = bench.Bench._train

    def interrupted(self, cell, indices, folder):
        if cell.method.label == "t":
            raise KeyboardInterrupt
        return run(self, cell, indices, folder)

    monkeypatch.setattr(bench.Bench, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(comparison)
    monkeypatch.setattr(bench.Bench, "_train", run)
    lines = []
    again = compare(comparison, Watcher(say=lines.append))
    assert lines[0] == "2 of 5 cells are finished already"
    expected = {(c["label"], c["budget"]): c["loss"] for c in results["cells"] if c["seed"] == 0}
    assert {(c["label"], c["budget"]): c["loss"] for c in again["cells"]} == {
        key: loss for key, loss in expected.items() if key[1] != "200 tokens"
    }


def test_features_that_were_interrupted_are_gone_on_with(make_spec, tmp_path):
    def interrupt(stage, rows, tokens, total):
        if stage == "features":
            raise KeyboardInterrupt

    comparison = Comparison(make_spec(tmp_path), parse_methods("ifd"), ["25%"], seeds=(0,))
    with pytest.raises(KeyboardInterrupt):
        compare(comparison, Watcher(progress=interrupt))
    assert not json.loads((tmp_path / "gradients/features/manifest.json").read_text())["complete"]
    assert len(compare(comparison)["cells"]) == 1


def test_a_recipe_that_did_not_fit_is_corrected_in_its_folder(make_spec, tmp_path):
    """The gradients stay, and so do the settings that they were made by."""
    methods, wrong = parse_methods("random"), TrainConfig(lora_target_modules="nosuch")
    with pytest.raises(ModelError, match="lora_target_modules=nosuch fits no module"):
        compare(Comparison(make_spec(tmp_path, recipe=wrong), methods, ["25%"], seeds=(0,)))
    made = (tmp_path / "gradients" / "manifest.json").read_bytes()
    spec = make_spec(tmp_path)
    shorter = spec.config.model_copy(update={"labels": LabelConfig(max_length=32)})
    with pytest.raises(StoreMismatchError, match=r"labels\.max_length was 64, now 32"):
        compare(Comparison(replace(spec, config=shorter), methods, ["25%"], seeds=(0,)))
    assert len(compare(Comparison(spec, methods, ["25%"], seeds=(0,)))["cells"]) == 1
    assert (tmp_path / "gradients" / "manifest.json").read_bytes() == made


def test_another_comparison_in_the_folder_is_refused(finished, make_spec):
    folder, comparison, _, _ = finished
    other = make_spec(folder, recipe=TrainConfig(lora_r=4))
    with pytest.raises(StoreMismatchError, match=r"recipe\.lora_r was 2, now 4"):
        compare(Comparison(other, METHODS, ["25%"], target=comparison.target))
    changed = parse_methods("spice:penalty=0.5,random")
    relabeled = parse_methods("spice=spice:penalty=0.5")
    compare_methods = (*relabeled, changed[1])
    with pytest.raises(ConfigurationError, match="give the method another label"):
        compare(Comparison(comparison.spec, compare_methods, ["25%"], seeds=(0,)))


@pytest.mark.parametrize(
    ("methods", "budgets", "error", "message"),
    [
        ("spyce", ["5%"], UnknownNameError, "did you mean 'spice'"),
        ("spice:penaltie=1", ["5%"], UnknownNameError, "did you mean 'penalty'"),
        ("t=spice:objective=transductive,target=true", ["5%"], ConfigurationError, "needs a target set"),
        ("full:seed=3", ["5%"], ConfigurationError, "has no options"),
        ("random", ["0%"], ConfigurationError, "'0%' is no share of the rows"),
        ("random", ["25%", "6"], ConfigurationError, "both mean rows 6"),
        ("random:seed=5", ["5%"], ConfigurationError, "seed is no option of a method here; --seeds has them"),
        ("spice:budget=10%", ["5%"], ConfigurationError, "budget is no option of a method here; --budgets has them"),
        ("random:trim=2", ["5%"], ConfigurationError, "trim=2, expected a share of at least 0 and below 1"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(finished, methods, budgets, error, message):
    with pytest.raises(error, match=message):
        compare(Comparison(finished[1].spec, parse_methods(methods), budgets))


def test_a_target_that_options_do_not_read_is_refused_before_the_work():
    check_methods(parse_methods("spice:objective=transductive,target=true"), has_target=True)
    with pytest.raises(ConfigurationError, match="objective='volume' reads no target"):
        check_methods(parse_methods("spice:target=true"), has_target=True)
    with pytest.raises(UnknownNameError, match="subtask 'math'"):
        check_methods(parse_methods("bids:task_weights={math: 2}"), has_target=True)


def test_what_a_pool_cannot_give_is_said_before_the_pass(finished, make_spec, tmp_path):
    methods = parse_methods("random,random:quotas={nowhere: 3}")
    with pytest.raises(UnknownNameError, match="nowhere"):
        compare(Comparison(make_spec(tmp_path), methods, ["25%"]))
    with pytest.raises(BudgetError, match="25"):
        compare(Comparison(make_spec(tmp_path), methods[:1], ["25"]))
    assert not (tmp_path / "gradients").exists()


def test_a_flag_that_no_row_has_is_an_error(finished):
    with pytest.raises(DataError, match=r"no row of pool\.jsonl has the column 'nois'"):
        compare(Comparison(finished[1].spec, METHODS[:2], ["25%"], seeds=(0,), flag_column="nois"))


def test_a_store_of_another_pool_is_refused(finished, make_spec, tmp_path):
    folder = finished[0]
    with pytest.raises(DataError, match="is a gradient store of other rows"):
        compare(Comparison(make_spec(tmp_path), METHODS[:2], ["25%"], store=folder / "target"))


@pytest.mark.slow
def test_workers_find_what_one_process_finds(finished, make_spec, tmp_path):
    methods = parse_methods("random,none")
    one = finished[2]
    both = compare(Comparison(make_spec(tmp_path), methods, ["25%"], seeds=(0, 1), parallel=2))
    expected = {(c["label"], c["budget"], c["seed"]): c["loss"] for c in one["cells"]}
    for cell in both["cells"]:
        assert cell["loss"] == pytest.approx(expected[cell["label"], cell["budget"], cell["seed"]], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flag_column": "nope"}, "no row of .* has the column 'nope'"),
        ({"target": "nosuch.jsonl"}, "no such file: nosuch.jsonl"),
        ({"by": "nope"}, "has no 'nope', which by= names"),
    ],
)
def test_a_slip_costs_no_pass_and_leaves_the_folder_free(make_spec, tmp_path, changes, message):
    spec = make_spec(tmp_path / "cmp")
    by = changes.pop("by", None)
    if by is not None:
        spec = replace(spec, measures=spec.measures.model_copy(update={"by": by}))
    methods = tuple(parse_methods("random"))
    with pytest.raises(DataError, match=message):
        compare(Comparison(spec, methods, [2], seeds=(0,), **changes))
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(("change", "message"), [({"source": None}, "has no 'source'"), ({"response": 7}, "response")])
def test_a_held_out_row_that_is_wrong_costs_no_pass(make_spec, compare_data, tmp_path, change, message):
    rows = [json.loads(line) for line in (compare_data / "test.jsonl").read_text().splitlines()]
    rows[5] |= change
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = make_spec(tmp_path / "cmp", test=str(tmp_path / "test.jsonl"))
    with pytest.raises(DataError, match=rf"test\.jsonl:6.*{message}"):
        compare(Comparison(spec, METHODS[:2], ["25%"], seeds=(0,)))
    assert not (tmp_path / "cmp").exists()


def test_an_adapter_is_for_the_gradients_alone(finished, make_spec, tiny_folder, tmp_path):
    """The cells train and measure the model itself."""
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), peft.LoraConfig(r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    spec = make_spec(tmp_path / "cmp")
    section = spec.config.model.model_copy(update={"adapter_name_or_path": str(tmp_path / "adapter")})
    spec, lines = replace(spec, config=spec.config.model_copy(update={"model": section})), []
    found = compare(Comparison(spec, parse_methods("random,none"), ["25%"], seeds=(0,)), Watcher(say=lines.append))
    expected = {(c["label"], c["budget"]): c["loss"] for c in finished[2]["cells"] if c["seed"] == 0}
    for cell in found["cells"]:
        assert cell["loss"] == pytest.approx(expected[cell["label"], cell["budget"]], rel=1e-6)
    assert [line for line in lines if line.startswith("adapter = none in the cells")]


def test_a_model_trained_on_in_place_is_another(make_spec, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    spec = make_spec(tmp_path / "cmp")
    section = spec.config.model.model_copy(update={"model_name_or_path": str(tmp_path / "model")})
    spec = replace(spec, config=spec.config.model_copy(update={"model": section}))
    comparison = Comparison(spec, METHODS[1:2], ["25%"], seeds=(0,))
    compare(comparison)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(StoreMismatchError, match=r"began with another model.*weights was .*, now "):
        compare(replace(comparison, seeds=(0, 1)))


def test_another_column_of_sources_is_refused(finished, make_spec, compare_data, tmp_path):
    spec = make_spec(tmp_path)
    compare(Comparison(spec, METHODS[1:2], ["25%"], seeds=(0,)))
    data = spec.config.data.model_copy(update={"source_column": "noise"})
    other = replace(spec, config=spec.config.model_copy(update={"data": data}))
    with pytest.raises(DataError, match=r"names the sources of .* by another column"):
        compare(Comparison(other, METHODS[1:2], ["25%"], seeds=(0, 1)))


def test_a_budget_in_other_words_is_one_series(make_spec, tmp_path):
    """25 % of 24 rows are 6."""
    first = Comparison(make_spec(tmp_path), METHODS[1:2], ["25%"], seeds=(0,))
    compare(first)
    compare(replace(first, budgets=["6"], seeds=(0, 1)))
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["budget"], row["seed"]) for row in rows] == [("6", 0), ("6", 1)]
