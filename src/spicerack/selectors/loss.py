"""Loss: the samples that the model predicts worst, best, or neither; a control, and a cheap picture of difficulty."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.ranking import ordered, rank


class LossOptions(MethodOptions):
    """Options of loss."""

    order: Literal["highest", "lowest", "middle"] = Field(
        "highest", description="which come first; middle: nearest to the median"
    )
    column: Literal["loss_mean", "loss_sum"] = Field("loss_mean", description="over a sample's trained tokens")


class Loss:
    """Rows by their loss."""

    name = "loss"
    summary = "the samples of highest loss, of lowest, or in the middle"
    paper = ""
    needs = Needs(gradients=False, arrays=(), columns=("loss_mean",), cost="one forward pass")
    Options: type[MethodOptions] = LossOptions

    def needs_with(self, options: LossOptions) -> Needs:
        """The column that is asked for."""
        return Needs(gradients=False, arrays=(), columns=(options.column,), cost=self.needs.cost)

    def select(self, problem: Problem, options: LossOptions) -> Picks:
        """Rank by the column."""
        values = problem.column(options.column)
        return rank(problem, ordered(values, options.order, problem.eligible), options.column)


LOSS = Loss()
