"""What every method that ranks rows by one number does with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from spicerack.errors import GradientError
from spicerack.information.matrix import BoolArray, FloatArray
from spicerack.selectors.base import Picks, Problem

TRACE_DTYPE = np.dtype([("score", np.float64)])


def rank(problem: Problem, scores: FloatArray, what: str, *, where: str = "") -> Picks:
    """Pick by falling score; ties go to the smallest row. A row without a score (NaN) is never picked.

    Args:
        problem: the problem.
        scores: the method's value of every row, (n,).
        what: name of the score, for what is told.
        where: why a row may have none, for what is told.

    Raises:
        GradientError: no row that may be picked has a score.
        BudgetError: the rows without a score leave a quota that cannot be met.
    """
    usable = with_values(problem, np.isfinite(scores), what, where)
    scores = np.where(usable, scores, np.nan)
    order = np.argsort(-scores, kind="stable")
    indices = narrowed(problem, usable).room().take_in_order(order[usable[order]])
    trace = np.empty(indices.size, dtype=TRACE_DTYPE)
    trace["score"] = scores[indices]
    return Picks(indices, scores, trace)


def with_values(problem: Problem, has: BoolArray, what: str, where: str = "") -> BoolArray:
    """The eligible rows among `has`, (n,); how many others there are is recorded.

    Raises:
        GradientError: there is none.
    """
    usable = problem.eligible & has
    missing = int(np.count_nonzero(problem.eligible & ~has))
    because = f" ({where})" if where else ""
    if not usable.any():
        raise GradientError(f"none of the {missing} rows that may be picked has a value of {what}{because}")
    if missing:
        problem.choose("never picked", missing, f"rows without a value of {what}{because}")
        left = int(usable.sum())
        if problem.budget.count is not None and problem.budget.count > left:
            problem.choose("picked", left, f"below the budget of {problem.budget.count}: no more rows have {what}")
    return usable


def narrowed(problem: Problem, usable: BoolArray) -> Problem:
    """The same problem over the usable rows, (n,), and what the caller forces in."""
    eligible = usable.copy()
    eligible[list(problem.forced)] = True
    return replace(problem, eligible=eligible)


def ordered(values: FloatArray, order: Literal["highest", "lowest", "middle"], among: BoolArray) -> FloatArray:
    """Scores whose best are the highest, the lowest, or the nearest to the median of the rows in the mask, (n,).

    The median is a value that a row has, the lower of two: the mean of two would make them tie.
    """
    if order == "highest":
        return values
    if order == "lowest":
        return -values
    known = np.sort(values[among & np.isfinite(values)])
    return -np.abs(values - (known[(known.size - 1) // 2] if known.size else 0.0))
