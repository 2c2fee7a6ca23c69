"""Other instructions for a response: rows of the same source, chosen by what they hold and not by where they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def other_prompts(prompts: npt.NDArray[np.uint64], sources: Sequence[str | None], count: int) -> npt.NDArray[np.int64]:
    """For each row, rows of its source that have other prompts.

    The distinct prompts of a source stand in a circle in the order of their digests, and a row gets those that follow
    its own: as good as drawn, yet the same however the pool is shuffled.

    Args:
        prompts: (n,) digest of each row's prompt, 0 for none.
        sources: (n,) names; rows without one are of one source.
        count: other prompts of each row, >= 1.

    Returns:
        (n, count) row numbers, of equal prompts the first row's; -1 where a source has no more.
    """
    _, labels = np.unique(np.array([str(source) for source in sources], dtype=object), return_inverse=True)
    rows = np.flatnonzero(prompts != 0)
    rows = rows[np.lexsort((rows, prompts[rows], labels[rows]))]
    new = np.ones(len(rows), dtype=bool)  # where a prompt of a source is met for the first time
    new[1:] = (np.diff(labels[rows]) != 0) | (prompts[rows][1:] != prompts[rows][:-1])
    first = rows[new]
    _, begins, sizes = np.unique(labels[first], return_index=True, return_counts=True)
    circle = np.repeat(np.arange(len(sizes)), sizes)[np.cumsum(new) - 1]
    place, begin, size = np.cumsum(new) - 1 - begins[circle], begins[circle], sizes[circle]
    found = np.full((len(prompts), count), -1, dtype=np.int64)
    for step in range(1, count + 1):
        found[rows, step - 1] = np.where(step < size, first[begin + (place + step) % size], -1)
    return found
