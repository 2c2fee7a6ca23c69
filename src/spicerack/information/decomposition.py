"""The epsilon-decomposition of a marginal gain, and the trace of a run that records it.

    gain_x(S) = base_x + epsilon_x(S),  base_x = gain_x(empty set),  epsilon_x(S) <= 0 for submodular information

All diminishing returns sit in epsilon: for A inside B, `gain_x(A) - gain_x(B) = epsilon_x(A) - epsilon_x(B) >= 0`
(arXiv 2601.23155). The identity holds exactly here, epsilon being the difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import FloatArray

TRACE_DTYPE = np.dtype([(name, np.float64) for name in ("gain", "base", "epsilon", "conflict", "score")])
"""Columns of a trace, one row a pick; `trace["gain"]` is (s,) float64."""


def trace_table(
    gain: FloatArray, base: FloatArray, conflict: FloatArray, penalty: float | FloatArray
) -> npt.NDArray[Any]:
    """The trace of a run from its columns, each (s,): epsilon is `gain - base`, score `gain - penalty * conflict`.

    The penalty is one number, or one a pick (s,).
    """
    table = np.empty(gain.size, dtype=TRACE_DTYPE)
    table["gain"], table["base"], table["conflict"] = gain, base, conflict
    table["epsilon"] = gain - base
    table["score"] = gain - penalty * conflict
    return table
