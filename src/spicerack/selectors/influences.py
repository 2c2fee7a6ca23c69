"""What LESS and BIDS share: the pool's rows and the target's at every checkpoint, the rows that both can use, subtasks.

    A_ij = sum_t w_t cos(row of pool sample i at checkpoint t, plain row of target sample j at checkpoint t)

The pool's rows are Adam-form where the store has them (what one step of the optimizer would do with the gradient), the
target's always plain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from spicerack.errors import GradientError
from spicerack.information.influence import add_products
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.selectors.base import Problem
from spicerack.selectors.rows import Rows

PoolRows = Literal["auto", "adam", "plain"]
ADAM = "adam"


@dataclass(frozen=True)
class Influences:
    """Pool and target, ready to be multiplied.

    Attributes:
        checkpoints: weight (all sum to 1), pool rows (n, k), target rows (m, k) of each.
        pool_rows: form of the pool's rows.
        usable: pool rows that may be picked and are finite at every checkpoint, (n,).
        targets: numbers of the target rows that are usable at every checkpoint, (u,) ascending.
        names: of the subtasks, (g,), sorted.
        subtask: number of each usable target's subtask, (u,).
    """

    checkpoints: tuple[tuple[float, Rows, Rows], ...]
    pool_rows: Literal["adam", "plain"]
    usable: BoolArray
    targets: IntArray
    names: tuple[str, ...]
    subtask: IntArray

    @property
    def n(self) -> int:
        """Rows of the pool."""
        return int(self.usable.size)

    def target_rows(self, checkpoint: int, form: Literal["plain", "unit"]) -> FloatArray:
        """The usable target rows at a checkpoint, (u, k)."""
        return self.checkpoints[checkpoint][2].take(self.targets, form)

    def among_targets(self, kept: BoolArray) -> Influences:
        """The same with only those usable targets that are in the mask, (u,); a subtask may be left without one."""
        return replace(self, targets=self.targets[kept], subtask=self.subtask[kept])

    def onto(self, columns: Sequence[FloatArray], dtype: Any) -> Any:
        """sum_t w_t (unit pool rows at t) . (columns at t): (c, n), from (c, k) columns of each checkpoint."""
        A = np.zeros((len(columns[0]), self.n), dtype=dtype)
        for (weight, pool, _), directions in zip(self.checkpoints, columns, strict=True):
            add_products(A, pool.stream("unit"), weight * directions)
        return A


def read_influences(problem: Problem, pool_rows: PoolRows) -> Influences:
    """Settle the form of the pool's rows, and leave out what is not usable at every checkpoint.

    Raises:
        ConfigurationError: Adam-form rows were asked for, and a checkpoint has none.
        GradientError: a subtask without one usable row, or no pool row usable at every checkpoint.
    """
    form = _pool_rows(problem, pool_rows)
    usable = problem.eligible.copy()
    assert problem.target is not None  # read_target() saw to it
    fit = np.ones(problem.target.n, dtype=bool)
    checkpoints = []
    for checkpoint in problem.checkpoints:
        pool = checkpoint.rows.array(ADAM) if form == ADAM else checkpoint.rows
        assert checkpoint.target is not None
        usable &= pool.included
        fit &= checkpoint.target.included
        checkpoints.append((checkpoint.weight, pool, checkpoint.target))
    _tell_left_out(problem, usable, fit)
    names, subtask = _subtasks(problem, fit)
    return Influences(tuple(checkpoints), form, usable, np.flatnonzero(fit), names, subtask)


def _pool_rows(problem: Problem, asked: PoolRows) -> Literal["adam", "plain"]:
    if asked != "auto":
        return asked
    stores = [checkpoint.rows.store for checkpoint in problem.checkpoints]
    if any(store is None for store in stores):
        problem.choose("pool_rows", "plain", "an array: its rows are taken as they are, Adam-form or not")
        return "plain"
    if all(ADAM in store.arrays for store in stores):
        problem.choose("pool_rows", ADAM, "the store has Adam-form rows")
        return "adam"
    lacking = [c.name for c, store in zip(problem.checkpoints, stores, strict=True) if ADAM not in store.arrays]
    problem.choose(
        "pool_rows",
        "plain",
        f"NO ADAM-FORM ROWS in the store ({', '.join(lacking)}), so this is not the method as published: run "
        "`spicerack warmup`, and take the gradients with --checkpoints its folder",
    )
    return "plain"


def _tell_left_out(problem: Problem, usable: BoolArray, fit: BoolArray) -> None:
    lost = int(np.count_nonzero(problem.eligible & ~usable))
    if not usable.any():
        raise GradientError(f"none of the {usable.size} rows is finite at every checkpoint")
    if lost:
        problem.choose("left out", lost, "rows that are not finite at every checkpoint have no influence")
    if not fit.all():
        found = {i: reason for c in problem.checkpoints if c.target for i, reason in c.target.excluded}
        counted = ", ".join(f"{count} {reason}" for reason, count in Counter(found.values()).items())
        problem.choose("target rows", int(np.count_nonzero(fit)), f"of {fit.size}; left out: {counted}")


def _subtasks(problem: Problem, fit: BoolArray) -> tuple[tuple[str, ...], IntArray]:
    names = problem.subtasks
    labels = problem.target_groups or names * fit.size
    kept = [label for label, good in zip(labels, fit, strict=True) if good]
    if empty := sorted(set(names) - set(kept)):
        raise GradientError(
            f"none of the target rows of subtask {empty[0]!r} can be used: they have no trained tokens or no finite "
            "gradient"
        )
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[label] for label in kept], dtype=np.int64)
