"""Intervals over seeds and held-out rows, against the obvious loop and against what they must cover."""

import numpy as np
import pytest

from spicerack.compare.intervals import Bootstrap, Losses

WHOLE = [np.arange(30)]
TWO = [np.arange(10), np.arange(10, 30)]


def make(seeds, rows=30, *, effect=0.0, seed_spread=0.1, row_spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    by_row = np.random.default_rng(99).normal(3.0, row_spread, rows)
    return effect + by_row + rng.normal(0.0, seed_spread, (seeds, 1)) + rng.normal(0.0, 0.01, (seeds, rows))


def test_groups_weigh_alike():
    losses = Losses(make(3), TWO)
    expected = np.mean([losses.values[:, :10].mean(), losses.values[:, 10:].mean()])
    assert losses.mean == pytest.approx(expected)
    assert losses.spread == pytest.approx(np.std(losses.per_seed, ddof=1))
    assert Losses(make(1), TWO).spread is None


def test_the_drawings_are_those_of_the_plain_loop():
    losses, bootstrap = Losses(make(3), TWO), Bootstrap(50, 0.95, 4)
    rows, seeds = np.random.default_rng([4, 0]), np.random.default_rng([4, 1, 0])
    center = losses.values.mean(axis=0)
    normal, squares = seeds.standard_normal((50, 3)), seeds.chisquare(2, (50, 1))
    drawn = [
        center + sum(z * (row - center) for z, row in zip(normal[b], losses.values, strict=True)) / np.sqrt(3 * c)
        for b, (c,) in enumerate(squares)
    ]
    groups = [rows.integers(0, len(members), (50, len(members))) for members in TWO]
    plain = [
        np.mean([drawn[b][members][places[b]].mean() for members, places in zip(TWO, groups, strict=True)])
        for b in range(50)
    ]
    assert np.allclose(bootstrap.means(losses, 0), plain)


def test_what_is_the_rows_cancels_in_a_difference():
    bootstrap = Bootstrap(2000, 0.95, 0)
    better, control = (
        Losses(make(5, effect=-0.2, seed_spread=0.02, seed=1), TWO),
        Losses(make(5, seed_spread=0.02, seed=2), TWO),
    )
    alone, difference = bootstrap.interval(better), bootstrap.difference(better, control)
    assert alone.high - alone.low > 0.5
    assert difference.high - difference.low < 0.15
    assert difference.low < -0.2 < difference.high < 0.0


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_are_covered_as_often_as_is_said(seeds):
    """Over repeated experiments in which only seeds differ: the mean in 95 of 100, a difference at least as often."""
    bootstrap, rng, repeats, rows = Bootstrap(2000, 0.95, 0), np.random.default_rng(5), 400, [np.arange(2)]
    of_mean = of_difference = 0
    for _ in range(repeats):
        one, other = (Losses(rng.normal(0.0, 1.0, (seeds, 1)) + np.zeros((seeds, 2)), rows) for _ in range(2))
        alone, apart = bootstrap.interval(one), bootstrap.difference(one, other)
        of_mean += alone.low < 0.0 < alone.high
        of_difference += apart.low < 0.0 < apart.high
    assert of_mean / repeats == pytest.approx(0.95, abs=0.035)
    assert of_difference / repeats > 0.93


def test_a_single_seed_has_the_rows_interval_and_a_single_value_none():
    bootstrap = Bootstrap(500, 0.9, 0)
    one = bootstrap.interval(Losses(make(1), WHOLE))
    assert one.low < one.mean < one.high
    assert bootstrap.interval(Losses(np.ones((1, 1)), [np.arange(1)])).low is None
