"""Trims: rows that are never picked because a column's value is high, and what those that stay stand for."""

import numpy as np
import pytest

import spicerack


def test_quotas_over_clusters_and_trim_are_options_of_select(planted):
    X, truth = planted(n=80)
    losses = np.arange(80.0)
    chosen = spicerack.select(X, "spice", 8, quotas="proportional", groups="clusters:4")
    sizes = np.bincount(truth, minlength=4) * 8 / 80
    taken = np.bincount(truth[chosen.indices], minlength=4)
    assert ((np.floor(sizes) <= taken) & (taken <= np.ceil(sizes))).all()
    trimmed = spicerack.select(X, "random", 0.99, trim=0.25, columns={"loss_mean": losses}, trim_groups="clusters:4")
    for cluster in range(4):
        members = np.flatnonzero(truth == cluster)
        left = np.setdiff1d(members, trimmed.indices)
        assert set(left) >= set(members[len(members) - len(members) // 4 :])
    assert trimmed.manifest["choices"][0]["name"] == "trim"
    kept = spicerack.select(X, "random", 5, trim=0.5, columns={"loss_mean": losses}, include=[79])
    assert 79 in kept.indices
    with pytest.raises(spicerack.SpicerackError, match="expected a share"):
        spicerack.select(X, "random", 5, trim=1.0, columns={"loss_mean": losses})
    with pytest.raises(spicerack.SpicerackError, match="loss_mean"):
        spicerack.select(X, "random", 5, trim=0.2)


def test_a_trim_by_another_column_leaves_rows_without_a_value(planted):
    X, _ = planted(n=20)
    values = np.arange(20.0)
    values[[18, 19]] = np.nan
    options = {"trim": 0.25, "trim_groups": ["a"] * 20}
    trimmed = spicerack.select(X, "random", 16, **options, trim_by="ifd", columns={"ifd": values})
    assert sorted(trimmed.indices) == [*range(14), 18, 19]
    assert set(trimmed.excluded["reason"]) == {"trimmed: a high ifd within its group"}
    assert "2 rows have no ifd, and stay" in trimmed.manifest["choices"][0]["reason"]
    with pytest.raises(spicerack.SpicerackError, match="reads the column 'ifd'"):
        spicerack.select(X, "random", 16, **options, trim_by="ifd")
    with pytest.raises(spicerack.SpicerackError, match="give trim="):
        spicerack.select(X, "random", 16, trim_by="ifd", columns={"ifd": values})


def test_rows_above_a_value_are_never_picked_whatever_their_group(planted):
    X, _ = planted(n=20)
    values = np.arange(20.0)
    values[[3, 19]] = np.nan
    columns = {"mismatch": values, "loss_mean": values}
    trimmed = spicerack.select(X, "random", 1.0, trim_above=12.0, trim_by="mismatch", columns=columns)
    assert sorted(trimmed.indices) == [*range(13), 19]  # a value as high as the bound stays, and a row without one
    assert set(trimmed.excluded["reason"]) == {"trimmed: mismatch above 12"}
    choice, picked = trimmed.manifest["choices"]
    assert (choice["name"], choice["value"]) == ("trim_above", 12.0)
    assert choice["reason"] == "6 rows with mismatch above it are left out; 2 rows have no mismatch, and stay"
    assert (picked["name"], picked["value"]) == ("picked", 14)
    assert picked["reason"] == "all rows that are left; the budget asks for 20"
    half = spicerack.select(X, "random", "50%", trim_above=12.0, trim_by="mismatch", columns=columns)
    assert len(half.indices) == 10  # of the pool, not of what is left
    assert len(half.manifest["choices"]) == 1
    by_loss = spicerack.select(X, "random", 1.0, trim_above=0.0, columns=columns, include=[7])
    assert sorted(by_loss.indices) == [0, 7]  # a loss that is not finite is above any; a forced row stays
    with pytest.raises(spicerack.SpicerackError, match="give one of them"):
        spicerack.select(X, "random", 5, trim=0.1, trim_above=1.0, columns=columns)
    with pytest.raises(spicerack.SpicerackError, match="trim_groups say"):
        spicerack.select(X, "random", 5, trim_groups=["a"] * 20)
    with pytest.raises(spicerack.SpicerackError, match=r"trim_above=nan, expected a number"):
        spicerack.select(X, "random", 5, trim_above=np.nan, columns=columns)
    with pytest.raises(
        spicerack.SpicerackError, match=r"trim_above leaves no row: 20 rows .*; give another trim_above"
    ):
        spicerack.select(X, "random", 5, trim_above=-1.0, columns={"loss_mean": np.arange(20.0)})


def test_forced_rows_are_not_counted_as_left_out(planted):
    X, _ = planted(n=10)
    values = {"columns": {"loss_mean": -np.arange(10.0)}, "include": [0]}
    for given, name in (({"trim": 0.3, "trim_groups": ["a"] * 10}, "trim"), ({"trim_above": -2.5}, "trim_above")):
        chosen = spicerack.select(X, "random", 1.0, **given, **values)
        choice = next(choice for choice in chosen.manifest["choices"] if choice["name"] == name)
        assert choice["reason"].startswith("2 rows ")
        assert chosen.excluded["index"].tolist() == [1, 2]


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.29, 0.57, 0.58])
def test_a_share_of_a_hundred_rows_is_that_many(planted, share):
    """0.29 * 100 is 28.999999999999996 in float64."""
    X, _ = planted(n=100)
    given = {"trim": share, "trim_groups": ["a"] * 100, "columns": {"loss_mean": np.arange(100.0)}}
    assert len(spicerack.select(X, "random", 1.0, **given).indices) == 100 - round(100 * share)


@pytest.mark.parametrize("given", [{"quotas": "proportional", "groups": "clusters:2"}, {"trim": 0.2}])
def test_clusters_are_of_gradients_and_a_store_without_them_is_refused(given, tmp_path, write_features):
    rows = np.random.default_rng(0).standard_normal((20, 4))
    store = write_features(tmp_path / "s", {"embedding": rows}, columns=[("loss_mean", np.arange(20.0))])
    with pytest.raises(spicerack.SpicerackError, match=r"no array 'gradient' .*take gradients with"):
        spicerack.select(store, "k_center", 5, rows_from="embeddings", **given)


def test_rows_left_by_a_trim_stand_for_the_whole_of_their_group(planted):
    """In the pool as its own target: the picks are those for a target in which they are repeated as often."""
    X, _ = planted(n=30, noise=1.0)
    values = np.zeros(30)
    values[[0, 3, 4, 7, 9]] = 2.0  # half of group a, nothing of b, all of c
    groups = ["a"] * 10 + ["b"] * 15 + ["c"] * 5
    values[25:] = 2.0
    left = np.flatnonzero(values < 1.0)
    target = X[np.repeat(left, [2] * 5 + [1] * 15)]
    options = {"objective": "transductive", "rows": "unit", "compare_penalty": False, "penalty": 0.0, "certify": False}
    trim = {"trim_above": 1.0, "trim_by": "mismatch", "trim_groups": groups, "columns": {"mismatch": values}}
    trimmed = spicerack.select(X, "spice", 8, **options, **trim)
    told = spicerack.select(X, "spice", 8, target, **options, exclude=np.flatnonzero(values > 1.0).tolist())
    other = spicerack.select(X, "spice", 8, X[left], **options, exclude=np.flatnonzero(values > 1.0).tolist())
    assert trimmed.indices.tolist() == told.indices.tolist()
    assert np.allclose(trimmed.trace["gain"], told.trace["gain"], rtol=1e-5)
    assert not np.allclose(trimmed.trace["gain"], other.trace["gain"], rtol=1e-3)
    reasons = {choice["name"]: choice["reason"] for choice in trimmed.manifest["choices"]}
    assert reasons["target"].endswith("those that the trim leaves for the whole of their group")
