"""TSDS: the transport equals its walk, the mass is one and lies near the target, copies share, draws are seeded."""

import numpy as np
import pytest

from spicerack.information.transport import densities, mass_of_rows, transport, transport_truth
from spicerack.selectors import select


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return np.vstack([rng.normal(center, 0.3, (50, 8)) for center in (np.eye(8)[0], np.eye(8)[1], -np.eye(8)[0])])


@pytest.fixture(scope="module")
def target(pool):
    return np.random.default_rng(1).normal(np.eye(8)[0], 0.2, (6, 8))


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("K", [1, 2, 9])
def test_transport_equals_the_walk(alpha, K):
    rng = np.random.default_rng(3)
    distances = np.sort(rng.uniform(0.1, 2.0, (5, K)), axis=1)
    density = rng.uniform(1.0, 3.0, (5, K))
    mass, size = transport(distances, density, alpha=alpha, scale=0.7)
    truth, expected = transport_truth(distances, density, alpha=alpha, scale=0.7)
    assert size == pytest.approx(expected)
    np.testing.assert_allclose(mass, truth, atol=1e-12)
    np.testing.assert_allclose(mass.sum(axis=1), 0.2)


def test_distance_alone_sends_all_to_the_nearest_and_spread_alone_to_all():
    distances, density = np.tile(np.arange(1.0, 6.0), (3, 1)), np.ones((3, 5))
    nearest = transport(distances, density, alpha=1.0, scale=1.0)[0]
    np.testing.assert_allclose(nearest, [[1 / 3, 0, 0, 0, 0]] * 3)
    even = transport(distances, density, alpha=1e-9, scale=1.0)[0]
    np.testing.assert_allclose(even, 1 / 15)


def test_densities_equal_a_plain_loop():
    X = unit(np.random.default_rng(0).standard_normal((20, 4)))
    truth = [sum(max(0.0, 1 - ((x - y) ** 2).sum() / 0.81) for y in X) for x in X]
    np.testing.assert_allclose(densities(X, 0.9), truth, rtol=1e-9)
    assert (densities(X, 0.0) == 1.0).all()


def test_copies_share_the_mass_of_one():
    near, far = np.array([1.0, 0.1]), np.array([0.8, 0.6])
    X = unit(np.array([near, near, near, far]))
    density = densities(X, 0.3)
    neighbors = np.array([[0, 1, 2, 3]])
    distances = np.linalg.norm(X - np.array([1.0, 0.0]), axis=1)[None]
    mass = mass_of_rows(transport(distances, density[neighbors], alpha=0.3, scale=1.0)[0], neighbors, 4)
    assert density.tolist() == pytest.approx([3, 3, 3, 1])
    np.testing.assert_allclose(mass, [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_the_mass_lies_in_the_targets_cluster(pool, target):
    selection = select(pool, "tsds", 20, target, neighbors=30)
    assert np.nansum(selection.scores) == pytest.approx(1.0)
    assert selection.scores[:50].sum() > 0.99
    assert (selection.indices < 50).all()
    found = selection.manifest["findings"]
    assert found["rows_with_mass"] == np.count_nonzero(selection.scores)
    assert found["picks_without_mass"] == 0


def test_draws_follow_the_seed_and_the_mass(pool, target):
    first, again, other = (select(pool, "tsds", 10, target, seed=seed).indices.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    scores = select(pool, "tsds", 1, target).scores
    counts = np.bincount([select(pool, "tsds", 1, target, seed=seed).indices[0] for seed in range(400)], minlength=150)
    spread = np.sqrt(400 * scores * (1 - scores)) + 1e-9
    assert (np.abs(counts - 400 * scores) < 5 * spread + 1).all()


def test_the_largest_mass_can_be_taken_instead(pool, target):
    selection = select(pool, "tsds", 15, target, draw="top", seed=5)
    assert (np.diff(selection.trace["score"]) <= 1e-12).all()
    assert selection.trace["score"].min() >= np.delete(selection.scores, selection.indices).max() - 1e-12
    np.testing.assert_array_equal(selection.indices, select(pool, "tsds", 15, target, draw="top", seed=6).indices)


def test_a_budget_beyond_the_mass_goes_on_with_the_nearest_and_says_so(pool, target):
    selection = select(pool, "tsds", 60, target, neighbors=3, center=False)
    held = int(np.count_nonzero(selection.scores))
    assert held <= 18
    assert set(np.flatnonzero(selection.scores)) == set(selection.indices[:held])
    cosines = (unit(pool) @ unit(target).T).max(axis=1)
    rest = [i for i in np.argsort(-cosines) if selection.scores[i] == 0][: 60 - held]
    assert selection.indices[held:].tolist() == rest
    (choice,) = [choice for choice in selection.manifest["choices"] if choice["name"] == "without mass"]
    assert choice["value"] == 60 - held


def test_the_common_direction_is_taken_off(pool, target):
    shift = np.full(8, 5.0)
    here, moved = select(pool, "tsds", 15, target), select(pool + shift, "tsds", 15, target + shift)
    np.testing.assert_allclose(moved.scores, here.scores, atol=1e-6)
    alike = select(pool + shift, "tsds", 15, target + shift, center=False)
    assert np.count_nonzero(alike.scores) > np.count_nonzero(moved.scores)  # all are near to all
