"""LESS: samples whose optimizer step points where a subtask's gradient points (arXiv 2402.04333, ICML 2024).

    A_ij    = sum_t w_t cos(Adam-form row of pool sample i at checkpoint t, plain row of target sample j at t)
    score_i = max over subtasks of the mean of A_ij over the subtask's samples

The mean of cosines is one product with the mean of the unit rows, so the pool is read once, and never n x m numbers
are held: one for each row and subtask.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from spicerack.errors import GradientError
from spicerack.information.matrix import FloatArray
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.influences import Influences, PoolRows, read_influences

TRACE_DTYPE = np.dtype([("score", np.float64), ("subtask", np.float64)])
Aggregation = Literal["mean_cosine", "cosine_of_mean"]


class LessOptions(MethodOptions):
    """Options of LESS."""

    target_aggregation: Aggregation = Field(
        "mean_cosine", description="of a subtask: mean of its samples' cosines (code), or cosine with its mean (paper)"
    )
    pool_rows: PoolRows = Field("auto", description="Adam-form rows of the store, or plain; auto: Adam-form if there")


class Less:
    """The best by influence on the best-served subtask."""

    name = "less"
    summary = "influence of an Adam step on the best-served subtask of the target"
    paper = "arXiv 2402.04333"
    needs = Needs(
        target="required", target_groups=True, checkpoints="all", cost="a warm-up, one gradient pass a checkpoint"
    )
    Options: type[MethodOptions] = LessOptions

    def select(self, problem: Problem, options: LessOptions) -> Picks:
        """Rank by the largest subtask influence; ties go to the first row."""
        influences = read_influences(problem, options.pool_rows)
        columns = subtask_columns(influences, options.target_aggregation)
        for g, name in enumerate(influences.names):
            if not any(means[g].any() for means in columns):
                raise GradientError(f"the target rows of {name or 'the target'!r} are all zero; expected gradients")
        by_subtask = influences.onto(columns, np.float64)
        scores = np.where(influences.usable, by_subtask.max(axis=0), np.nan)
        best = by_subtask.argmax(axis=0)
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(influences.usable)]
        indices = problem.room().take_in_order(order)
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["score"], trace["subtask"] = scores[indices], best[indices]
        counts = np.bincount(best[indices], minlength=len(influences.names)).tolist()
        findings = {
            "subtasks": list(influences.names),
            "target_rows": np.bincount(influences.subtask).tolist(),
            "picks_by_subtask": dict(zip(influences.names, counts, strict=True)),
        }
        return Picks(indices, scores, trace, resolved={"pool_rows": influences.pool_rows}, findings=findings)


LESS = Less()


def subtask_columns(influences: Influences, aggregation: Aggregation) -> list[FloatArray]:
    """What stands for each subtask at each checkpoint, (g, k): the mean of its unit rows, or its unit mean row."""
    columns = []
    for checkpoint in range(len(influences.checkpoints)):
        rows = influences.target_rows(checkpoint, "unit" if aggregation == "mean_cosine" else "plain")
        means = np.stack([rows[influences.subtask == g].mean(axis=0) for g in range(len(influences.names))])
        if aggregation == "cosine_of_mean":
            lengths = np.linalg.norm(means, axis=1, keepdims=True)
            means /= np.where(lengths > 0.0, lengths, 1.0)
        columns.append(means)
    return columns
