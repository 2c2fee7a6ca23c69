"""Spherical k-means finds what was planted, on rows in any blocks; the worst of each group are its highest losses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spicerack.information.clusters import cluster_directions, worst_of_groups


def planted(n=300, k=16, count=4, noise=0.15, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.linalg.qr(rng.standard_normal((k, count)))[0].T
    truth = rng.integers(0, count, n)
    X = centers[truth] + noise * rng.standard_normal((n, k)) / np.sqrt(k)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), truth


def blocks_of(X, size):
    return lambda: ((slice(at, min(at + size, len(X))), X[at : at + size]) for at in range(0, len(X), size))


def test_planted_clusters_are_found_in_blocks_of_any_size():
    X, truth = planted()
    usable = np.arange(300) != 7
    labels = cluster_directions(blocks_of(X, 64), usable, 4)
    assert labels[7] == -1
    pairs = {(t, label) for t, label, u in zip(truth, labels, usable, strict=True) if u}
    assert len(pairs) == 4
    assert np.array_equal(labels, cluster_directions(blocks_of(X, 300), usable, 4))


def test_a_pool_above_the_sample_is_clustered_too(monkeypatch):
    monkeypatch.setattr("spicerack.information.clusters.SAMPLE", 60)
    X, truth = planted()
    labels = cluster_directions(blocks_of(X, 50), np.ones(300, dtype=bool), 4)
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4


def test_fewer_distinct_rows_than_clusters():
    X = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = cluster_directions(blocks_of(X, 5), np.ones(12, dtype=bool), 8)
    assert len(set(labels.tolist())) == 3
    assert all(len(set(labels[at : at + 4].tolist())) == 1 for at in (0, 4, 8))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10), st.booleans()), min_size=1, max_size=40),
    st.floats(0, 0.99),
)
def test_the_worst_of_a_group_are_above_the_rest_of_it(rows, share):
    labels = np.array([row[0] for row in rows])
    losses = np.array([row[1] for row in rows])
    eligible = np.array([row[2] for row in rows])
    worst = worst_of_groups(losses, labels, eligible, share)
    assert eligible[worst].all()
    for label in range(4):
        members = np.flatnonzero(eligible & (labels == label))
        out = np.intersect1d(members, worst)
        rest = np.setdiff1d(members, worst)
        assert len(out) == int(share * len(members))
        if len(out) and len(rest):
            assert losses[out].min() >= losses[rest].max()


def test_a_loss_that_is_not_finite_goes_first():
    losses = np.array([1.0, np.nan, 3.0, 2.0])
    assert worst_of_groups(losses, np.zeros(4, dtype=int), np.ones(4, dtype=bool), 0.5).tolist() == [1, 2]


def test_quotas_over_clusters_and_trim_are_options_of_select():
    import spicerack

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


def test_a_trim_by_another_column_leaves_rows_without_a_value():
    import spicerack

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


def test_rows_above_a_value_are_never_picked_whatever_their_group():
    import spicerack

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
    assert picked["reason"] == "all that the trim leaves, fewer than the share 1"
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
    with pytest.raises(spicerack.SpicerackError, match=r"trim leaves no row: 20 rows .*; give a higher trim_above"):
        spicerack.select(X, "random", 5, trim_above=-1.0, columns={"loss_mean": np.arange(20.0)})


def test_rows_left_by_a_trim_stand_for_the_whole_of_their_group():
    """In the pool as its own target: the picks are those for a target in which they are repeated as often."""
    import spicerack

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
