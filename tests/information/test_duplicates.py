"""Near-duplicates are those of the obvious loop over all pairs, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spicerack.information import duplicates
from spicerack.information.duplicates import near_duplicates


def slow_truth(X, order, cosine, always=0):
    found, kept = np.full(len(X), -1), []
    for place, i in enumerate(order):
        near = [j for j in kept if np.float32(X[i] @ X[j]) >= cosine - 1e-6]
        if near and place >= always:
            found[i] = near[0]
        else:
            kept.append(i)
    return found


def fast(X, order, cosine, size=7, always=0):
    blocks = lambda: ((slice(at, min(at + size, len(X))), X[at : at + size]) for at in range(0, len(X), size))  # noqa: E731
    return near_duplicates(blocks, lambda rows: X[rows], len(X), np.asarray(order), cosine, always=always)


def copies(n, k, distinct, noise, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((distinct, k))[rng.integers(0, distinct, n)] + noise * rng.standard_normal((n, k))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 24),
    distinct=st.integers(1, 20),
    noise=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    cosine=st.sampled_from([0.3, 0.8, 0.9, 0.97, 1.0]),
    seed=st.integers(0, 999),
    always=st.sampled_from([0, 0, 1, 9]),
)
def test_they_are_those_of_all_pairs(n, k, distinct, noise, cosine, seed, always):
    X = copies(n, k, distinct, noise, seed)
    order = np.random.default_rng(seed).permutation(n)[: max(1, n - 3)]
    always = min(always, order.size)
    distance = np.abs(X @ X.T - (cosine - 1e-6))
    assume(cosine == 1.0 or distance.min() > 1e-5)  # else rounding decides
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ROWS_AT_ONCE": 5,
            "KEPT_AT_ONCE": 4,
            "PAIRS_AT_ONCE": 3,
            "DIMENSION": 6,
            "SAMPLE": 9,
        }.items():
            patch.setattr(duplicates, name, value)
        assert fast(X, order, cosine, always=always).tolist() == slow_truth(X, order, cosine, always).tolist()


def test_a_row_near_a_dropped_one_alone_stays():
    """No chains: what counts is a row that was kept."""
    angles = np.deg2rad([0.0, 20.0, 40.0])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    cosine = float(np.cos(np.deg2rad(25.0)))
    assert fast(X, [0, 1, 2], cosine).tolist() == [-1, 0, -1]
    assert fast(X, [1, 0, 2], cosine).tolist() == [1, -1, 1]


def test_few_pairs_are_compared_whole(monkeypatch):
    X = copies(2000, 64, 300, 0.2, 0)
    compared = []
    pairs = duplicates._gathered
    monkeypatch.setattr(duplicates, "_gathered", lambda at, rows: compared.append(rows.size) or pairs(at, rows))
    monkeypatch.setattr(duplicates, "DIMENSION", 32)
    found = fast(X, np.arange(2000), 0.9, size=500)
    assert found.tolist() == slow_truth(X, range(2000), 0.9).tolist()
    assert sum(compared) / 2 < 0.05 * 2000 * 2000 / 2
