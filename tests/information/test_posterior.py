"""The certificate of the transductive objective: above every allowed set, never below the set it certifies."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import Allowance, RowMatrix, Transductive, certify_transductive, second_moment
from spicerack.information import posterior as module
from spicerack.information.inverse import cholesky_of_moment
from spicerack.selectors import select


def value(G, T, alpha, rows):
    """`|T|^2 - |T M^{-1/2}|^2`, M factored from the rows themselves."""
    root = np.linalg.inv(cholesky_of_moment(np.sqrt(alpha) * G[list(rows)]))
    return (T**2).sum() - ((T @ root) ** 2).sum()


def allowed_sets(n, allowance):
    if allowance.count is not None:
        return list(itertools.combinations(range(n), min(n, allowance.count)))
    sets = (rows for size in range(n + 1) for rows in itertools.combinations(range(n), size))
    return [rows for rows in sets if allowance.tokens[list(rows)].sum() <= allowance.capacity]


def certificate(G, T, alpha, rows, allowance, **options):
    state = Transductive(RowMatrix(G), T.T @ T, alpha)
    rows = np.array(rows, dtype=np.int64)
    state.absorb(rows)
    return certify_transductive(state, rows, eligible=np.ones(len(G), bool), allowance=allowance, **options)


def rows_of(kind, n, k, rng):
    G = rng.standard_normal((n, k)) * np.exp(rng.standard_normal((n, 1)))
    if kind == "copies":
        G = G[rng.integers(0, max(1, n // 2), n)]
    elif kind == "zeros":
        G[rng.random(n) < 0.5] = 0.0
    elif kind == "outlier":
        G[0] *= 1e6
    return G


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 9),
    k=st.integers(1, 9),
    exponent=st.floats(-8, 8),
    kind=st.sampled_from(["plain", "copies", "zeros", "outlier"]),
    own=st.booleans(),
    paid=st.booleans(),
)
def test_no_allowed_set_is_above_the_bound(seed, n, k, exponent, kind, own, paid):
    rng = np.random.default_rng(seed)
    G = rows_of(kind, n, k, rng)
    T = G if own else rng.standard_normal((int(rng.integers(1, 5)), k))
    tokens = rng.integers(0, 9, n)
    allowance = (
        Allowance(capacity=int(rng.integers(1, 20)), tokens=tokens)
        if paid
        else Allowance(count=int(rng.integers(1, n + 1)))
    )
    sets, alpha = allowed_sets(n, allowance), 10.0**exponent
    best = max(value(G, T, alpha, rows) for rows in sets)
    found = certificate(G, T, alpha, sets[int(rng.integers(len(sets)))], allowance)
    rounding = 1e-13 * (T**2).sum()  # of the truth, a difference
    assert best * (1 - 1e-9) - rounding <= found.upper_bound
    assert found.information <= found.upper_bound
    assert 0.0 <= found.share <= 1.0


@pytest.mark.parametrize("n", [11, 12])
def test_greedy_is_shown_close_to_the_optimum(n):
    rng = np.random.default_rng(n)
    G = rng.standard_normal((n, 4))
    for count in (2, 4, 6):
        found = select(G, budget=count, objective="transductive", alpha=1.0, penalty=0.0)
        scaled = G / np.sqrt(n)  # C is the mean over the target's rows
        best = max(value(G, scaled, 1.0, rows) for rows in itertools.combinations(range(n), count))
        assert found.certificate.information == pytest.approx(value(G, scaled, 1.0, found.indices), rel=1e-9)
        assert best <= found.certificate.upper_bound * (1 + 1e-12)
        assert found.certificate.upper_bound < 1.35 * best
        assert "of the best possible information about the pool for this budget" in found.certificate.sentence()


@pytest.mark.parametrize(("n", "k"), [(3000, 24), (1300, 1100)])
def test_the_bound_holds_over_all_rows_when_only_candidates_take_part(n, k, monkeypatch):
    """With fewer candidates than dimensions, and with more."""
    monkeypatch.setattr("spicerack.information.relaxation.CANDIDATE_BYTES", 8 * k * 120)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((n, k)) * (1.0 + np.arange(k)) ** -0.7 * np.exp(0.6 * rng.standard_normal((n, 1)))
    matrix = RowMatrix(G)
    alpha = 1.0 / np.median(matrix.squared_norms)
    C = second_moment(matrix) / n
    state, better = Transductive(matrix, C, alpha), Transductive(matrix, C, alpha)
    worse = np.argsort(-matrix.squared_norms)[:40]
    state.absorb(worse)
    for _ in range(40):
        better.add(int(np.argmax(better.gains())))
    found = certify_transductive(state, worse, eligible=np.ones(n, bool), allowance=Allowance(count=40))
    assert found.method == "relaxation"
    assert state.value < better.value <= found.upper_bound < 2.0 * better.value


def test_without_arithmetic_to_spend_the_other_bounds_stand_and_the_note_says_why():
    rng = np.random.default_rng(0)
    G = rng.standard_normal((30, 5))
    rich = certificate(G, G, 1.0, range(4), Allowance(count=4))
    poor = certificate(G, G, 1.0, range(4), Allowance(count=4), flops=1.0)
    assert poor.method in ("online", "empty set")
    assert rich.upper_bound <= poor.upper_bound
    assert "no relaxation bound: it needs" in poor.notes[0]
    assert rich.notes == ()


def test_a_target_that_asks_for_nothing_is_met():
    found = certificate(np.eye(3), np.zeros((1, 3)), 1.0, [0], Allowance(count=1))
    assert (found.information, found.upper_bound, found.share) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("few", [0, 1024])
def test_singular_targets_of_any_dimension(few, monkeypatch):
    monkeypatch.setattr(module, "EIGEN_BELOW", few)
    rng = np.random.default_rng(1)
    G, T = rng.standard_normal((9, 6)), rng.standard_normal((2, 6))
    best = max(value(G, T, 1.0, rows) for rows in itertools.combinations(range(9), 3))
    found = certificate(G, T, 1.0, range(3), Allowance(count=3))
    assert best <= found.upper_bound < 1.3 * best


def test_any_y_gives_a_bound():
    """The dual form itself: random Y, not only solutions."""
    rng = np.random.default_rng(3)
    G, T = rng.standard_normal((7, 4)), rng.standard_normal((5, 4))
    state = Transductive(RowMatrix(G), T.T @ T, 1.0)
    search = module._Search(state, np.arange(7), Allowance(count=3), 1e9)
    best = max(value(G, T, 1.0, rows) for rows in itertools.combinations(range(7), 3))
    for _ in range(50):
        Y = search.R * rng.random() + 0.3 * rng.standard_normal(search.R.shape)
        total = search.allowance.best_sum(search._partials(Y), np.arange(7))
        assert best <= search._upper(Y, total)
