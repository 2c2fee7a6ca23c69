"""The relaxation's bound: above every allowed set, tighter than the online bound, honest about what it skips."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import Allowance, DiagonalFisher, FullFisher, RowMatrix, certify
from spicerack.information import relaxation as module
from spicerack.information.certificate import greedy_factor
from spicerack.information.greedy import greedy_truth
from spicerack.information.inverse import cholesky_of_moment
from spicerack.information.relaxation import fill, relaxation_bound
from spicerack.selectors import select


def information(G, alpha, rows, diagonal=False):
    X = np.sqrt(alpha) * G[list(rows)]
    if diagonal:
        return np.log1p((X**2).sum(axis=0)).sum()
    return 2.0 * np.log(np.abs(np.diag(cholesky_of_moment(X)))).sum()


def optimum(G, alpha, allowance, diagonal=False):
    n = len(G)
    if allowance.count is not None:
        return max(
            information(G, alpha, rows, diagonal) for rows in itertools.combinations(range(n), min(n, allowance.count))
        )
    sets = (rows for size in range(n + 1) for rows in itertools.combinations(range(n), size))
    return max(
        information(G, alpha, rows, diagonal)
        for rows in sets
        if allowance.tokens[list(rows)].sum() <= allowance.capacity
    )


def bound(G, alpha, rows, allowance, diagonal=False, **options):
    state = (DiagonalFisher if diagonal else FullFisher)(RowMatrix(G), alpha)
    state.absorb(np.asarray(rows, dtype=np.int64))
    relaxed = relaxation_bound(state, np.asarray(rows), eligible=np.ones(len(G), bool), allowance=allowance, **options)
    return relaxed.bound


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("n", "k"), [(12, 3), (10, 15)])
@pytest.mark.parametrize("alpha", [1e-8, 1e-2, 1.0, 1e3, 1e8, 1e12])
def test_no_set_of_the_same_size_is_above_the_bound(n, k, alpha, diagonal):
    rng = np.random.default_rng(0)
    G = rng.standard_normal((n, k)) * np.exp(2.0 * rng.standard_normal((n, 1)))
    for count in (1, 4, n - 1):
        best = optimum(G, alpha, Allowance(count=count), diagonal)
        for rows in (greedy_truth(G, alpha=alpha, penalty=0.0, count=count), rng.permutation(n)[:count]):
            assert best <= bound(G, alpha, rows, Allowance(count=count), diagonal)


@pytest.mark.parametrize("alpha", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("diagonal", [False, True])
def test_no_set_within_the_tokens_is_above_the_bound(alpha, diagonal):
    rng = np.random.default_rng(1)
    G, tokens = rng.standard_normal((10, 4)), rng.integers(0, 20, 10)
    for capacity in (3, 25, 60, 1000):
        allowance = Allowance(capacity=capacity, tokens=tokens)
        best = optimum(G, alpha, allowance, diagonal)
        assert best <= bound(G, alpha, np.flatnonzero(np.cumsum(tokens) <= capacity), allowance, diagonal)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 8),
    k=st.integers(1, 9),
    exponent=st.floats(-8, 12),
    kind=st.sampled_from(["plain", "copies", "zeros", "outlier"]),
    paid=st.booleans(),
    diagonal=st.booleans(),
)
def test_the_bound_is_never_below_the_optimum(seed, n, k, exponent, kind, paid, diagonal):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, k))
    if kind == "copies":
        G = G[rng.integers(0, max(1, n // 2), n)]
    elif kind == "zeros":
        G[rng.random(n) < 0.5] = 0.0
    elif kind == "outlier":
        G[0] *= 1e6
    tokens = rng.integers(0, 9, n)
    count = int(rng.integers(1, n + 1))
    allowance = Allowance(capacity=int(rng.integers(1, 20)), tokens=tokens) if paid else Allowance(count=count)
    rows = np.flatnonzero(np.cumsum(tokens) <= allowance.capacity) if paid else rng.permutation(n)[:count]
    best = optimum(G, 10.0**exponent, allowance, diagonal)
    found = bound(G, 10.0**exponent, rows, allowance, diagonal)
    assert best * (1 - 1e-12) <= found  # the truth itself is known to a few ulps


@pytest.mark.parametrize(("n", "k"), [(3000, 24), (1500, 1100), (3000, 1800)])
def test_the_bound_holds_over_all_rows_when_only_candidates_take_part(n, k, monkeypatch):
    """Every way of the linear algebra: identity basis, and a basis of the candidates with dimensions left over."""
    monkeypatch.setattr(module, "CANDIDATE_BYTES", 8 * k * 120)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((n, k)) * (1.0 + np.arange(k)) ** -0.7 * np.exp(0.6 * rng.standard_normal((n, 1)))
    alpha = 1.0 / np.median((G**2).sum(axis=1))
    state = FullFisher(RowMatrix(G), alpha)
    rows = np.argsort(-(G**2).sum(axis=1))[:80]
    state.absorb(rows)
    eligible, allowance = np.ones(n, bool), Allowance(count=80)
    relaxed = relaxation_bound(state, rows, eligible=eligible, allowance=allowance)
    online = state.value + allowance.best_sum(state.gains(), np.setdiff1d(np.arange(n), rows))
    better, picked = FullFisher(RowMatrix(G), alpha), []
    for _ in range(80):
        gains = better.gains().copy()
        gains[picked] = -1.0
        picked.append(int(np.argmax(gains)))
        better.add(picked[-1])
    assert state.value < better.value <= relaxed.bound < online


def test_it_is_tighter_than_the_online_bound_and_certify_says_which_won():
    G = np.random.default_rng(0).standard_normal((400, 40))
    rows = greedy_truth(G, alpha=0.1, penalty=0.0, count=60)
    state = FullFisher(RowMatrix(G), 0.1)
    state.absorb(rows)
    certificate = certify(state, rows, eligible=np.ones(400, bool), allowance=Allowance(count=60))
    assert certificate.method == "relaxation"
    assert certificate.share > 0.9
    assert certificate.curvature_factor == pytest.approx((1 - np.exp(-certificate.curvature)) / certificate.curvature)


def test_equal_runs_give_equal_bounds():
    G = np.random.default_rng(0).standard_normal((200, 20))
    assert bound(G, 1.0, range(10), Allowance(count=10)) == bound(G, 1.0, range(10), Allowance(count=10))


def test_what_would_cost_too_much_is_skipped_with_its_cost(monkeypatch):
    G = np.random.default_rng(0).standard_normal((200, 20))
    state = FullFisher(RowMatrix(G), 1.0)
    state.absorb(np.arange(10))
    everything, allowance = np.ones(200, bool), Allowance(count=10)
    relaxed = relaxation_bound(state, np.arange(10), eligible=everything, allowance=allowance, flops=10.0)
    assert np.isinf(relaxed.bound)
    assert "floating-point operations" in relaxed.skipped
    monkeypatch.setattr(module, "FLOPS_CEILING", 10.0)
    certificate = certify(state, np.arange(10), eligible=everything, allowance=allowance)
    assert certificate.curvature is None
    assert certificate.curvature_factor is None
    assert [note.partition(":")[0] for note in certificate.notes] == ["no relaxation bound", "no curvature"]


@settings(max_examples=100, deadline=None)
@given(
    worth=st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=20),
    total=st.floats(0.5, 40),
    seed=st.integers(0, 1000),
)
def test_fill_spends_the_total_and_keeps_proportions(worth, total, seed):
    costs = np.random.default_rng(seed).integers(0, 5, len(worth)).astype(float)
    worth = np.array(worth)
    weights = fill(worth, costs, total)
    assert ((weights >= 0.0) & (weights <= 1.0)).all()
    assert (weights[costs == 0.0] == 1.0).all()
    paid = (costs > 0.0) & (worth > 0.0)
    assert (costs * weights).sum() == pytest.approx(min(total, costs[paid].sum()), rel=1e-6)
    free = paid & (weights < 1.0)
    if free.any():
        ratio = weights[free] / worth[free]
        assert ratio == pytest.approx(np.full(free.sum(), ratio[0]), rel=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 2.0])
def test_the_greedy_factor_holds_against_the_optimum(penalty):
    for seed in range(8):
        G = np.random.default_rng(seed).standard_normal((10, 4))
        rows = greedy_truth(G, alpha=1.0, penalty=penalty, count=4)
        values = [information(G, 1.0, rows[:t]) for t in range(5)]
        gains = np.diff(values)
        conflicts = []
        for t, i in enumerate(rows):
            mean = G[rows[:t]].mean(axis=0) if t else np.zeros(4)
            length = np.linalg.norm(G[i]) * np.linalg.norm(mean)
            conflicts.append(max(0.0, -G[i] @ mean / length) if length else 0.0)
        factor = greedy_factor(gains, gains - penalty * np.array(conflicts), penalty=penalty, count=4)
        assert values[-1] >= factor * optimum(G, 1.0, Allowance(count=4))
        if penalty == 0.0:
            assert factor == pytest.approx(1 - (1 - 1 / 4) ** 4, rel=1e-5)
        else:
            assert 0.0 < factor < 1 - (1 - 1 / 4) ** 4


def test_select_reports_the_factors_where_they_hold():
    G = np.random.default_rng(0).standard_normal((60, 8))
    plain = select(G, budget=20, penalty=0.0).certificate
    assert plain.greedy_factor == pytest.approx(1 - (1 - 1 / 20) ** 20, rel=1e-4)
    assert 0.0 < select(G, budget=20, penalty=0.5).certificate.greedy_factor < plain.greedy_factor
    assert select(G, budget=20, schedule="pools", pool_size=20, pool_picks=10).certificate.greedy_factor is None
    assert select(G, budget="200 tokens", tokens=np.full(60, 10)).certificate.greedy_factor is None
    assert select(G, budget=20, fisher="diag").certificate.curvature_factor is None
    assert select(G, budget=20, stop_ratio=0.8).certificate.greedy_factor is not None


def test_a_skipped_bound_is_among_the_choices(monkeypatch):
    monkeypatch.setattr(module, "FLOPS_FLOOR", 10.0)
    monkeypatch.setattr(module, "FLOPS_CEILING", 10.0)
    found = select(np.random.default_rng(0).standard_normal((60, 8)), budget=20)
    reasons = [choice["reason"] for choice in found.manifest["choices"] if choice["name"] == "certificate"]
    assert [reason.partition(":")[0] for reason in reasons] == ["no relaxation bound", "no curvature"]


def test_few_picks_among_nearly_orthogonal_rows_are_certified_by_the_product_form(monkeypatch):
    rng = np.random.default_rng(0)
    G = rng.standard_normal((1500, 300)) * np.exp(0.6 * rng.standard_normal((1500, 1)))
    G /= np.sqrt(np.median((G**2).sum(axis=1)))
    state, rows = FullFisher(RowMatrix(G), 1.0), []
    for _ in range(12):
        gains = state.gains().copy()
        gains[rows] = -1.0
        rows.append(int(np.argmax(gains)))
        state.add(rows[-1])
    options = {"eligible": np.ones(1500, bool), "allowance": Allowance(count=12)}
    found = relaxation_bound(state, np.array(rows), **options).bound
    monkeypatch.setattr(module, "DAMPING", ())
    assert state.value < found < 0.9 * relaxation_bound(state, np.array(rows), **options).bound
