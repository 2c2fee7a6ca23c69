"""RDS+: target samples take turns, or rank by their largest or mean cosine."""

import numpy as np
import pytest

from spicerack.errors import ConfigurationError, GradientError
from spicerack.information.neighbors import largest, nearest
from spicerack.selectors import select

RNG = np.random.default_rng(0)
POOL, TARGET = RNG.standard_normal((200, 6)), RNG.standard_normal((7, 6))


def unit(G):
    return G / np.linalg.norm(G, axis=1, keepdims=True)


def plain_turns(cosines, count):
    """(m, n) to picks: the same turns without sorted heads."""
    picks, takers = [], []
    while len(picks) < count:
        left = cosines.copy()
        left[:, picks] = -np.inf
        for j in sorted(range(len(cosines)), key=lambda j: (-left[j].max(), j)):
            if len(picks) == count:
                break
            now = cosines[j].copy()
            now[picks] = -np.inf
            picks.append(int(np.argmax(now)))
            takers.append(j)
    return picks, takers


@pytest.mark.parametrize("count", [3, 7, 100, 200])
def test_turns_equal_the_plain_loop(count):
    cosines = (unit(TARGET) @ unit(POOL).T).astype(np.float32)
    selection = select(POOL, "rds", count, TARGET)
    picks, takers = plain_turns(cosines, count)
    assert selection.indices.tolist() == picks
    assert selection.trace["target"].tolist() == takers


def test_ranks_by_the_largest_and_the_mean_cosine():
    cosines = unit(TARGET) @ unit(POOL).T
    for aggregation, values in (("max", cosines.max(axis=0)), ("mean", cosines.mean(axis=0))):
        selection = select(POOL, "rds", 20, TARGET, aggregation=aggregation)
        assert selection.indices.tolist() == np.argsort(-values)[:20].tolist()
        np.testing.assert_allclose(selection.scores, values, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["round_robin", "max"])
def test_a_copy_of_a_target_sample_is_first(aggregation):
    pool = POOL.copy()
    pool[123] = 5.0 * TARGET[3]
    assert select(pool, "rds", 5, TARGET, aggregation=aggregation).indices[0] == 123


def test_it_reads_the_weighted_embedding_of_pool_and_target(tmp_path, write_features):
    pool = write_features(tmp_path / "pool", {"embedding": POOL[:, ::-1], "embedding_weighted": POOL})
    target = write_features(tmp_path / "target", {"embedding": TARGET[:, ::-1], "embedding_weighted": TARGET})
    expected = select(POOL, "rds", 30, TARGET).indices
    np.testing.assert_array_equal(select(pool, "rds", 30, target).indices, expected)
    np.testing.assert_array_equal(select(pool, "rds", 30, {"a": target}).indices, expected)


def test_a_pool_of_several_checkpoints_has_one_set_of_features(tmp_path, write_features):
    from spicerack.store.collection import Member, begin_collection

    begin_collection(tmp_path / "pool", [Member("epoch-1", 0.5), Member("epoch-2", 0.5)])
    for name in ("epoch-1", "epoch-2"):
        write_features(tmp_path / "pool" / name, {"gradient": POOL[:, :3]})
    write_features(tmp_path / "pool" / "features", {"embedding_weighted": POOL})
    target = write_features(tmp_path / "target", {"embedding_weighted": TARGET})
    expected = select(POOL, "rds", 30, TARGET).indices
    np.testing.assert_array_equal(select(tmp_path / "pool", "rds", 30, target).indices, expected)


def test_a_target_without_use_is_named(tmp_path, write_features):
    with pytest.raises(ConfigurationError, match="needs a target"):
        select(POOL, "rds", 3)
    pool = write_features(tmp_path / "pool", {"embedding_weighted": POOL})
    narrow = write_features(tmp_path / "narrow", {"embedding_weighted": TARGET[:, :4]})
    with pytest.raises(GradientError, match="4 dimensions"):
        select(pool, "rds", 3, narrow)
    other = write_features(tmp_path / "other", {"embedding": TARGET})
    with pytest.raises(ConfigurationError, match="no array 'embedding_weighted'"):
        select(pool, "rds", 3, other)


def test_features_of_another_model_are_refused(tmp_path, write_features):
    from spicerack.errors import StoreMismatchError

    pool = write_features(tmp_path / "pool", {"embedding_weighted": POOL}, settings={"model": "a"})
    target = write_features(tmp_path / "target", {"embedding_weighted": TARGET}, settings={"model": "b"})
    with pytest.raises(StoreMismatchError, match="model is b, the pool's a"):
        select(pool, "rds", 3, target)


def test_nearest_neighbors_equal_a_full_sort(monkeypatch):
    monkeypatch.setattr("spicerack.information.neighbors.BLOCK_BYTES", 200 * 8 * 16)
    X = unit(POOL)
    rows, products = nearest(X, X, 9, without_self=True)
    truth = X @ X.T
    np.fill_diagonal(truth, -np.inf)
    np.testing.assert_array_equal(rows, np.argsort(-truth, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(products, np.take_along_axis(truth, rows, axis=1), rtol=1e-6)


def test_equal_values_come_in_order():
    values = np.array([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    assert largest(values, 2).tolist() == [[1, 2], [0, 1], [4, 3]]
    assert largest(values, 0).shape == (3, 0)
