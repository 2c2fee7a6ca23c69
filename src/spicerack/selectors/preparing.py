"""What methods on rows settle before they pick: alpha, where rows are held, which array the rows come from."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from spicerack.errors import ConfigurationError
from spicerack.information.matrix import RowMatrix
from spicerack.information.moments import median_alpha
from spicerack.selectors.base import Needs, Problem
from spicerack.selectors.devices import device_for
from spicerack.selectors.ranking import with_values
from spicerack.selectors.rows import Rows, Working, free_memory
from spicerack.store.forms import RowForm

RowsFrom = Literal["gradients", "embeddings"]
ARRAY: dict[RowsFrom, str] = {"gradients": "gradient", "embeddings": "embedding"}
WEIGHTED = "embedding_weighted"  # the mean of the last hidden states, later positions counting more
HEAVIEST = 1e16
"""Largest `alpha * median |g|^2`: float64 has sixteen digits."""


def resolve_alpha(problem: Problem, alpha: Any, matrix: RowMatrix) -> float:
    """The option, or the automatic choice, recorded: `alpha * median |g|^2 = 1`.

    Raises:
        ConfigurationError: an alpha beside which float64 sees nothing else.
    """
    value, reason = median_alpha(matrix, problem.eligible)
    if alpha != "auto":
        if float(alpha) > HEAVIEST * value:
            raise ConfigurationError(
                f"alpha={float(alpha):g} is too large for these rows: beside alpha * median |g|^2 = "
                f"{float(alpha) / value:.3g} the information of a new direction cannot be told from rounding; give at "
                f"most {HEAVIEST * value:.3g} (auto is {value:.3g})"
            )
        return float(alpha)
    problem.choose("alpha", value, reason)
    return value


def held_rows(
    problem: Problem,
    rows: Rows,
    form: RowForm,
    dtype: Working = np.float32,
    *,
    memory_gb: float | None,
    device: str = "cpu",
    pays: bool = True,
    halves: bool = False,
) -> RowMatrix:
    """Rows of the pool with their working copy on a GPU, in main memory, or streamed from the store; recorded.

    Args:
        problem: where choices are recorded.
        rows: of any of its arrays.
        form: of the rows.
        dtype: of the working copy; a device holds float32 only.
        memory_gb: GB that the working copy of a store's rows may take in main memory. None: half of what is free.
        device: as for `device_for`.
        pays: whether the run makes passes over all rows that a device could make.
        halves: as for `Rows.row_matrix`.
    """
    where = device_for(problem, rows, device if dtype == np.float32 else "cpu", pays=pays)
    limit = memory_gb * 2**30 if memory_gb is not None else free_memory() / 2
    matrix = rows.row_matrix(form, dtype, memory=int(limit), device=where, halves=halves)
    if matrix.streamed:
        needed = rows.n * rows.k * np.dtype(dtype).itemsize
        problem.choose(
            "rows", "streamed", f"{needed / 2**30:.1f} GB of rows, {limit / 2**30:.1f} GB may be held in memory"
        )
    return matrix


def read_array(problem: Problem, name: str) -> tuple[Rows, np.ndarray]:
    """The pool's rows of a named array, and which of them may be picked, (n,).

    Raises:
        ConfigurationError: the store has no such array; says how to make it.
        GradientError: no row that may be picked has one.
    """
    rows = problem.rows.array(name)
    return rows, with_values(problem, rows.included, name)


def needs_rows(rows_from: RowsFrom, columns: tuple[str, ...] = ()) -> Needs:
    """What a method reads whose rows are gradients or embeddings."""
    cost = "one gradient pass" if rows_from == "gradients" else "one forward pass"
    return Needs(arrays=(ARRAY[rows_from],), columns=columns, cost=cost)
