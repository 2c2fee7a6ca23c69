"""Gradient norm: the samples that pull hardest, or least; the control of every method that reads plain rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.ranking import ordered, rank

COLUMN = "gradient_norm"


class GradNormOptions(MethodOptions):
    """Options of grad_norm."""

    order: Literal["highest", "lowest", "middle"] = Field(
        "highest", description="which come first; middle: nearest to the median"
    )


class GradNorm:
    """Rows by the length of their gradient: the table's, or the row's own where there is no table."""

    name = "grad_norm"
    summary = "the samples of largest gradient, of smallest, or in the middle"
    paper = ""
    needs = Needs(columns=(COLUMN,))
    Options: type[MethodOptions] = GradNormOptions

    def select(self, problem: Problem, options: GradNormOptions) -> Picks:
        """Rank by the norm."""
        if problem.rows.store is not None or COLUMN in problem.columns:
            values = problem.column(COLUMN)
        else:
            problem.choose(COLUMN, "row lengths", "an array has no table of norms")
            values = problem.rows.norms
        return rank(problem, ordered(values, options.order, problem.eligible), COLUMN)


GRAD_NORM = GradNorm()
