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
    counts = seeds.multinomial(3, [1 / 3] * 3, 50)
    drawn = [
        center + np.sqrt(1.5) * (sum(count * row for count, row in zip(c, losses.values, strict=True)) / 3 - center)
        for c in counts
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


def test_the_variance_is_that_of_seeds_and_rows_together():
    """Over many repeated experiments: the spread of the drawings is the spread of the mean, not (n - 1) / n of it."""
    rng = np.random.default_rng(5)
    variances = []
    for _ in range(300):
        values = rng.normal(0.0, 1.0, (3, 1)) + np.zeros((3, 20))
        variances.append(Bootstrap(200, 0.95, 0).means(Losses(values, [np.arange(20)]), 0).var())
    assert np.mean(variances) == pytest.approx(1.0 / 3.0, rel=0.15)


def test_a_single_seed_has_the_rows_interval_and_a_single_value_none():
    bootstrap = Bootstrap(500, 0.9, 0)
    one = bootstrap.interval(Losses(make(1), WHOLE))
    assert one.low < one.mean < one.high
    assert bootstrap.interval(Losses(np.ones((1, 1)), [np.arange(1)])).low is None
