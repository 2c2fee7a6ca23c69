"""Who may win a step: the compiled loops find what numpy finds, and nobody who could win is left out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information.contest import Field


def fields(seed, n, weight, slope, closed):
    rng = np.random.default_rng(seed)
    gains, conflict, vector = (rng.integers(0, 6, n) / 4.0 for _ in range(3))  # ties are frequent
    open_ = rng.random(n) >= closed
    open_[rng.integers(n)] = True
    given = (gains, conflict if weight else None, weight, open_, vector, slope)
    return Field(*given, many=False), Field(*given, many=True), given


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    weight=st.sampled_from([0.0, 0.25, 2.0]),
    slope=st.sampled_from([0.0, 0.5]),
    closed=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_compiled_loops_find_what_numpy_finds(seed, n, weight, slope, closed):
    plain, compiled, (gains, conflict, _, open_, vector, _) = fields(seed, n, weight, slope, closed)
    scores = gains - (weight * conflict if weight else 0.0)
    top, best, most = plain.best()
    assert compiled.best() == (top, best, most)
    assert best == scores[open_].max()
    assert top == np.flatnonzero(open_ & (scores == best))[0]
    for least in (most, best, best - 0.5, best - 10.0):
        kept = plain.above(least)
        np.testing.assert_array_equal(compiled.above(least), kept)
        np.testing.assert_array_equal(kept, np.flatnonzero(open_ & (scores + slope * vector >= least)))
