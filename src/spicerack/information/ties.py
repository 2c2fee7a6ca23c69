"""Who wins a step: the smallest row among those whose scores agree. One rule for every loop and every precision.

Scores from a float32 pass are known within a slack. Every row that could still be the best is scored again from
exact rows in float64, and of the rows within the tie tolerance of the best the smallest wins. The outcome depends on
the exact scores only, so loops of any precision and order of evaluation pick alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spicerack.information.matrix import EPS, FloatArray, IntArray

Exact = Callable[[IntArray], tuple[FloatArray, FloatArray]]
"""Row numbers (r,) to their exact scores and exact gains, each (r,)."""


def contenders(scores: FloatArray, slack: FloatArray, relative: float, penalty: float) -> IntArray:
    """Positions that may hold the best exact score or tie with it, given scores known within `slack`, each (r,)."""
    bounds = scores + slack
    return (bounds >= _floor(bounds, scores, slack, relative, penalty)).nonzero()[0]


def floor(scores: FloatArray, slack: FloatArray, relative: float, penalty: float) -> float:
    """No row whose exact score is below this can win or tie, given scores known within `slack`, each (r,)."""
    return _floor(scores + slack, scores, slack, relative, penalty)


def _floor(bounds: FloatArray, scores: FloatArray, slack: FloatArray, relative: float, penalty: float) -> float:
    # The exact gain of the best is not known yet; the largest score plus the penalty bounds it.
    margin = tie_width(float(bounds.max()) + penalty, relative, penalty)
    return float((scores - slack).max()) - margin


def smallest_best(scores: FloatArray, gains: FloatArray, relative: float, penalty: float) -> int:
    """Position of the first score within the tie tolerance of the best; `scores` and `gains` are exact, each (r,).

    The tolerance is `relative * gain of the best + 64 eps * penalty`: relative to the gain, because alpha may make
    all gains as small or as large as it likes, and absolute in the penalty, because a conflict lies in [0, 1].
    """
    best = int(np.argmax(scores))
    width = tie_width(float(gains[best]), relative, penalty)
    return int(np.flatnonzero(scores >= scores[best] - width)[0])


def settle(rows: IntArray, exact: Exact, relative: float, penalty: float) -> int:
    """The row that wins among the contenders `rows`.

    Args:
        rows: row numbers (r,), ascending; of bitwise equal rows the first alone.
        exact: scores and gains in float64.
        relative: relative tie tolerance of the gains.
        penalty: weight of the conflict.
    """
    if rows.size == 1:
        return int(rows[0])
    scores, gains = exact(rows)
    return int(rows[smallest_best(scores, gains, relative, penalty)])


def tie_width(gain: float, relative: float, penalty: float) -> float:
    """Difference of two exact scores up to which they are a tie, the better one's gain being `gain` or less."""
    return relative * max(gain, 0.0) + 64.0 * EPS * penalty
