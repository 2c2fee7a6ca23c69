"""Percentile bootstrap intervals of means over samples (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A mean, and between which values it lies when the samples are drawn again; None for a single sample."""

    mean: float
    low: float | None
    high: float | None


def resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `resamples` drawings of n values with replacement.

    Args:
        values: (n,), n >= 1.
        resamples: B >= 1.
        rng: what draws.

    Returns:
        (B,) float64.
    """
    means = np.empty(resamples)
    rows = max(1, VALUES_AT_ONCE // len(values))
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[rng.integers(0, len(values), (stop - start, len(values)))].mean(axis=1)
    return means


def mean_interval(values: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Interval:
    """The mean of samples with its interval."""
    return mean_of_means_interval([values], resamples=resamples, confidence=confidence, seed=seed)


def mean_of_means_interval(groups: Sequence[np.ndarray], *, resamples: int, confidence: float, seed: int) -> Interval:
    """The mean over groups of each group's mean, samples drawn anew within each group.

    Args:
        groups: values (n_g,) of each group, n_g >= 1.
        resamples: drawings.
        confidence: in (0, 1).
        seed: of the drawings.
    """
    mean = float(np.mean([group.mean() for group in groups]))
    if max(map(len, groups)) == 1:
        return Interval(mean, None, None)
    rng = np.random.default_rng(seed)
    means = np.mean([resampled_means(group, resamples, rng) for group in groups], axis=0)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high))
