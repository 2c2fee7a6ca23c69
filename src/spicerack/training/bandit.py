"""EXP3: choose among arms whose rewards may change in any way (Auer, Cesa-Bianchi, Freund and Schapire, 2002)."""

from __future__ import annotations

import numpy as np


class Exp3:
    """Exponential weights with a share of uniform exploration.

        p_c = (1 - gamma) w_c / sum w + gamma / K,    w_c <- w_c exp(gamma r / (p_c K))

    over the K arms that are open; weights are kept as logarithms, so that none overflows.
    """

    def __init__(self, arms: int, gamma: float, seed: int) -> None:
        """So many arms, of equal weight; gamma in (0, 1]."""
        self.gamma = gamma
        self._log_weights = np.zeros(arms)
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def probabilities(self, is_open: np.ndarray) -> np.ndarray:
        """Of every arm, (arms,); zero where it is not open."""
        weights = np.where(is_open, np.exp(self._log_weights - self._log_weights[is_open].max()), 0.0)
        uniform = is_open / np.count_nonzero(is_open)
        return np.asarray((1.0 - self.gamma) * weights / weights.sum() + self.gamma * uniform)

    def draw(self, is_open: np.ndarray) -> tuple[int, float]:
        """An open arm, and the probability that it had."""
        p = self.probabilities(is_open)
        arm = int(self._rng.choice(len(p), p=p / p.sum()))
        return arm, float(p[arm])

    def reward(self, arm: int, reward: float, probability: float, is_open: np.ndarray) -> None:
        """Tell what an arm gave, in [0, 1], that was drawn with a probability among the open arms."""
        self._log_weights[arm] += self.gamma * reward / (probability * np.count_nonzero(is_open))
