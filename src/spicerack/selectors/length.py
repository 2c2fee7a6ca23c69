"""Length: the longest samples, or the shortest; a control that many a quality score turns out to follow."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.ranking import ordered, rank


class LengthOptions(MethodOptions):
    """Options of length."""

    order: Literal["longest", "shortest"] = Field("longest", description="which come first")
    column: Literal["tokens", "trained_tokens"] = Field("tokens", description="whole sample, or what carries loss")


class Length:
    """Rows by their number of tokens."""

    name = "length"
    summary = "the longest samples, or the shortest"
    paper = ""
    needs = Needs(gradients=False, arrays=(), columns=("tokens",), cost="arithmetic only")
    Options: type[MethodOptions] = LengthOptions

    def select(self, problem: Problem, options: LengthOptions) -> Picks:
        """Rank by the column."""
        if options.column == "tokens" and problem.tokens is not None:  # what the budget counts
            values = problem.tokens.astype(np.float64)
        else:
            values = problem.column(options.column)
        order: Literal["highest", "lowest"] = "highest" if options.order == "longest" else "lowest"
        return rank(problem, ordered(values, order, problem.eligible), options.column)


LENGTH = Length()
