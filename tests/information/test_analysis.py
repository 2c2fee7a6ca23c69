"""Every number of an analysis against its definition, written out slowly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import RowMatrix
from spicerack.information.analysis import (
    analyze,
    decompose,
    default_sizes,
    half_life,
    replay,
    statistics,
    thirds,
)
from spicerack.information.moments import median_alpha
from spicerack.information.overlap import overlap, spearman
from spicerack.information.perturbation import perturbation


def information(G, alpha, rows):
    return np.linalg.slogdet(np.eye(G.shape[1]) + alpha * G[rows].T @ G[rows])[1]


def conflict(G, x, rows):
    if not len(rows):
        return 0.0
    mean = G[rows].mean(axis=0)
    return max(0.0, -G[x] @ mean / (np.linalg.norm(G[x]) * np.linalg.norm(mean) + 1e-8))


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 6)) * np.exp(0.5 * rng.standard_normal((40, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_replayed_and_decomposed_gains_are_their_definition(pool, dtype):
    indices, alpha = np.array([7, 1, 30, 4, 22, 11, 39, 2]), 0.7
    matrix = RowMatrix(pool.astype(dtype), lambda rows: pool[rows])
    steps = replay(matrix, alpha, indices)
    for t, x in enumerate(indices):
        before = indices[:t]
        gain = information(pool, alpha, [*before, x]) - information(pool, alpha, before)
        base = np.log1p(alpha * pool[x] @ pool[x])
        assert steps.gain[t] == pytest.approx(gain, abs=1e-9)
        assert steps.base[t] == pytest.approx(base, abs=1e-12)
        assert steps.epsilon[t] == pytest.approx(gain - base, abs=1e-9)
        assert steps.conflict[t] == pytest.approx(conflict(pool, x, before), abs=1e-9)
    for at in decompose(matrix, alpha, indices, [0, 3, 8]):
        picked = indices[: at.size]
        assert at.information == pytest.approx(information(pool, alpha, picked), abs=1e-9)
        for x in range(40):
            gain = information(pool, alpha, [*picked, x]) - at.information
            assert at.base[x] + at.epsilon[x] == pytest.approx(gain, abs=1e-9)
            assert at.conflict[x] == pytest.approx(conflict(pool, x, picked), abs=1e-9)
        assert (at.epsilon <= 1e-9).all()


def test_statistics_are_over_eligible_rows_not_picked_yet(pool):
    indices, eligible = np.array([3, 5, 8]), np.arange(40) != 9
    (at,) = decompose(RowMatrix(pool), 0.7, indices, [2])
    numbers = statistics(at, eligible, indices)
    rest = [x for x in range(40) if x not in (3, 5, 9)]
    assert numbers.rows == len(rest)
    gain = (at.base + at.epsilon)[rest]
    assert numbers.gain_median == np.median(gain)
    assert numbers.kept_median == np.median(gain / at.base[rest])
    assert numbers.epsilon_min == at.epsilon[rest].min()
    assert numbers.opposed == np.mean([conflict(pool, x, [3, 5]) > 0 for x in rest])
    assert numbers.conflict_gain == spearman(at.conflict[rest], gain)
    only = np.zeros(40, bool)
    only[[3, 5]] = True
    assert statistics(at, only, indices) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=15))
def test_spearman_is_pearson_of_mean_ranks(pairs):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    rank = [[1 + (v < x).sum() + ((v == x).sum() - 1) / 2 for x in v] for v in (a, b)]
    if np.unique(a).size == 1 or np.unique(b).size == 1:
        assert spearman(a, b) is None
    else:
        assert spearman(a, b) == pytest.approx(np.corrcoef(rank)[0, 1], abs=1e-9)


def test_half_life_counts_the_picks_before_the_first_half():
    assert half_life(np.array([4.0, 3.0, 2.0, 1.0])) == 2
    assert half_life(np.array([4.0, 3.0])) is None
    assert half_life(np.zeros(3)) is None


def slow_perturbation(G, alpha, indices):
    largest, told, count = alpha * (G**2).sum(axis=1).max(), [], len(indices) - 1
    for t in range(1, len(indices)):
        S, x = G[indices[:t]], G[indices[t]]
        rho = alpha * np.linalg.norm(S.T @ S, 2)
        epsilon = information(G, alpha, indices[: t + 1]) - information(G, alpha, indices[:t])
        epsilon -= np.log1p(alpha * x @ x)
        leading = alpha**2 * ((S @ x) ** 2).sum() / (1 + alpha * x @ x)
        constant = 1 - rho - largest * rho
        told.append((rho >= 1, rho < 1 and constant <= 0, abs(epsilon) > leading / constant, abs(epsilon) > leading))
    table = np.array(told)
    says = ~(table[:, 0] | table[:, 1])
    return table[:, 0].mean(), table[:, 1].mean(), says.sum(), table[says, 2].sum(), table[:, 3].mean(), count


@pytest.mark.parametrize("alpha", [1e-4, 3e-3, 0.02, 0.1])
def test_perturbation_counts_equal_the_definition_and_the_bound_holds_where_it_speaks(pool, alpha):
    indices = np.random.default_rng(1).permutation(40)[:36]
    matrix = RowMatrix(pool)
    epsilon = replay(matrix, alpha, indices).epsilon
    found = perturbation(matrix, alpha, indices, epsilon, np.ones(40, bool))
    fails, void, holds, violated, above, count = slow_perturbation(pool, alpha, indices)
    assert (found.steps, found.holds) == (count, holds)
    assert found.assumption_fails == pytest.approx(fails)
    assert found.no_constant == pytest.approx(void)
    assert found.above_leading_term == pytest.approx(above)
    assert violated == 0
    assert found.violated == (0.0 if holds else None)


def test_a_violation_is_seen(pool):
    indices = np.arange(10)
    epsilon = replay(RowMatrix(pool), 1e-4, indices).epsilon
    broken = epsilon.copy()
    broken[[3, 6, 7]] -= 1.0
    assert perturbation(RowMatrix(pool), 1e-4, indices, broken, np.ones(40, bool)).violated == pytest.approx(3 / 9)


def test_thirds_are_ordered_by_opposition_and_have_their_own_curvature(pool):
    indices, eligible = np.array([0, 1, 2]), np.arange(40) < 38
    groups = thirds(RowMatrix(pool), 0.7, indices, eligible)
    mean = pool[indices].mean(axis=0)
    cosine = pool @ mean / np.linalg.norm(pool, axis=1)
    order = sorted(range(38), key=lambda x: -cosine[x])
    assert [group.rows for group in groups] == [13, 13, 12]
    for group, rows in zip(groups, (order[:13], order[13:26], order[26:]), strict=True):
        whole = information(pool, 0.7, rows)
        left = [
            (whole - information(pool, 0.7, [y for y in rows if y != x])) / np.log1p(0.7 * pool[x] @ pool[x])
            for x in rows
        ]
        assert group.curvature == pytest.approx(1 - min(left), abs=1e-8)
        assert group.conflict_mean == pytest.approx(np.mean([conflict(pool, x, indices) for x in rows]), abs=1e-6)


def test_overlap_counts_by_source():
    sources = ["a", "a", "b", "b", "c", "c"]
    found = overlap(np.array([5, 0, 2, 1]), np.array([0, 1, 5]), sources)
    assert (found.first, found.second, found.common, found.jaccard) == (4, 3, 3, 3 / 4)
    assert found.rank_correlation == pytest.approx(spearman(np.array([0.0, 1.0, 3.0]), np.array([2.0, 0.0, 1.0])))
    assert [(s.source, s.first, s.second, s.common) for s in found.sources] == [
        ("a", 2, 2, 2),
        ("b", 1, 0, 0),
        ("c", 1, 1, 1),
    ]
    assert found.by_chance == pytest.approx(2 / 5)
    apart = overlap(np.array([0]), np.array([5]), sources)
    assert (apart.jaccard, apart.rank_correlation) == (0.0, None)


@pytest.mark.parametrize("kind", ["one row", "copies", "zeros", "outlier", "wide"])
def test_awkward_pools_have_finite_numbers(kind):
    rng = np.random.default_rng(0)
    G = {
        "one row": np.ones((1, 3)),
        "copies": np.ones((9, 3)),
        "zeros": np.zeros((6, 3)),
        "outlier": rng.standard_normal((8, 3)) * np.r_[1e6, np.ones(7)][:, None],
        "wide": rng.standard_normal((4, 30)),
    }[kind]
    matrix, eligible = RowMatrix(G), np.ones(len(G), bool)
    indices = np.arange(min(3, len(G)))
    found = decompose(matrix, 1.0, indices, default_sizes(indices.size))
    result = analyze(matrix, median_alpha(matrix, eligible)[0], indices, eligible, found)
    assert np.isfinite([result.information, result.gain_first, result.gain_last, result.conflict_mean]).all()
    assert len(result.sizes) == (0 if kind == "one row" else len(found))


def test_default_sizes_end_at_the_count():
    assert default_sizes(1) == [1]
    assert default_sizes(56) == [1, 2, 5, 10, 20, 50, 56]
    assert default_sizes(100) == [1, 2, 5, 10, 20, 50, 100]
