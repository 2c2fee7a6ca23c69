"""The fast balanced greedy picks what the plain one picks, whatever the ties, columns and budgets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.errors import ConfigurationError, UnknownNameError
from spicerack.information import balanced
from spicerack.information.balanced import balanced_greedy
from spicerack.information.influence import normalize
from spicerack.information.room import Quotas, Room
from spicerack.selectors import select


def plain(Z, room):
    """The definition: every open row, every column, in float64."""
    Z = Z.astype(np.float64)
    total = np.zeros(len(Z))
    room.take_forced()
    for row in room.taken:
        total += Z[:, row]
    while not room.full:
        mean = total / max(len(room.taken), 1)
        lead = (Z - mean[:, None]).max(axis=0)
        best = int(np.argmax(np.where(room.open, lead, -np.inf)))
        total += Z[:, best]
        room.take(best)
    return room.taken


def rooms(draw, n):
    """Two equal rooms: rows or tokens, with or without quotas, forced and forbidden rows."""
    eligible = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    eligible[draw(st.integers(0, n - 1))] = True
    can = np.flatnonzero(eligible)
    options = {}
    if draw(st.booleans()):
        options["count"] = draw(st.integers(1, can.size))
        if draw(st.booleans()):
            group = np.array(draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)))
            held = np.bincount(group[eligible & (group >= 0)], minlength=2)
            least = np.minimum(held, draw(st.integers(0, 1)))
            if least.sum() <= options["count"]:
                options |= {"quotas": Quotas(("a", "b"), group, least, held), "strict": False}
    else:
        tokens = np.array(draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)))
        options |= {"tokens": tokens, "capacity": draw(st.integers(5, 30))}
    if "quotas" not in options and draw(st.booleans()):
        options["forced"] = [int(can[-1])]
    return Room(eligible, **options), Room(eligible, **options)


@st.composite
def problems(draw):
    n, m = draw(st.integers(1, 24)), draw(st.integers(1, 5))
    # small whole numbers tie often; 1e-20 beside them vanishes once a mean is subtracted
    numbers = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 1e-20, 2e-20, 0.1, 1 / 3])
    Z = np.array(draw(st.lists(numbers, min_size=n * m, max_size=n * m)), dtype=np.float32).reshape(m, n)
    return Z, *rooms(draw, n)


@settings(max_examples=300, deadline=None)
@given(problem=problems(), depth=st.sampled_from([1, 2, balanced.DEPTH]), window=st.sampled_from([1, 8]))
def test_the_fast_form_picks_what_the_plain_loop_picks(problem, depth, window):
    Z, fast, slow = problem
    before = balanced.DEPTH, balanced.WINDOW
    balanced.DEPTH, balanced.WINDOW = depth, window
    try:
        result = balanced_greedy(Z, fast)
    finally:
        balanced.DEPTH, balanced.WINDOW = before
    assert result.indices.tolist() == plain(Z, slow)
    for row, value, column in zip(result.indices, result.values, result.columns, strict=True):
        assert result.scores[row] == value
        assert 0 <= column < len(Z)


def test_the_scores_of_the_others_are_what_they_would_get_next():
    Z = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
    result = balanced_greedy(Z, Room(np.ones(30, dtype=bool), count=7))
    mean = Z[:, result.indices].astype(np.float64).mean(axis=1)
    rest = np.setdiff1d(np.arange(30), result.indices)
    np.testing.assert_allclose(result.scores[rest], (Z[:, rest] - mean[:, None]).max(axis=0))
    longer = balanced_greedy(Z, Room(np.ones(30, dtype=bool), count=8))
    assert longer.indices[-1] == rest[np.argmax(result.scores[rest])]


def test_normal_columns():
    rng = np.random.default_rng(1)
    raw = rng.lognormal(size=(3, 50)).astype(np.float32)
    among = np.arange(50) % 7 != 0
    counted = raw[:, among].astype(np.float64)
    Z = {how: raw.copy() for how in ("zscore", "mad", "rank", "none")}
    for how, values in Z.items():
        assert not normalize(values, how, among).any()
    expected = (counted - counted.mean(axis=1, keepdims=True)) / counted.std(axis=1, keepdims=True)
    np.testing.assert_allclose(Z["zscore"][:, among], expected, rtol=1e-4, atol=1e-6)
    middle = np.median(counted, axis=1, keepdims=True)
    spread = np.median(np.abs(counted - middle), axis=1, keepdims=True)
    np.testing.assert_allclose(Z["mad"][:, among], (counted - middle) / spread, rtol=1e-4, atol=1e-6)
    ranks = (np.argsort(np.argsort(counted, axis=1), axis=1) + 0.5) / counted.shape[1] - 0.5
    np.testing.assert_allclose(Z["rank"][:, among], ranks, atol=1e-7)
    np.testing.assert_array_equal(Z["none"], raw)
    tied = np.array([[3.0, 1.0, 3.0, 2.0]], dtype=np.float32)
    normalize(tied, "rank", np.ones(4, dtype=bool))
    np.testing.assert_allclose(tied, [[0.25, -0.375, 0.25, -0.125]])


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(4)
    G, V = rng.standard_normal((60, 8)), rng.standard_normal((6, 8))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (G, V)]
    return G, V, unit[1] @ unit[0].T


@pytest.mark.parametrize("how", ["zscore", "mad", "rank", "none"])
def test_picks_equal_the_definition_on_influences(task, how):
    G, V, A = task
    Z = A.astype(np.float32)
    normalize(Z, how, np.ones(60, dtype=bool))
    expected = plain(Z, Room(np.ones(60, dtype=bool), count=12))
    assert select(G, "bids", 12, V, normalization=how).indices.tolist() == expected


def test_without_balance_the_largest_come_first(task):
    G, V, A = task
    Z = (A - A.mean(axis=1, keepdims=True)) / A.std(axis=1, keepdims=True)
    selection = select(G, "bids", 9, V, balance=False)
    np.testing.assert_array_equal(selection.indices, np.argsort(-Z.max(axis=0))[:9])
    np.testing.assert_array_equal(selection.trace["target"], Z[:, selection.indices].argmax(axis=0))


def test_subtasks_take_turns(task):
    G, V, A = task
    groups = list("aabbbc")
    Z = (A - A.mean(axis=1, keepdims=True)) / A.std(axis=1, keepdims=True)
    means = [Z[[j for j, g in enumerate(groups) if g == name]].mean(axis=0) for name in "abc"]
    expected = []
    for turn in range(10):
        values = means[turn % 3].copy()
        values[expected] = -np.inf
        expected.append(int(np.argmax(values)))
    selection = select(G, "bids", 10, V, target_groups=groups, per_task_top=True)
    assert selection.indices.tolist() == expected
    assert selection.manifest["findings"]["picks_by_subtask"] == {"a": 4, "b": 3, "c": 3}


def test_a_weight_draws_picks_to_its_subtask(task):
    G, V, A = task
    groups = list("aabbbc")
    Z = ((A - A.mean(axis=1, keepdims=True)) / A.std(axis=1, keepdims=True)).astype(np.float32)
    Z[5] *= 3
    expected = plain(Z, Room(np.ones(60, dtype=bool), count=12))
    weighed = select(G, "bids", 12, V, target_groups=groups, task_weights={"c": 3})
    even = select(G, "bids", 12, V, target_groups=groups)
    assert weighed.indices.tolist() == expected
    counts = [s.manifest["findings"]["picks_by_subtask"]["c"] for s in (weighed, even)]
    assert counts[0] > counts[1]


def test_columns_without_spread_are_dropped_and_named(task):
    G, V, _ = task
    whole = np.vstack([np.zeros((1, 8)), V])
    groups = ["none", *"aabbbc"]
    selection = select(G, "bids", 10, whole, target_groups=groups)
    np.testing.assert_array_equal(selection.indices, select(G, "bids", 10, V).indices)
    assert selection.manifest["findings"]["constant_columns"] == [0]
    assert selection.manifest["findings"]["picks_by_subtask"]["none"] == 0
    (choice,) = [c for c in selection.manifest["choices"] if c["name"] == "influence columns"]
    assert "target rows 0 have no spread" in choice["reason"]
    nothing = select(G, "bids", 3, np.zeros((2, 8)))
    assert nothing.indices.tolist() == [0, 1, 2]
    assert "picked in their order" in str(nothing.manifest["choices"])


def test_budgets_quotas_and_fixed_rows_hold(task):
    G, V, _ = task
    tokens = np.random.default_rng(0).integers(5, 40, 60)
    counted = select(G, "bids", "200 tokens", V, tokens=tokens)
    assert tokens[counted.indices].sum() <= 200
    half = ["x"] * 30 + ["y"] * 30
    for options in ({}, {"per_task_top": True}, {"balance": False}):
        fixed = select(G, "bids", 10, V, quotas={"x": "3", "y": "7"}, groups=half, include=[40], exclude=[1], **options)
        assert fixed.indices[0] == 40
        assert (fixed.indices < 30).sum() == 3
        assert 1 not in fixed.indices


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task_weights": {"z": 2}}, UnknownNameError, "subtask 'z'"),
        ({"task_weights": {"target": 0}}, ConfigurationError, "task_weights"),
        ({"per_task_top": True, "balance": False}, ConfigurationError, "per_task_top reads neither"),
        ({"normalization": "zscores"}, ConfigurationError, "normalization='zscores'"),
    ],
)
def test_options_that_mean_nothing(task, options, error, message):
    with pytest.raises(error, match=message):
        select(task[0], "bids", 3, task[1], **options)


def test_a_target_that_no_row_of_the_pool_points_to_says_nothing():
    """Rounding alone makes that column vary, and a z-score would blow it up to the weight of the others."""
    rng = np.random.default_rng(2)
    G, target = np.zeros((60, 20), dtype=np.float32), np.zeros((3, 20), dtype=np.float32)
    G[:, :15] = rng.standard_normal((60, 15))
    target[:2, :15] = rng.standard_normal((2, 15))
    target[2, 15:] = 1.0
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    picks = select((G @ rotation).astype(np.float32), "bids", 12, (target @ rotation).astype(np.float32))
    assert picks.manifest["findings"]["constant_columns"] == [2]
