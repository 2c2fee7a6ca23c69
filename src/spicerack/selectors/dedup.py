"""Near-duplicates of rows that may be picked: never picked, and not counted in the pool as its own target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.errors import ConfigurationError
from spicerack.information.duplicates import near_duplicates
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.selectors.rows import Rows, free_memory

LOWEST = 0.5
NEAR_DUPLICATE = "near-duplicate of another row"


def check_dedup(dedup: Any) -> None:
    """Refuse what is no cosine.

    Raises:
        ConfigurationError: neither None nor a number in [0.5, 1].
    """
    number = isinstance(dedup, (int, float, np.integer, np.floating)) and not isinstance(dedup, bool)
    if dedup is not None and not (number and LOWEST <= dedup <= 1.0):
        raise ConfigurationError(
            f"dedup={dedup!r}, expected a cosine of at least {LOWEST:g} and at most 1, as in 0.9, or None"
        )


def find_near_duplicates(
    rows: Rows, dedup: float, eligible: BoolArray, forced: Sequence[int], values: FloatArray | None
) -> tuple[IntArray, Choice]:
    """Rows that are left out, ascending, and what is told of it.

    Args:
        rows: the pool's gradients.
        dedup: cosine from which on two rows are near-duplicates.
        eligible: rows that may be picked, (n,); others are compared with none.
        forced: rows that stay, whatever they are like; others are compared with each of them.
        values: (n,); of near-duplicates the row of the lowest value stays, of equal ones the first. None: the first.
    """
    gradients = rows.array("gradient")
    others = np.setdiff1d(np.flatnonzero(eligible & (gradients.norms > 0.0)), forced)
    if values is not None:
        others = others[np.argsort(values[others], kind="stable")]  # NaN comes last
    if 2 * gradients.n * gradients.k * np.dtype(np.float32).itemsize <= free_memory():
        gradients.matrix("unit")  # held, it is read a row at a time much faster
    order = np.concatenate([np.asarray(forced, dtype=np.int64), others])
    found = near_duplicates(
        lambda: gradients.stream("unit"),
        lambda at: gradients.working(at, "unit"),
        rows.n,
        order,
        dedup,
        always=len(forced),
    )
    out = np.flatnonzero(found >= 0)
    reason = f"{out.size} rows are left out: the cosine of their gradient with another row's is at least that"
    return out, Choice("dedup", float(dedup), reason)
