"""Intervals that hold what they say."""

import numpy as np
import pytest

from spicerack.training.bootstrap import mean_interval, mean_of_means_interval, resampled_means


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(confidence):
    rng = np.random.default_rng(0)
    trials, covered = 400, 0
    for trial in range(trials):
        interval = mean_interval(rng.exponential(2.0, 80), resamples=300, confidence=confidence, seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    spread = np.sqrt(confidence * (1 - confidence) / trials)
    assert abs(covered / trials - confidence) < 4 * spread + 0.02  # the percentile form is a little narrow


def test_the_interval_of_the_mean_over_groups_covers_too():
    rng, covered = np.random.default_rng(1), 0
    for trial in range(300):
        groups = [rng.normal(1.0, 1.0, 20), rng.normal(3.0, 2.0, 60)]
        interval = mean_of_means_interval(groups, resamples=300, confidence=0.9, seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.83 < covered / 300 < 0.96


def test_it_is_the_plain_loop():
    values = np.random.default_rng(2).normal(size=30)
    rng = np.random.default_rng(5)
    truth = [np.mean([values[i] for i in rng.integers(0, 30, 30)]) for _ in range(50)]
    assert np.allclose(resampled_means(values, 50, np.random.default_rng(5)), truth)
    interval = mean_interval(values, resamples=50, confidence=0.8, seed=5)
    assert np.allclose([interval.low, interval.high], np.quantile(truth, [0.1, 0.9]))
    assert interval.mean == pytest.approx(values.mean())


def test_blocks_of_drawings_do_not_show(monkeypatch):
    values = np.random.default_rng(3).normal(size=37)
    whole = resampled_means(values, 200, np.random.default_rng(1))
    monkeypatch.setattr("spicerack.training.bootstrap.VALUES_AT_ONCE", 100)
    assert np.array_equal(resampled_means(values, 200, np.random.default_rng(1)), whole)


def test_a_large_group_does_not_speak_for_a_small_one():
    small, large = np.full(4, 1.0), np.full(400, 3.0)
    assert mean_of_means_interval([small, large], resamples=100, confidence=0.9, seed=0).mean == 2.0


def test_one_sample_has_no_interval():
    interval = mean_interval(np.array([1.5]), resamples=100, confidence=0.95, seed=0)
    assert (interval.mean, interval.low, interval.high) == (1.5, None, None)


def test_the_seed_repeats_the_interval():
    values = np.random.default_rng(4).normal(size=50)
    first = mean_interval(values, resamples=200, confidence=0.95, seed=1)
    assert first == mean_interval(values, resamples=200, confidence=0.95, seed=1)
    assert first != mean_interval(values, resamples=200, confidence=0.95, seed=2)
