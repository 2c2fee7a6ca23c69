"""Every state's running gains are those of its formula, and its bookkeeping adds up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import (
    AdaFisherCode,
    Conflict,
    DiagonalFisher,
    FullFisher,
    RowMatrix,
    Transductive,
    lanes,
    matrix,
    second_moment,
)

ALPHA = 1.7


def rows(seed=0, n=40, k=7):
    return np.random.default_rng(seed).standard_normal((n, k))


def full(G, picks):
    M = np.eye(G.shape[1]) + ALPHA * G[picks].T @ G[picks]
    return np.log(1 + ALPHA * np.einsum("ij,jk,ik->i", G, np.linalg.inv(M), G))


def diagonal(G, picks):
    return np.log(1 + ALPHA * G**2 / (1 + ALPHA * (G[picks] ** 2).sum(axis=0))).sum(axis=1)


def adafisher(G, picks):
    return np.log(1 + ALPHA * (G**2 / (1 + ALPHA * (G[picks] ** 4).sum(axis=0))).sum(axis=1))


def transductive(G, picks):
    C = G.T @ G

    def phi(S):
        return np.trace(C @ np.linalg.inv(np.eye(G.shape[1]) + ALPHA * G[S].T @ G[S]))

    return np.array([phi(picks) - phi([*picks, i]) for i in range(len(G))])


STATES = {
    "full": (lambda m: FullFisher(m, ALPHA), full),
    "diag": (lambda m: DiagonalFisher(m, ALPHA), diagonal),
    "adafisher-code": (lambda m: AdaFisherCode(m, ALPHA), adafisher),
    "transductive": (lambda m: Transductive(m, second_moment(m), ALPHA), transductive),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("working", [np.float32, np.float64])
def test_gains_follow_the_formula_within_the_slack(name, working):
    make, formula = STATES[name]
    G = rows()
    state = make(RowMatrix(G.astype(working), lambda i: G[i]))
    np.testing.assert_allclose(state.base(), formula(G, []), rtol=1e-10)
    picks, total = [], 0.0
    for step, i in enumerate((3, 17, 3, 8, 21, 30, 31, 5, 6, 9, 12)):  # more than k, and one row twice
        expected = formula(G, picks)
        assert (np.abs(state.gains() - expected) <= state.slack() + 1e-12).all()
        some = np.arange(20 + step % 3, 40, 3)  # half of the rows are never computed exactly
        np.testing.assert_allclose(state.exact_gains(some), expected[some], rtol=1e-10)
        vector, slope, level = state.slack_bound()
        assert (state.slack() <= (slope * vector + level) * (1 + 1e-12)).all()
        assert state.add(i) == pytest.approx(expected[i], rel=1e-10)
        picks.append(i)
        total += expected[i]
    assert state.value == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", STATES)
def test_absorbing_at_once_equals_adding_one_by_one(name):
    make, _ = STATES[name]
    one, many = make(RowMatrix(rows())), make(RowMatrix(rows()))
    picks = np.array([4, 2, 19, 33, 7, 8, 9, 10, 11])
    for i in picks.tolist():
        one.add(i)
    many.absorb(picks)
    assert one.value == pytest.approx(many.value, rel=1e-12)
    np.testing.assert_allclose(one.gains(), many.gains(), rtol=1e-9)


@pytest.mark.parametrize("name", STATES)
def test_sharpening_leaves_only_float64_rounding(name):
    make, formula = STATES[name]
    G = rows()
    state = make(RowMatrix(G.astype(np.float32), lambda i: G[i]))
    for i in (1, 2, 3):
        state.add(i)
    state.sharpen()
    np.testing.assert_allclose(state.gains(), formula(G, [1, 2, 3]), rtol=1e-12)
    state.add(4)
    np.testing.assert_allclose(state.gains(), formula(G, [1, 2, 3, 4]), rtol=1e-10)


@pytest.mark.parametrize("name", ["full", "diag", "adafisher-code"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gains_never_rise(name, seed):
    state = STATES[name][0](RowMatrix(rows(seed)))
    before = state.gains().copy()
    for i in np.random.default_rng(seed).permutation(40)[:15].tolist():
        state.add(i)
        after = state.gains().copy()
        assert (after <= before + 1e-12).all()
        before = after


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), exponent=st.floats(-8, 6))
def test_information_equals_the_log_determinant(seed, k, exponent):
    G, alpha = rows(seed, 20, k), 10.0**exponent
    state = FullFisher(G, alpha)
    state.absorb(np.arange(12))
    expected = np.linalg.slogdet(np.eye(k) + alpha * G[:12].T @ G[:12])[1]
    assert state.value == pytest.approx(expected, rel=1e-6)


def test_gains_keep_their_digits_at_huge_alpha():
    """A duplicate of a picked row gains log(1 + rho / (1 + rho)), log 2 to ten digits; forming M_S leaves six."""
    G = np.random.default_rng(0).standard_normal((4, 3))
    G[2] = G[0]
    state = FullFisher(G, 1e10)
    state.add(0)
    rho = 1e10 * float(G[0] @ G[0])
    assert state.exact_gains(np.array([2]))[0] == pytest.approx(np.log1p(rho / (1.0 + rho)), rel=1e-10)


def test_conflict_follows_the_definition():
    G = rows()
    conflict = Conflict(G)
    assert not conflict.values().any()
    for count, i in enumerate((5, 6, 7, 8), start=1):
        conflict.add(i)
        mean = G[5 : 5 + count].mean(axis=0)
        expected = np.maximum(0, -G @ mean / (np.linalg.norm(G, axis=1) * np.linalg.norm(mean) + 1e-8))
        np.testing.assert_allclose(conflict.values(), expected, atol=1e-12)
        np.testing.assert_allclose(conflict.exact(np.arange(40)), expected, atol=1e-12)


def test_conflict_punishes_opposition_only():
    G = np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    conflict = Conflict(G)
    conflict.add(0)
    np.testing.assert_allclose(conflict.values(), [0.0, 0.0, 1.0, 0.0, 0.0], atol=1e-7)


def test_conflict_of_picks_that_cancel_is_zero():
    G = 1e6 * rows(n=6)
    G[3:] = -G[:3]
    conflict = Conflict(G)
    conflict.absorb(np.array([0, 1, 2, 5, 3, 4]))
    assert not conflict.values().any()


def test_exact_gains_of_few_rows_are_kept():
    """A transductive row that was settled is in doubt by what later passes lose, not by what earlier ones did."""
    G = np.random.default_rng(0).standard_normal((400, 12))
    state = Transductive(RowMatrix(G.astype(np.float32), lambda i: G[i]), second_moment(G) / 400, 0.3)
    for i in range(100):
        state.add(i)
    rows, before = np.array([120, 7, 399]), state.slack()
    exact = state.exact_gains(rows)
    np.testing.assert_array_equal(state.gains()[rows], exact)
    assert (state.slack(rows) < 0.2 * before[rows]).all()
    assert np.array_equal(np.delete(state.slack(), rows), np.delete(before, rows))
    state.add(100)
    truth = Transductive(G, state.C, 0.3)
    truth.absorb(np.arange(101))
    assert (np.abs(state.gains() - truth.gains()) <= state.slack()).all()
    assert (state.slack(rows) < 0.5 * np.median(before)).all()


def test_compiled_updates_are_those_of_numpy(monkeypatch):
    """Two runs of the transductive state side by side, one through `native.py`."""
    G = np.random.default_rng(0).standard_normal((300, 12))
    states = []
    monkeypatch.setattr(
        lanes, "UNITS", RowMatrix(G).rounding / matrix.EPS
    )  # a kernel's sums are not bounded as tightly
    for above in (0, 1 << 40):
        monkeypatch.setattr(matrix, "NATIVE_ABOVE", above)
        state = Transductive(G, second_moment(G) / 300, 0.3)
        for i in (3, 14, 159, 2):
            state.add(i)
        states.append((state.gains().copy(), state.slack(), state.partials()[1], state.partials()[0]))
    for compiled, plain in zip(*states, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-9)
