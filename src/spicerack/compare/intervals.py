"""Intervals of a mean loss over two crossed samples: the seeds of the training, and the held-out rows.

Both are drawn again with replacement, the rows within their groups (Owen, 2007, "The pigeonhole bootstrap"). The rows
drawn are the same for every method, so that in a difference of two methods what is the rows' cancels; the seeds are
drawn for each method by itself. With one seed an interval holds the rows' share of the spread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spicerack.training.bootstrap import Interval

VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Losses:
    """Held-out losses of one method and budget.

    Attributes:
        values: (seeds, rows) float64, in nats.
        members: rows of each group, together all rows; the mean is over groups of each group's mean.
    """

    values: np.ndarray
    members: Sequence[np.ndarray]

    @property
    def per_seed(self) -> np.ndarray:
        """The mean over groups of every seed, (seeds,)."""
        means = np.stack([self.values[:, rows].mean(axis=1) for rows in self.members])
        return np.asarray(means.mean(axis=0))

    @property
    def mean(self) -> float:
        """Over seeds and groups."""
        return float(self.per_seed.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, with the divisor seeds - 1; None for one."""
        return float(self.per_seed.std(ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Bootstrap:
    """How often is drawn, what share the intervals hold, and the seed of the drawings."""

    resamples: int
    confidence: float
    seed: int

    def interval(self, losses: Losses) -> Interval:
        """Of a mean."""
        return self._around(losses.mean, self.means(losses, 0))

    def difference(self, losses: Losses, control: Losses) -> Interval:
        """Of the mean of one minus that of another; below zero: the first is better."""
        draws = self.means(losses, 0) - self.means(control, 1)
        return self._around(losses.mean - control.mean, draws)

    def means(self, losses: Losses, stream: int) -> np.ndarray:
        """Means of (resamples,) drawings; `stream` tells the draws of seeds apart, those of rows are always the same.

        A seed's mean over n drawn seeds varies n - 1 over n times too little, so what a drawing has off the mean of
        all seeds is widened by the root of n / (n - 1).
        """
        seeds, count = len(losses.values), losses.values.shape[1]
        by_row = np.random.default_rng([self.seed, 0])
        by_seed = np.random.default_rng([self.seed, 1, stream])
        center = losses.values.mean(axis=0)
        widening = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
        means = np.empty(self.resamples)
        at_once = max(1, VALUES_AT_ONCE // count)
        for start in range(0, self.resamples, at_once):
            size = min(at_once, self.resamples - start)
            weights = by_seed.multinomial(seeds, np.full(seeds, 1.0 / seeds), size) / seeds
            drawn = center + widening * (weights @ losses.values - center)
            parts = [
                np.take_along_axis(drawn[:, rows], by_row.integers(0, len(rows), (size, len(rows))), axis=1).mean(
                    axis=1
                )
                for rows in losses.members
            ]
            means[start : start + size] = np.mean(parts, axis=0)
        return means

    def _around(self, mean: float, draws: np.ndarray) -> Interval:
        if not draws.std():
            return Interval(mean, None, None)
        tail = (1.0 - self.confidence) / 2
        low, high = np.quantile(draws, [tail, 1.0 - tail])
        return Interval(mean, float(low), float(high))
