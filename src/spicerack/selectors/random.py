"""Uniform choice: the control that every claim is measured against."""

from __future__ import annotations

import numpy as np

from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem

TRACE_DTYPE = np.dtype([("score", np.float64)])


class RandomOptions(MethodOptions):
    """Random has no options."""


class Random:
    """Rows without replacement, each with the same probability.

    Every eligible row draws a priority in [0, 1) from PCG64 with the run's seed; the largest are picked. The priority
    is the score, so a larger budget only adds rows.
    """

    name = "random"
    summary = "uniform, without replacement"
    paper = ""
    needs = Needs(gradients=False, arrays=(), cost="arithmetic only")
    Options: type[MethodOptions] = RandomOptions

    def select(self, problem: Problem, options: RandomOptions) -> Picks:
        """Pick by priority; a row that the budget or a quota has no room for is skipped."""
        priority = np.random.Generator(np.random.PCG64(problem.seed)).random(problem.eligible.size)
        scores = np.where(problem.eligible, priority, np.nan)
        order = np.argsort(-priority, kind="stable")
        order = order[problem.eligible[order]]
        indices = problem.room().take_in_order(order)
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["score"] = scores[indices]
        return Picks(indices, scores, trace)


RANDOM = Random()
