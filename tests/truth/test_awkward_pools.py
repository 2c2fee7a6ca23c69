"""Pools that break engines: each is selected from rightly, or refused with a reason, and never hangs."""

import itertools

import numpy as np
import pytest

from spicerack.errors import BudgetError, ConfigurationError, GradientError
from spicerack.information import greedy_truth
from spicerack.selectors import select

WAYS = (
    {"objective": "volume"},
    {"objective": "volume", "fisher": "diag"},
    {"objective": "volume", "rows": "unit"},
    {"objective": "volume", "penalty_unit": "gain", "center": True},
    {"objective": "transductive"},
    {"objective": "transductive", "rows": "sqrt"},
)
SEARCHES = (
    {"search": "stochastic"},
    {"search": "partitions", "partitions": 3},
    {"schedule": "pools", "pool_size": 5, "pool_picks": 2},
)


def names(ways):
    return ["-".join(str(value) for value in way.values()) for way in ways]


def is_whole(selection, count, n):
    """A set of `count` different rows, with numbers that are numbers and a certificate that holds."""
    assert selection.indices.size == np.unique(selection.indices).size == count
    assert (selection.indices >= 0).all()
    assert (selection.indices < n).all()
    assert np.isfinite(selection.trace["gain"]).all()
    assert np.isfinite(selection.scores[~np.isin(np.arange(n), selection.excluded.index)]).all()
    if selection.certificate is not None:
        assert 0.0 <= selection.certificate.share <= 1.0
        assert np.isfinite(selection.certificate.upper_bound)


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
def test_one_row(way):
    selection = select(np.array([[3.0, 4.0]]), budget=1, **way)
    is_whole(selection, 1, 1)
    assert selection.certificate.share == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-20, 1e20])
def test_equal_rows_are_picked_in_order(way, value):
    G = np.full((40, 7), value)
    selection = select(G, budget=40, **way)
    is_whole(selection, 40, 40)
    assert selection.indices.tolist() == list(range(40))


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
def test_zero_rows_come_last_unless_they_cost_nothing(way):
    G = np.random.default_rng(0).standard_normal((30, 5))
    G[::3] = 0.0
    selection = select(G, budget=30, **{**way, "penalty": 0.0})
    is_whole(selection, 30, 30)
    assert set(selection.indices[-10:].tolist()) == set(range(0, 30, 3))


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
def test_thousands_of_duplicates(way):
    """Five rows, a thousand times each: of equal rows always the first that is left."""
    base = np.random.default_rng(1).standard_normal((5, 6))
    G = np.tile(base, (1000, 1))
    selection = select(G, budget=60, alpha=1.0, **way)
    is_whole(selection, 60, 5000)
    for row in range(5):
        of_one = selection.indices[selection.indices % 5 == row]
        assert of_one.tolist() == [row + 5 * i for i in range(of_one.size)]


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
@pytest.mark.parametrize("factor", [1e6, 1e12])
def test_one_row_is_far_longer_than_the_rest(way, factor):
    G = np.random.default_rng(2).standard_normal((50, 6))
    G[17] *= factor
    selection = select(G, budget=20, **way)
    is_whole(selection, 20, 50)
    if way.get("rows") != "unit" and way["objective"] == "volume":
        assert selection.indices[0] == 17


def test_one_long_row_picks_as_the_definition_does():
    G = np.random.default_rng(2).standard_normal((50, 6))
    G[17] *= 1e6
    for penalty in (0.0, 0.1, 10.0):
        truth = greedy_truth(G, alpha=0.2, penalty=penalty, count=30)
        np.testing.assert_array_equal(select(G, budget=30, alpha=0.2, penalty=penalty).indices, truth)


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
@pytest.mark.parametrize(("n", "k"), [(5, 60), (60, 5), (20, 20)])
def test_more_dimensions_than_rows_more_picks_than_dimensions_and_all_rows(way, n, k):
    G = np.random.default_rng(3).standard_normal((n, k))
    for budget, count in ((1, 1), (n // 2, n // 2), (n, n), (1.0, n)):
        is_whole(select(G, budget=budget, **way), count, n)


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
@pytest.mark.parametrize("alpha", [1e-8, 1e-3, 1e3, 1e8])
def test_any_alpha_with_any_penalty(way, alpha):
    G = np.random.default_rng(4).standard_normal((40, 6)) * np.exp(np.random.default_rng(5).standard_normal((40, 1)))
    for penalty in (0.0, 1e-3, 1.0, 1e3):
        is_whole(select(G, budget=25, alpha=alpha, **{**way, "penalty": penalty}), 25, 40)


@pytest.mark.parametrize("mode", SEARCHES, ids=names(SEARCHES))
@pytest.mark.parametrize("objective", ["volume", "transductive"])
def test_approximate_searches_on_awkward_rows(mode, objective):
    rng = np.random.default_rng(6)
    base = rng.standard_normal((30, 4))
    pools = (base, np.ones((30, 4)), np.zeros((30, 4)), base[rng.integers(0, 3, 30)], base * 10.0 ** rng.integers(0, 7))
    for G, count in itertools.product(pools, (1, 12)):
        is_whole(select(G, budget=count, objective=objective, seed=1, **mode), count, 30)


@pytest.mark.parametrize("way", WAYS, ids=names(WAYS))
def test_rows_that_are_not_finite_are_left_out_and_counted(way):
    G = np.random.default_rng(7).standard_normal((20, 4))
    G[3, 1], G[8, 0], G[11] = np.nan, np.inf, 1e39  # the last one overflows float32
    selection = select(G, budget=17, **way)
    is_whole(selection, 17, 20)
    assert selection.excluded.index.tolist() == [3, 8, 11]
    with pytest.raises(BudgetError, match="17"):
        select(G, budget=18, **way)


def test_what_cannot_be_done_is_refused_with_a_reason():
    G = np.random.default_rng(8).standard_normal((6, 3))
    with pytest.raises(GradientError, match="none of the 2 rows"):
        select(np.full((2, 3), np.nan), budget=1)
    for empty in (np.zeros((0, 3)), np.zeros((3, 0))):
        with pytest.raises(GradientError, match="hold nothing"):
            select(empty, budget=1)
    with pytest.raises(BudgetError):
        select(G, budget=7)
    for name, value in (("alpha", 0.0), ("alpha", np.inf), ("penalty", -1.0), ("penalty", np.nan), ("stop_ratio", 2.0)):
        with pytest.raises(ConfigurationError, match=name):
            select(G, budget=2, **{name: value})
