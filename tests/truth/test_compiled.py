"""Compiled loops pick what numpy picks: which of the two makes a pass hangs on the size of the pool alone."""

import numpy as np
import pytest

from spicerack.information import matrix
from spicerack.selectors import select


@pytest.mark.parametrize("objective", ["volume", "transductive"])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("form", ["plain", "unit", "sqrt"])
@pytest.mark.parametrize("seed", range(5))
def test_picks_do_not_depend_on_who_multiplies(objective, penalty, form, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((150, 600 if seed == 0 else 12)) * np.exp(rng.standard_normal((150, 1)))
    G[40:60] = G[20:40]  # exact duplicates: ties that rounding must not decide
    picks = []
    for above in (0, 1 << 40):
        monkeypatch.setattr(matrix, "NATIVE_ABOVE", above)
        given = {"objective": objective, "penalty": penalty, "rows": form, "certify": False}
        picks.append(select(G.astype(np.float32), "spice", 40, **given).indices.tolist())
    assert picks[0] == picks[1]
