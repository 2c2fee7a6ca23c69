"""Spherical k-means finds what was planted, on rows in any blocks; the worst of each group are its highest losses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spicerack.information.clusters import cluster_directions, worst_of_groups


def blocks_of(X, size):
    return lambda: ((slice(at, min(at + size, len(X))), X[at : at + size]) for at in range(0, len(X), size))


def test_planted_clusters_are_found_in_blocks_of_any_size(planted):
    X, truth = planted()
    usable = np.arange(300) != 7
    labels = cluster_directions(blocks_of(X, 64), usable, 4)
    assert labels[7] == -1
    pairs = {(t, label) for t, label, u in zip(truth, labels, usable, strict=True) if u}
    assert len(pairs) == 4
    assert np.array_equal(labels, cluster_directions(blocks_of(X, 300), usable, 4))


def test_a_pool_above_the_sample_is_clustered_too(planted, monkeypatch):
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
