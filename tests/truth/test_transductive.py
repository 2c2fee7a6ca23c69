"""Transductive picks are those of a plain float64 loop from the definition, on the grid of the deferred engine."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import KINDS, make_room, make_rows, run

from spicerack.information import Penalty, RowMatrix, Transductive, greedy, matrix
from spicerack.information.conflict import ETA
from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.logdet import TIE
from spicerack.information.matrix import EPS
from spicerack.information.ties import smallest_best


def truth(G, T, alpha, penalty, room, center=None, stop_ratio=None):
    """Every step from the definition: `alpha |T M^{-1} x|^2 / (1 + alpha x M^{-1} x)`, M factored from the picks."""
    Y = G if center is None else G - center
    lengths = np.linalg.norm(Y, axis=1)
    picks, first = list(room.forced), None
    room.take_forced()
    while not room.full:
        root = np.linalg.inv(cholesky_of_moment(np.sqrt(alpha) * G[picks]))
        Z = G @ root
        gains = alpha * ((Z @ root.T @ T.T) ** 2).sum(axis=1) / (1.0 + alpha * (Z**2).sum(axis=1))
        mean = Y[picks].mean(axis=0) if picks else np.zeros(G.shape[1])
        if np.linalg.norm(Y[picks].sum(axis=0)) <= 1e-14 * lengths[picks].sum():
            mean = np.zeros(G.shape[1])
        opposed = np.maximum(0.0, -(Y @ mean) / (lengths * np.linalg.norm(mean) + ETA))
        rows = np.flatnonzero(room.open)
        weight = penalty.of(gains[rows].max())
        tolerance = max(TIE, 8.0 * EPS * (1.0 + alpha * (G[picks] ** 2).sum()))
        i = int(rows[smallest_best((gains - weight * opposed)[rows], gains[rows], tolerance, weight)])
        if stop_ratio is not None and first is not None and gains[i] <= stop_ratio * first:
            break
        first = gains[i] if first is None else first
        picks.append(i)
        room.take(i)
    return picks


def both(G, alpha, penalty, make, eligible, center=None, stop_ratio=None, target=None):
    T = G if target is None else target
    working = RowMatrix(G.astype(np.float32), lambda rows: G[rows])
    state = Transductive(working, T.T @ T, alpha)
    found = run(greedy, state, working, make, eligible, penalty, center, stop_ratio=stop_ratio)
    return found.indices.tolist(), truth(G, T, alpha, penalty, make(), center, stop_ratio)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", ["count", "tokens", "quotas", "token quotas", "forced"])
def test_picks_equal_the_definition(kind, limit):
    """24 cases each, 1,080 in all; more picks than dimensions in half of them."""
    seeds = itertools.count(100 * KINDS.index(kind) + len(limit))
    penalties = (Penalty(0.0), Penalty(0.1), Penalty(20.0), Penalty(0.3, relative=True))
    for alpha, penalty, (n, k, count) in itertools.product((1e-6, 1.0, 1e3), penalties, ((30, 4, 16), (36, 14, 10))):
        rng = np.random.default_rng(next(seeds))
        G = make_rows(kind, n, k, rng)
        center = G.mean(axis=0) if rng.random() < 0.33 else None
        stop = 0.3 if rng.random() < 0.2 else None
        target = rng.standard_normal((3, k)) if rng.random() < 0.3 else None
        make, eligible = make_room(limit, n, count, rng)
        found, expected = both(G, alpha, penalty, make, eligible, center, stop, target)
        assert found == expected, f"alpha {alpha}, {penalty}, n {n}, k {k}, stop {stop}"


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(4, 40),
    k=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
    alpha=st.floats(-6, 4).map(lambda x: 10.0**x),
    weight=st.sampled_from([0.0, 0.1, 3.0]),
    relative=st.booleans(),
    limit=st.sampled_from(["count", "tokens", "quotas", "forced"]),
)
def test_hypothesis_finds_no_pool_where_they_differ(seed, n, k, kind, alpha, weight, relative, limit):
    rng = np.random.default_rng(seed)
    G = make_rows(kind, n, k, rng)
    make, eligible = make_room(limit, n, max(1, n // 2), rng)
    found, expected = both(G, alpha, Penalty(weight, relative), make, eligible)
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", range(4))
def test_thousands_more(kind, block, monkeypatch):
    """Longer runs, by compiled loops and by numpy: rows that are settled again and again, hardly apart in half of them.

    A row that was settled is known better than its neighbors, and is overtaken by them within their slack.
    """
    rng = np.random.default_rng([block, KINDS.index(kind)])
    for case in range(60):
        monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0 if case % 2 else 1 << 40)
        n, k = int(rng.integers(40, 250)), int(rng.integers(2, 30))
        alpha = 10.0 ** rng.uniform(-6, 6)
        penalty = Penalty(float(rng.choice([0.0, 0.02, 0.1, 5.0])), bool(rng.random() < 0.3))
        G = make_rows(kind, n, k, rng)
        if case % 4 < 2:
            G[n // 2 :] = G[: n - n // 2] * (1.0 + 1e-6 * rng.standard_normal((n - n // 2, k)))
        limit = str(rng.choice(["count", "tokens", "quotas", "token quotas", "forced"]))
        make, eligible = make_room(limit, n, int(rng.integers(1, min(n, 4 * k) + 1)), rng)
        found, expected = both(G, alpha, penalty, make, eligible, G.mean(axis=0) if rng.random() < 0.3 else None)
        assert found == expected, f"case {case}: alpha {alpha}, {penalty}, n {n}, k {k}, {limit}"


@pytest.mark.parametrize("alpha", [1e-8, 1e8])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_passes_pick_as_float64_ones_at_extreme_alpha(kind, alpha):
    for seed, weight in itertools.product(range(4), (0.0, 0.1, 1e3)):
        rng = np.random.default_rng(seed)
        G = make_rows(kind, 40, 8, rng)
        make, eligible = make_room("count", 40, 20, rng)
        picks = []
        for rows_matrix in (RowMatrix(G), RowMatrix(G.astype(np.float32), lambda rows, G=G: G[rows])):
            state = Transductive(rows_matrix, G.T @ G, alpha)
            picks.append(run(greedy, state, rows_matrix, make, eligible, Penalty(weight)).indices.tolist())
        assert picks[0] == picks[1]


def test_a_streamed_matrix_gives_the_same_picks():
    rng = np.random.default_rng(1)
    G = (rng.standard_normal((3000, 16)) * rng.lognormal(0, 0.6, (3000, 1))).astype(np.float32)
    streamed = RowMatrix(
        None, lambda rows: G[rows].astype(np.float64), working_at=lambda rows: G[rows].copy(), shape=G.shape
    )
    make, eligible = make_room("count", 3000, 60, rng)
    C = G.T.astype(np.float64) @ G
    both_ways = [
        run(greedy, Transductive(m, C, 1.0), m, make, eligible, Penalty(0.1)) for m in (streamed, RowMatrix(G))
    ]
    np.testing.assert_array_equal(both_ways[0].indices, both_ways[1].indices)
