"""Which rows a pool takes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spicerack.information.pools import NARROWEST, choose


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), size=st.integers(1, 40))
def test_no_row_outside_is_above_the_limit_and_none_inside_is_idle(seed, n, size):
    rng = np.random.default_rng(seed)
    base, loose = rng.normal(size=n), rng.random(n)
    among = rng.random(n) < 0.7
    among[rng.integers(n)] = True
    open_ = np.flatnonzero(among)
    least = float(base[among].max()) - 0.3
    must = open_[base[open_] >= least]

    chosen, outside, drift = choose(lambda drift: base + drift * loose, among, must, size, least, 0.5)

    keys = base + drift * loose
    rest = np.setdiff1d(np.arange(n), chosen)
    assert outside == keys[rest].max(initial=-np.inf)
    assert outside < least or drift < NARROWEST
    assert np.isin(must, chosen).all()
    assert among[chosen].all()
    assert (np.diff(chosen) > 0).all()
    extra = np.setdiff1d(chosen, must)
    assert extra.size <= size
    assert (keys[extra] > keys[~among].max(initial=-np.inf)).all()
