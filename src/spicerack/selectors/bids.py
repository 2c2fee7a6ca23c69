"""BIDS: balanced influence over the samples of a target (arXiv 2501.12147, EMNLP Findings 2025).

    Z       = LESS's influences A (n, m) on every target sample, each column at zero mean and unit deviation
    pick      argmax_i max_j (Z_ij - mean_{a in S} Z_aj)

The next pick is the row that most exceeds what the selection already has on some target sample. The engine is exact
and takes O(m) a pick (`information/balanced.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from spicerack.errors import UnknownNameError
from spicerack.information.balanced import BalancedResult, Columns, balanced_greedy, best_leads
from spicerack.information.influence import normalize
from spicerack.information.room import Room
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.influences import Influences, PoolRows, read_influences

TRACE_DTYPE = np.dtype([("score", np.float64), ("target", np.float64)])
NAMED = 20
"""Columns named one by one in a message; the manifest has them all."""


class BidsOptions(MethodOptions):
    """Options of BIDS."""

    normalization: Literal["zscore", "rank", "mad", "none"] = Field(
        "zscore",
        description="of each target sample's influences: the paper's, median and its deviation, ranks",
    )
    balance: bool = Field(True, description="compare with the mean of the picks so far; else the largest come first")
    task_weights: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="weight of each subtask's columns, as in {math: 2}; others have 1"
    )
    per_task_top: bool = Field(
        False, description="instead: subtasks take turns, each its best remaining row by mean influence"
    )
    pool_rows: PoolRows = Field("auto", description="Adam-form rows of the store, or plain; auto: Adam-form if there")

    @model_validator(mode="after")
    def _combinations(self) -> BidsOptions:
        if self.per_task_top and (self.task_weights or not self.balance):
            raise ValueError("per_task_top reads neither task_weights nor balance; leave them out")
        return self


class Bids:
    """Balanced greedy over the target's samples."""

    name = "bids"
    summary = "influence on the target samples that the picks so far serve least"
    paper = "arXiv 2501.12147"
    needs = Needs(
        target="required", target_groups=True, checkpoints="all", cost="a warm-up, one gradient pass a checkpoint"
    )
    Options: type[MethodOptions] = BidsOptions

    def check_target(self, options: BidsOptions, subtasks: Sequence[str]) -> None:
        """Refuse a weight of a subtask that the target does not have."""
        for name in options.task_weights or {}:
            if subtasks and name not in subtasks:
                raise UnknownNameError("task_weights: subtask", name, subtasks)

    def select(self, problem: Problem, options: BidsOptions) -> Picks:
        """Pick by lead over the selection; ties go to the first row."""
        self.check_target(options, problem.subtasks)
        influences = read_influences(problem, options.pool_rows)
        columns = [influences.target_rows(c, "unit") for c in range(len(influences.checkpoints))]
        Z: Columns = influences.onto(columns, np.float32)
        silent = normalize(Z, options.normalization, influences.usable)
        constant = _tell_silent(problem, influences, silent)
        if not silent.all():
            influences, Z = influences.among_targets(~silent), Z if not silent.any() else Z[~silent]
        room = problem.room()
        room.keep(influences.usable)
        result = self._pick(Z, influences, options, room)
        scores = np.where(influences.usable, result.scores, np.nan)
        trace = np.empty(result.indices.size, dtype=TRACE_DTYPE)
        trace["score"], trace["target"] = result.values, influences.targets[result.columns]
        counts = np.bincount(influences.subtask[result.columns], minlength=len(influences.names)).tolist()
        findings = {
            "subtasks": list(influences.names),
            "target_rows": np.bincount(influences.subtask, minlength=len(influences.names)).tolist(),
            "picks_by_subtask": dict(zip(influences.names, counts, strict=True)),
            "constant_columns": constant,
        }
        return Picks(result.indices, scores, trace, resolved={"pool_rows": influences.pool_rows}, findings=findings)

    def _pick(self, Z: Columns, influences: Influences, options: BidsOptions, room: Room) -> BalancedResult:
        if options.per_task_top:
            return _take_turns(Z, influences, room)
        _weigh(Z, influences, options.task_weights or {})
        if options.balance:
            return balanced_greedy(Z, room)
        scores = best_leads(Z, np.zeros(len(Z)))
        order = np.argsort(-scores, kind="stable")
        indices = room.take_in_order(order[influences.usable[order]])
        return BalancedResult(indices, scores[indices], Z[:, indices].argmax(axis=0), scores)


BIDS = Bids()


def _tell_silent(problem: Problem, influences: Influences, silent: np.ndarray) -> list[int]:
    """Name the target samples that tell no row from another; their numbers."""
    constant = [int(j) for j in influences.targets[silent]]
    if constant:
        named = ", ".join(str(j) for j in constant[:NAMED]) + (", ..." if len(constant) > NAMED else "")
        reason = f"of {silent.size}; target rows {named} have no spread over the pool and are dropped"
        if silent.all():
            reason = "no target row tells the pool's rows apart: they are picked in their order"
        problem.choose("influence columns", silent.size - len(constant), reason)
    return constant


def _weigh(Z: Columns, influences: Influences, weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        Z[influences.subtask == influences.names.index(name)] *= np.float32(weight)


def _take_turns(Z: Columns, influences: Influences, room: Room) -> BalancedResult:
    """Each subtask in turn takes the open row with its best mean value; the score is the row's best."""
    members = [np.flatnonzero(influences.subtask == g) for g in range(len(influences.names))]
    members = [columns for columns in members if columns.size]
    means = np.stack([Z[columns].mean(axis=0, dtype=np.float64) for columns in members])
    orders = np.argsort(-means, axis=1, kind="stable")
    at = [0] * len(members)
    room.take_forced()
    tasks = means[:, room.taken].argmax(axis=0).tolist()
    while not room.full:
        task = (len(tasks) - len(room.forced)) % len(members)
        while not room.open[orders[task, at[task]]]:
            at[task] += 1
        room.take(int(orders[task, at[task]]))
        tasks.append(task)
    indices = np.array(room.taken, dtype=np.int64)
    drawn = [members[task][Z[members[task], row].argmax()] for task, row in zip(tasks, indices, strict=True)]
    return BalancedResult(indices, means[tasks, indices], np.array(drawn, dtype=np.int64), means.max(axis=0))
