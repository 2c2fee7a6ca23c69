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
    found = np.full((len(prompts), count), -1, dtype=np.int64)
    names = np.array([str(source) for source in sources], dtype=object)
    for name in np.unique(names):
        members = np.flatnonzero((names == name) & (prompts != 0))
        distinct, first, place = np.unique(prompts[members], return_index=True, return_inverse=True)
        for step in range(1, min(count, len(distinct) - 1) + 1):
            found[members, step - 1] = members[first[(place + step) % len(distinct)]]
    return found
