"""The picks of the plain loop are those of the definition, whatever the precision of its passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import Conflict, FullFisher, Penalty, Room, RowMatrix, contest, greedy, greedy_truth, inverse


def make_rows(kind, n, k, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, k))
    scale = np.exp(2.0 * rng.standard_normal(n))[:, None]
    few = rng.integers(0, n // 4, n)
    return {
        "plain": G,
        "unit": G / np.linalg.norm(G, axis=1, keepdims=True),
        "heavy": G * scale,
        "duplicates": G[few],
        "heavy duplicates": (G * scale)[few],
        "near duplicates": G[few] + 1e-5 * G,
        "zeros": np.where(np.arange(n)[:, None] % 3 == 0, 0.0, G),
        "one-hot": np.eye(k)[rng.integers(0, k, n)],
        "low rank": rng.standard_normal((n, 3)) @ rng.standard_normal((3, k)) + 1e-3 * G,
        "opposed": np.vstack([G[: n // 2], -G[: n - n // 2]]),
    }[kind]


KINDS = [
    "plain",
    "unit",
    "heavy",
    "duplicates",
    "heavy duplicates",
    "near duplicates",
    "zeros",
    "one-hot",
    "low rank",
    "opposed",
]


def run(G, *, alpha, penalty, count, precision, eligible=None, stop_ratio=None):
    working = G.astype(np.float32) if precision == "float32" else G
    matrix = RowMatrix(working, lambda rows: G[rows])
    eligible = np.ones(len(G), dtype=bool) if eligible is None else eligible
    return greedy(
        FullFisher(matrix, alpha),
        Conflict(matrix),
        penalty=Penalty(penalty),
        room=Room(eligible, count=count),
        eligible=eligible,
        stop_ratio=stop_ratio,
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [1e-12, 1.0, 1e10, 1e13])
def test_picks_equal_the_truth(kind, alpha, precision):
    for penalty in (0.0, 0.1, 1e3):
        for n, k, count in ((48, 6, 30), (48, 30, 20), (40, 3, 40)):
            G = make_rows(kind, n, k)
            truth = greedy_truth(G, alpha=alpha, penalty=penalty, count=count)
            picks = run(G, alpha=alpha, penalty=penalty, count=count, precision=precision).indices
            np.testing.assert_array_equal(picks, truth, err_msg=f"penalty {penalty}, n {n}, k {k}")


def test_picks_equal_a_loop_over_determinants():
    G = make_rows("plain", 40, 8)
    picks: list[int] = []
    for _ in range(15):
        values = [np.linalg.slogdet(np.eye(8) + G[[*picks, i]].T @ G[[*picks, i]])[1] for i in range(40)]
        mean = G[picks].mean(axis=0) if picks else np.zeros(8)
        cosines = G @ mean / (np.linalg.norm(G, axis=1) * np.linalg.norm(mean) + 1e-8)
        scores = np.array(values) - 0.5 * np.maximum(0.0, -cosines)
        scores[picks] = -np.inf
        picks.append(int(np.argmax(scores)))
    assert run(G, alpha=1.0, penalty=0.5, count=15, precision="float32").indices.tolist() == picks


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    exponent=st.floats(-6, 11),
    penalty=st.sampled_from([0.0, 0.1, 2.0]),
)
def test_float32_and_float64_pick_alike(kind, seed, k, exponent, penalty):
    G = make_rows(kind, 40, k, seed)
    narrow = run(G, alpha=10.0**exponent, penalty=penalty, count=20, precision="float32")
    wide = run(G, alpha=10.0**exponent, penalty=penalty, count=20, precision="float64")
    np.testing.assert_array_equal(narrow.indices, wide.indices)


def test_a_crowd_that_float32_cannot_tell_apart_is_settled_in_float64():
    G = make_rows("plain", 400, 6)
    result = run(G, alpha=1e9, penalty=0.1, count=60, precision="float32")
    assert result.sharpened_at is not None
    np.testing.assert_array_equal(result.indices, greedy_truth(G, alpha=1e9, penalty=0.1, count=60))


@pytest.mark.parametrize("gap", [10, 100])
def test_a_crowd_is_computed_afresh_before_passes_go_to_float64(gap, monkeypatch):
    """A crowd after 70 picks, and again some picks after what was done about it."""
    afresh, refresh = [], FullFisher.refresh

    def counted(state):
        afresh.append(len(state.picks))
        refresh(state)

    def crowd(run, near):
        return run.sharpened_at is None and run.step >= (run.refreshed_at + gap if run.refreshed_at else 70)

    monkeypatch.setattr(FullFisher, "refresh", counted)
    monkeypatch.setattr(contest, "_crowd", crowd)
    G = np.repeat(make_rows("plain", 150, 6), 3, axis=0)
    G += 1e-9 * make_rows("plain", 450, 6, seed=1)  # in float32 more than one contender at most steps
    result = run(G, alpha=1.0, penalty=0.1, count=200, precision="float32")
    assert afresh
    assert afresh[0] >= 70
    assert (result.sharpened_at is None) == (gap > contest.LASTS)
    np.testing.assert_array_equal(result.indices, greedy_truth(G, alpha=1.0, penalty=0.1, count=200))


def test_what_settling_cost_is_spent_on_computing_afresh_once(monkeypatch):
    afresh, refresh = [], FullFisher.refresh

    def counted(state):
        afresh.append(len(state.picks))
        refresh(state)

    monkeypatch.setattr(FullFisher, "refresh", counted)
    G = np.repeat(make_rows("plain", 10, 40), 12, axis=0)
    G += 1e-9 * make_rows("plain", 120, 40, seed=1)  # in float32 a dozen contenders a pick, and ten picks are 120 rows
    result = run(G, alpha=1.0, penalty=0.0, count=60, precision="float32")
    assert 1 <= len(afresh) <= 60 * 12 / 120
    assert result.sharpened_at is None
    np.testing.assert_array_equal(result.indices, greedy_truth(G, alpha=1.0, penalty=0.0, count=60))


def test_float64_passes_are_not_computed_afresh_for_what_settling_costs(monkeypatch):
    monkeypatch.setattr(FullFisher, "refresh", lambda state: pytest.fail("nothing to gain in float64"))
    G = np.repeat(make_rows("plain", 10, 40), 12, axis=0)
    G += 1e-13 * make_rows("plain", 120, 40, seed=1)  # ties of unequal rows: a dozen contenders a pick
    result = run(G, alpha=1.0, penalty=0.0, count=60, precision="float64")
    np.testing.assert_array_equal(result.indices, greedy_truth(G, alpha=1.0, penalty=0.0, count=60))


@pytest.mark.parametrize("alpha", [1.0, 1e6, 1e14])
def test_picked_rows_beyond_those_that_are_kept_are_read_anew(alpha, monkeypatch):
    monkeypatch.setattr(inverse, "KEPT_BYTES", 5 * 8 * 6)  # of five picks
    monkeypatch.setattr(inverse, "BLOCK_BYTES", 3 * 8 * 6)  # read three at a time
    G = make_rows("heavy", 80, 6)
    found = run(G, alpha=alpha, penalty=0.1, count=20, precision="float32")
    np.testing.assert_array_equal(found.indices, greedy_truth(G, alpha=alpha, penalty=0.1, count=20))


def test_among_equal_rows_the_smallest_wins():
    G = np.tile([[3.0, 4.0]], (9, 1))
    for alpha in (1e-8, 1.0, 1e10):
        assert run(G, alpha=alpha, penalty=0.1, count=9, precision="float32").indices.tolist() == list(range(9))


def test_rows_equal_up_to_rounding_tie():
    G = make_rows("plain", 30, 5)
    unit = G / np.linalg.norm(G, axis=1, keepdims=True)
    assert run(unit, alpha=1.0, penalty=0.0, count=1, precision="float32").indices.tolist() == [0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), penalty=st.sampled_from([0.0, 0.3]))
def test_permuting_the_rows_permutes_the_picks(seed, penalty):
    G = make_rows("plain", 30, 6, seed)
    order = np.random.default_rng(seed).permutation(30)
    picks = run(G, alpha=1.0, penalty=penalty, count=12, precision="float32").indices
    permuted = run(G[order], alpha=1.0, penalty=penalty, count=12, precision="float32").indices
    np.testing.assert_array_equal(order[permuted], picks)


def test_rows_that_are_not_eligible_are_never_picked_and_have_no_score():
    G = make_rows("heavy", 40, 6)
    eligible = np.arange(40) % 2 == 1
    result = run(G, alpha=1.0, penalty=0.1, count=20, precision="float32", eligible=eligible)
    assert set(result.indices.tolist()) == set(np.flatnonzero(eligible).tolist())
    assert np.isnan(result.scores[~eligible]).all()
    assert np.isfinite(result.scores[eligible]).all()
    truth = greedy_truth(G, alpha=1.0, penalty=0.1, count=20, eligible=eligible)
    np.testing.assert_array_equal(result.indices, truth)


def test_early_stop_keeps_the_picks_before_the_first_small_gain():
    G = make_rows("plain", 60, 5)
    whole = run(G, alpha=1.0, penalty=0.1, count=60, precision="float32")
    small = np.flatnonzero(whole.trace["gain"] <= 0.5 * whole.trace["gain"][0])[0]
    stopped = run(G, alpha=1.0, penalty=0.1, count=60, precision="float32", stop_ratio=0.5)
    np.testing.assert_array_equal(stopped.indices, whole.indices[:small])
    assert stopped.stopped == "stop_ratio"
    truth = greedy_truth(G, alpha=1.0, penalty=0.1, count=60, stop_ratio=0.5)
    np.testing.assert_array_equal(stopped.indices, truth)


def test_scores_are_those_of_the_step_for_picks_and_of_the_end_for_the_rest():
    G = make_rows("plain", 30, 6)
    result = run(G, alpha=2.0, penalty=0.2, count=10, precision="float64")
    np.testing.assert_array_equal(result.scores[result.indices], result.trace["score"])
    rest = np.setdiff1d(np.arange(30), result.indices)
    M = np.eye(6) + 2.0 * G[result.indices].T @ G[result.indices]
    gains = np.log(1 + 2.0 * np.einsum("ij,jk,ik->i", G, np.linalg.inv(M), G))
    mean = G[result.indices].mean(axis=0)
    cosines = G @ mean / (np.linalg.norm(G, axis=1) * np.linalg.norm(mean) + 1e-8)
    np.testing.assert_allclose(result.scores[rest], (gains - 0.2 * np.maximum(0, -cosines))[rest], atol=1e-9)


def test_a_token_budget_skips_what_no_longer_fits_and_ends_when_nothing_does():
    G = np.diag([5.0, 4.0, 3.0, 2.0])
    matrix = RowMatrix(G)
    result = greedy(
        FullFisher(matrix, 1.0),
        Conflict(matrix),
        penalty=Penalty(0.0),
        room=Room(np.ones(4, dtype=bool), capacity=12, tokens=np.array([8, 9, 4, 1])),
        eligible=np.ones(4, dtype=bool),
    )
    assert result.indices.tolist() == [0, 2]
    assert result.stopped == "exhausted"
