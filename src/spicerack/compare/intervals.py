"""Intervals of a mean loss over two crossed samples: the seeds of the training, and the held-out rows.

The rows are many, and drawn again with replacement within their groups; as in Owen's pigeonhole bootstrap (2007) all
seeds see the same. The seeds are few, and three drawn again cover their mean four times in five, not nineteen in
twenty: what a mean over n seeds may be off is drawn from Student's t with n - 1 degrees of freedom instead, which is
exact where seeds are normal. The rows drawn are the same for every method, so that in a difference of two methods what
is the rows' cancels; the seeds' part is drawn for each by itself (the interval of Behrens and Fisher). With one seed an
interval holds the rows' share of the spread only.
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

        Seeds at v_s off their mean move a drawing by sum_s z_s v_s / sqrt(n c), z standard normal and c chi-squared of
        n - 1 degrees: for numbers, their standard error times Student's t.
        """
        seeds, count = len(losses.values), losses.values.shape[1]
        by_row = np.random.default_rng([self.seed, 0])
        by_seed = np.random.default_rng([self.seed, 1, stream])
        center = losses.values.mean(axis=0)
        off = losses.values - center
        means = np.empty(self.resamples)
        at_once = max(1, VALUES_AT_ONCE // count)
        for start in range(0, self.resamples, at_once):
            size = min(at_once, self.resamples - start)
            drawn = np.broadcast_to(center, (size, count))
            if seeds > 1:
                normal, squares = by_seed.standard_normal((size, seeds)), by_seed.chisquare(seeds - 1, (size, 1))
                drawn = center + (normal / np.sqrt(seeds * squares)) @ off
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
