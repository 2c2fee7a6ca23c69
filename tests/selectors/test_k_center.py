"""k-center: farthest first, from the row nearest to the mean."""

import itertools

import numpy as np
import pytest

from spicerack.selectors import select


@pytest.fixture
def G():
    rng = np.random.default_rng(5)
    return rng.standard_normal((60, 5)) * rng.lognormal(0.0, 0.5, (60, 1))


def unit(G):
    return G / np.linalg.norm(G, axis=1, keepdims=True)


def plain_loop(X, count):
    picks = [int(np.argmin(np.linalg.norm(X - X.mean(axis=0), axis=1)))]
    while len(picks) < count:
        distance = np.linalg.norm(X[:, None] - X[picks][None], axis=2).min(axis=1)
        picks.append(int(np.argmax(distance)))
    return picks


@pytest.mark.parametrize("form", ["unit", "plain"])
def test_picks_equal_the_plain_loop(G, form):
    X = unit(G) if form == "unit" else G
    selection = select(G, "k_center", 25, rows=form)
    assert selection.indices.tolist() == plain_loop(X, 25)
    distance = np.linalg.norm(X[:, None] - X[selection.indices][None], axis=2).min(axis=1)
    rest = np.delete(np.arange(60), selection.indices)
    np.testing.assert_allclose(selection.scores[rest], distance[rest], rtol=1e-4)
    assert selection.manifest["findings"]["radius"] == pytest.approx(distance.max(), rel=1e-4)


def test_the_radius_is_at_most_twice_the_best(G):
    X = unit(G[:9])
    apart = np.linalg.norm(X[:, None] - X[None], axis=2)
    best = min(apart[:, list(some)].min(axis=1).max() for some in itertools.combinations(range(9), 3))
    assert select(G[:9], "k_center", 3).manifest["findings"]["radius"] <= 2 * best + 1e-6


def test_copies_come_after_everything_else_and_in_order(G):
    twice = np.vstack([G[:8], G[:8]])
    indices = select(twice, "k_center", 16).indices.tolist()
    assert sorted(indices[:8]) == list(range(8))
    assert indices[8:] == list(range(8, 16))


def test_forced_rows_are_centers(G):
    selection = select(G, "k_center", 10, include=[4, 50])
    assert selection.indices[:2].tolist() == [4, 50]
    X = unit(G)
    distance = np.linalg.norm(X[:, None] - X[[4, 50]][None], axis=2).min(axis=1)
    assert selection.indices[2] == np.argmax(distance)
