"""IFD: samples whose instruction helps the model least, short of none at all (Li et al., NAACL 2024, arXiv 2308.12032).

    ifd = mean loss of the response given the instruction / mean loss of the same tokens alone

A ratio of 1 or more says that the instruction does not help: the pair may not belong together, so it is left out.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.ranking import rank

COLUMN = "ifd"


class IfdOptions(MethodOptions):
    """Options of ifd."""

    ceiling: Annotated[float, Field(gt=0)] = Field(1.0, description="ratios from here on are never picked")


class Ifd:
    """The largest ratio below the ceiling."""

    name = "ifd"
    summary = "instruction-following difficulty: the largest loss ratio below 1"
    paper = "arXiv 2308.12032"
    needs = Needs(gradients=False, arrays=(), columns=(COLUMN,), cost="one forward pass, responses alone too")
    Options: type[MethodOptions] = IfdOptions

    def select(self, problem: Problem, options: IfdOptions) -> Picks:
        """Rank by the ratio; rows without one, or with one at the ceiling or above, are never picked."""
        ratio = problem.column(COLUMN)
        above = int(np.count_nonzero(problem.eligible & (ratio >= options.ceiling)))
        where = f"{above} of them are not below {options.ceiling:g}"
        picks = rank(problem, np.where(ratio < options.ceiling, ratio, np.nan), "ifd below the ceiling", where=where)
        return Picks(picks.indices, picks.scores, picks.trace, findings={"not_below_ceiling": above})


IFD = Ifd()
