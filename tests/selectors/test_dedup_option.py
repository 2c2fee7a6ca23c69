"""Near-duplicates: one of them stays, the others are never picked nor counted, whatever the method."""

import json

import numpy as np
import pytest

import spicerack


@pytest.fixture
def repeated():
    """Twenty directions, number i repeated i + 1 times, lengths apart; and the direction of each row."""
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((32, 20)))[0].T
    truth = rng.permutation(np.repeat(np.arange(20), np.arange(1, 21)))
    return (X[truth] + 1e-3 * rng.standard_normal((truth.size, 32))) * rng.uniform(0.5, 2.0, truth.size)[:, None], truth


def firsts(truth):
    return sorted(np.unique(truth, return_index=True)[1])


@pytest.mark.parametrize("method", ["random", "spice", "fisher", "k_center"])
def test_one_of_each_is_left(repeated, method):
    X, truth = repeated
    chosen = spicerack.select(X, method, 1.0, dedup=0.9)
    assert sorted(chosen.indices) == firsts(truth)
    assert set(chosen.excluded["reason"]) == {"near-duplicate of another row"}
    told = {choice["name"]: choice for choice in chosen.manifest["choices"]}
    assert told["dedup"]["value"] == 0.9
    assert told["dedup"]["reason"].startswith("190 rows are left out")
    assert told["picked"]["reason"] == "all rows that are left; the budget asks for 210"
    assert chosen.manifest["excluded_by_caller"] == 0


def test_a_share_is_of_the_pool_before(repeated):
    X, _ = repeated
    assert len(spicerack.select(X, "random", "5%", dedup=0.9).indices) == round(0.05 * 210)


def test_the_pool_as_its_own_target_counts_each_once(repeated):
    """The picks are those of a pool in which nothing is repeated."""
    X, truth = repeated
    options = {"objective": "transductive", "rows": "unit"}
    chosen = spicerack.select(X, "spice", 8, dedup=0.9, **options)
    once = np.array(firsts(truth))
    assert chosen.indices.tolist() == once[spicerack.select(X[once], "spice", 8, **options).indices].tolist()
    assert chosen.indices.tolist() != spicerack.select(X, "spice", 8, **options).indices.tolist()


def test_the_lowest_of_a_trims_column_stays_and_a_forced_row_too(repeated):
    X, truth = repeated
    values = np.random.default_rng(1).permutation(truth.size).astype(float)
    trimmed = {"trim_above": 150.0, "trim_by": "mismatch", "columns": {"mismatch": values}}
    chosen = spicerack.select(X, "random", 1.0, dedup=0.9, **trimmed)
    lowest = {int(np.flatnonzero(truth == t)[np.argmin(values[truth == t])]) for t in range(20)}
    assert set(chosen.indices) == {i for i in lowest if values[i] <= 150.0}
    forced = [
        int(np.flatnonzero(truth == 19)[np.argmax(values[truth == 19])]),
        *np.flatnonzero(truth == 18)[:2].tolist(),
    ]
    chosen = spicerack.select(X, "random", 1.0, dedup=0.9, include=forced, **trimmed)
    assert chosen.indices[:3].tolist() == forced  # near-duplicates of each other among them
    assert len([i for i in chosen.indices if truth[i] in (18, 19)]) == 3


def test_rows_are_compared_with_a_forced_row_that_is_near_another():
    angles = np.deg2rad([0.0, 20.0, 40.0, 90.0])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert sorted(spicerack.select(X, "random", 1.0, dedup=0.9).indices) == [0, 2, 3]
    chosen = spicerack.select(X, "random", 1.0, dedup=0.9, include=[0, 1])
    assert sorted(chosen.indices) == [0, 1, 3]
    assert chosen.manifest["choices"][0]["reason"].startswith("1 rows are left out")


@pytest.mark.parametrize("value", [0.0, 0.49, 1.01, float("nan"), True, "0.9"])
def test_what_is_no_cosine_is_refused(repeated, value):
    with pytest.raises(spicerack.SpicerackError, match=r"dedup=.*, expected a cosine of at least 0.5 and at most 1"):
        spicerack.select(repeated[0], "random", 5, dedup=value)


def test_a_run_takes_gradients_for_it(tiny_folder, tmp_path):
    """Random reads none, and near-duplicates are of gradients."""
    rows = [{"instruction": f"say {i % 10}", "output": f"{i % 10 * 7919}"} for i in range(30)]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "data": {"pool": str(pool)},
        "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
        "labels": {"max_length": 64},
        "gradients": {"dimension": 32},
        "selection": {"method": "random", "budget": 1.0, "dedup": 0.999},
        "output_dir": str(tmp_path / "run"),
    }
    done = spicerack.run(config)
    assert sorted(done.selection.indices) == list(range(10))
    assert done.store.excluded() == []
    out = [json.loads(line) for line in (tmp_path / "run" / "selected.jsonl").read_text().splitlines()]
    assert len({row["output"] for row in out}) == 10
