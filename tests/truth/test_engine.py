"""The deferred engine picks what the plain loop picks, on a grid of awkward pools and on whatever hypothesis finds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import (
    AdaFisherCode,
    Conflict,
    DiagonalFisher,
    FullFisher,
    Penalty,
    Quotas,
    Room,
    RowMatrix,
    deferred_greedy,
    greedy,
    greedy_truth,
    lazy_greedy,
)
from spicerack.information.pools import Depth

SMALL = (Depth(rows=12, picks=9), Depth(rows=5, picks=4))
KINDS = ("plain", "unit", "heavy", "duplicates", "heavy duplicates", "near duplicates", "low rank", "opposed", "giant")


def make_rows(kind, n, k, rng):
    G = rng.standard_normal((n, k))
    heavy = G * np.exp(1.5 * rng.standard_normal(n))[:, None]
    few = rng.integers(0, max(1, n // 4), n)
    return {
        "plain": lambda: G,
        "unit": lambda: G / np.linalg.norm(G, axis=1, keepdims=True),
        "heavy": lambda: heavy,
        "duplicates": lambda: G[few],
        "heavy duplicates": lambda: heavy[few],
        "near duplicates": lambda: G[few] + 1e-5 * G,
        "low rank": lambda: rng.standard_normal((n, 2)) @ rng.standard_normal((2, k)) + 1e-3 * G,
        "opposed": lambda: np.vstack([G[: n // 2], -G[: n - n // 2]]),
        "giant": lambda: np.vstack([G[:-1], 1e6 * G[-1:]]),
    }[kind]()


def make_room(limit, n, count, rng):
    tokens = rng.integers(1, 30, n)
    group = rng.integers(-1, 3, n)
    eligible = rng.random(n) < 0.9
    eligible[:3] = True
    count = min(count, int(eligible.sum()))
    held = np.bincount(group[eligible & (group >= 0)], minlength=3)
    least = np.minimum(held, count // 6)
    most = np.maximum(least, np.minimum(held, count // 2 + 1))
    quotas = Quotas(("a", "b", "c"), group, least, most)
    free = int((eligible & (group < 0)).sum())
    reach = int(most.sum()) + free
    forced = [int(i) for i in rng.permutation(np.flatnonzero(eligible))[: min(2, count)]]
    make = {
        "count": lambda: Room(eligible, count=count),
        "tokens": lambda: Room(eligible, capacity=int(tokens[eligible].sum() // 3) + 30, tokens=tokens),
        "quotas": lambda: Room(eligible, count=min(count, reach), quotas=quotas),
        "token quotas": lambda: Room(
            eligible, capacity=int(tokens[eligible].sum() // 2) + 30, tokens=tokens, quotas=quotas
        ),
        "forced": lambda: Room(eligible, count=count, forced=forced),
    }[limit]
    return make, eligible


def run(loop, state, matrix, make, eligible, penalty, center=None, **options):
    return loop(state, Conflict(matrix, center), penalty=penalty, room=make(), eligible=eligible, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", ["count", "tokens", "quotas", "token quotas", "forced"])
def test_deferred_picks_equal_the_plain_loop_in_float64(kind, limit):
    """54 cases each, 2,430 in all: the truth is the plain loop on exact rows. Some are centered, some stop early."""
    seeds = itertools.count(hash((KINDS.index(kind), len(limit))) % 1000)
    shapes = ((40, 6, 25), (60, 24, 18), (30, 3, 30))
    penalties = (Penalty(0.0), Penalty(0.1), Penalty(50.0), Penalty(1e3), Penalty(0.3, relative=True), Penalty(0.02))
    for alpha, penalty, (n, k, count) in itertools.product((1e-8, 1.0, 1e8), penalties, shapes):
        rng = np.random.default_rng(next(seeds))
        G = make_rows(kind, n, k, rng)
        center = G.mean(axis=0) if rng.random() < 0.33 else None
        stop = 0.3 if rng.random() < 0.2 else None
        make, eligible = make_room(limit, n, count, rng)
        exact, working = RowMatrix(G), RowMatrix(G.astype(np.float32), lambda rows, G=G: G[rows])
        common = (make, eligible, penalty, center)
        truth = run(greedy, FullFisher(exact, alpha), exact, *common, stop_ratio=stop)
        found = run(deferred_greedy, FullFisher(working, alpha), working, *common, stop_ratio=stop, depths=SMALL)
        case = f"alpha {alpha}, {penalty}, n {n}, k {k}, centered {center is not None}, stop {stop}"
        np.testing.assert_array_equal(found.indices, truth.indices, err_msg=case)
        assert found.stopped == truth.stopped
        np.testing.assert_allclose(found.trace["gain"], truth.trace["gain"], rtol=1e-6, atol=1e-12, err_msg=case)


@pytest.mark.parametrize("kind", KINDS)
def test_both_equal_the_definition(kind):
    rng = np.random.default_rng(5)
    for alpha, weight, relative, stop in itertools.product((1e-3, 1.0, 1e4), (0.1, 2.0), (False, True), (None, 0.3)):
        G = make_rows(kind, 40, 8, rng)
        eligible, center = np.ones(40, dtype=bool), G.mean(axis=0)
        truth = greedy_truth(
            G, alpha=alpha, penalty=weight, relative=relative, count=30, stop_ratio=stop, center=center
        )
        for loop, options in ((greedy, {}), (deferred_greedy, {"depths": SMALL})):
            matrix = RowMatrix(G.astype(np.float32), lambda rows, G=G: G[rows])
            found = run(
                loop,
                FullFisher(matrix, alpha),
                matrix,
                lambda eligible=eligible: Room(eligible, count=30),
                eligible,
                Penalty(weight, relative),
                center,
                stop_ratio=stop,
                **options,
            )
            np.testing.assert_array_equal(found.indices, truth, err_msg=f"{loop.__name__} {alpha} {weight} {relative}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", range(8))
def test_ten_thousand_more(kind, block):
    """Shapes, alpha, penalty, room and depths at random."""
    rng = np.random.default_rng([block, KINDS.index(kind)])
    for _ in range(140):
        n, k = int(rng.integers(4, 120)), int(rng.integers(1, 40))
        alpha = 10.0 ** rng.uniform(-8, 8)
        penalty = Penalty(float(rng.choice([0.0, 0.02, 0.1, 0.5, 5.0, 1e3])), bool(rng.random() < 0.3))
        G = make_rows(kind, n, k, rng)
        limit = str(rng.choice(["count", "tokens", "quotas", "token quotas", "forced"]))
        make, eligible = make_room(limit, n, int(rng.integers(1, n + 1)), rng)
        depths = tuple(
            Depth(rows=max(2, int(n * share)), picks=int(rng.integers(1, 20))) for share in sorted(rng.random(3))[::-1]
        )
        center = G.mean(axis=0) if rng.random() < 0.3 else None
        stop = float(rng.uniform(0.1, 1.0)) if rng.random() < 0.2 else None
        exact, working = RowMatrix(G), RowMatrix(G.astype(np.float32), lambda rows, G=G: G[rows])
        common = (make, eligible, penalty, center)
        truth = run(greedy, FullFisher(exact, alpha), exact, *common, stop_ratio=stop)
        found = run(deferred_greedy, FullFisher(working, alpha), working, *common, stop_ratio=stop, depths=depths)
        np.testing.assert_array_equal(found.indices, truth.indices, err_msg=f"{alpha} {penalty} {n} {k} {limit}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make_state", [DiagonalFisher, AdaFisherCode])
def test_lazy_diagonal_picks_equal_the_plain_loop(kind, make_state):
    seeds = itertools.count(7)
    for alpha, weight, limit in itertools.product((1e-6, 1.0, 1e6), (0.0, 0.1, 5.0), ("count", "tokens", "quotas")):
        rng = np.random.default_rng(next(seeds))
        G = make_rows(kind, 50, 7, rng)
        make, eligible = make_room(limit, 50, 20, rng)
        penalty = Penalty(weight, relative=weight == 5.0)
        exact, working = RowMatrix(G), RowMatrix(G.astype(np.float32), lambda rows, G=G: G[rows])
        truth = run(greedy, make_state(exact, alpha), exact, make, eligible, penalty)
        found = run(lazy_greedy, make_state(working, alpha), working, make, eligible, penalty, pool=13)
        np.testing.assert_array_equal(found.indices, truth.indices, err_msg=f"{alpha} {weight} {limit}")


def test_scores_of_all_rows_are_those_of_the_plain_loop():
    rng = np.random.default_rng(0)
    G, eligible = rng.standard_normal((300, 20)), np.ones(300, dtype=bool)
    matrix = RowMatrix(G.astype(np.float32), lambda rows: G[rows])
    results = [
        run(loop, FullFisher(matrix, 1.0), matrix, lambda: Room(eligible, count=60), eligible, Penalty(0.2), **options)
        for loop, options in ((greedy, {}), (deferred_greedy, {"depths": SMALL}))
    ]
    np.testing.assert_allclose(results[0].scores, results[1].scores, atol=2e-5)


def test_a_streamed_matrix_gives_the_same_picks():
    rng = np.random.default_rng(1)
    G = (rng.standard_normal((3000, 16)) * rng.lognormal(0, 0.6, (3000, 1))).astype(np.float32)
    eligible = np.ones(3000, dtype=bool)
    streamed = RowMatrix(
        None, lambda rows: G[rows].astype(np.float64), working_at=lambda rows: G[rows].copy(), shape=G.shape
    )
    both = [
        run(deferred_greedy, FullFisher(m, 1.0), m, lambda: Room(eligible, count=400), eligible, Penalty(0.1))
        for m in (streamed, RowMatrix(G))
    ]
    np.testing.assert_array_equal(both[0].indices, both[1].indices)
    plain = RowMatrix(G)
    truth = run(greedy, FullFisher(plain, 1.0), plain, lambda: Room(eligible, count=400), eligible, Penalty(0.1))
    np.testing.assert_array_equal(both[0].indices, truth.indices)


def test_thousands_of_equal_rows_are_picked_in_order():
    G, eligible = np.ones((9000, 3), dtype=np.float32), np.ones(9000, dtype=bool)
    matrix = RowMatrix(G)
    found = run(
        deferred_greedy, FullFisher(matrix, 1.0), matrix, lambda: Room(eligible, count=5), eligible, Penalty(0.1)
    )
    assert found.indices.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    k=st.integers(1, 20),
    kind=st.sampled_from(KINDS),
    alpha=st.floats(-8, 8).map(lambda x: 10.0**x),
    weight=st.sampled_from([0.0, 0.05, 0.1, 1.0, 1e3]),
    relative=st.booleans(),
    limit=st.sampled_from(["count", "tokens", "quotas", "forced"]),
    share=st.floats(0.05, 1.0),
)
def test_hypothesis_finds_no_pool_where_the_engine_differs(seed, n, k, kind, alpha, weight, relative, limit, share):
    rng = np.random.default_rng(seed)
    n = max(n, 4)
    G = make_rows(kind, n, k, rng)
    make, eligible = make_room(limit, n, max(1, round(share * n)), rng)
    exact, working = RowMatrix(G), RowMatrix(G.astype(np.float32), lambda rows: G[rows])
    penalty = Penalty(weight, relative)
    truth = run(greedy, FullFisher(exact, alpha), exact, make, eligible, penalty)
    found = run(deferred_greedy, FullFisher(working, alpha), working, make, eligible, penalty, depths=SMALL)
    np.testing.assert_array_equal(found.indices, truth.indices)
