"""How crowded the direction of each row is: a kernel density on the sphere.

    rho_i = mean over rows j of exp(SHARPNESS (cos_ij - 1))

It is 1 for rows that are all alike, and `exp(-SHARPNESS)` for a row that stands against all others. The mean is taken
over all usable rows, or over a sample of them (anchors), so that time is linear in the pool.
"""

from __future__ import annotations

import numpy as np

from spicerack.information.clusters import Blocks, sample_rows
from spicerack.information.matrix import BoolArray, FloatArray

SHARPNESS = 10.0
ANCHORS = 4096


def densities(blocks: Blocks, usable: BoolArray, *, anchors: int = ANCHORS, seed: int = 0) -> FloatArray:
    """Density of each row, (n,), in (0, 1]; 1 for rows that are not usable.

    Args:
        blocks: gives all rows (n, k) at unit length, a block at a time, each time it is called.
        usable: rows that count, (n,); at least one.
        anchors: rows that the mean is taken over, at most.
        seed: of the anchors, where there are more rows.
    """
    among = sample_rows(blocks, usable, anchors, np.random.Generator(np.random.PCG64(seed)))
    density = np.ones(usable.size)
    for part, rows in blocks():
        cosines = (rows @ among.T).astype(np.float64)
        density[part] = np.exp(SHARPNESS * (np.minimum(cosines, 1.0) - 1.0)).mean(axis=1)
    density[~usable] = 1.0
    return density
