"""A certificate bounds what it says it bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information import Allowance, DiagonalFisher, FullFisher, certify, total_curvature
from spicerack.information.certificate import Certificate


def information(G, alpha, rows):
    return np.linalg.slogdet(np.eye(G.shape[1]) + alpha * G[rows].T @ G[rows])[1]


@pytest.mark.parametrize(("n", "k"), [(5, 9), (12, 4)])
def test_curvature_equals_its_definition(n, k):
    G = np.random.default_rng(0).standard_normal((n, k))
    ratios = []
    for x in range(n):
        rest = [i for i in range(n) if i != x]
        gain = information(G, 0.7, list(range(n))) - information(G, 0.7, rest)
        ratios.append(gain / np.log1p(0.7 * G[x] @ G[x]))
    assert total_curvature(G, 0.7) == pytest.approx(1 - min(ratios), abs=1e-9)


def test_curvature_is_zero_for_orthogonal_rows_and_leaves_zero_rows_out():
    G = np.vstack([np.eye(3), np.zeros((2, 3))])
    assert total_curvature(G, 5.0) == pytest.approx(0.0, abs=1e-12)
    assert total_curvature(np.zeros((3, 3)), 5.0) == 0.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.floats(-8, 10), diagonal=st.booleans())
def test_bound_is_never_below_the_information(seed, exponent, diagonal):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((20, 5)).astype(np.float32)
    indices = rng.permutation(20)[: rng.integers(1, 21)]
    state = (DiagonalFisher if diagonal else FullFisher)(G, 10.0**exponent)
    state.absorb(indices)
    certificate = certify(state, indices, eligible=np.ones(20, dtype=bool), allowance=Allowance(count=indices.size))
    assert certificate.information <= certificate.upper_bound
    assert 0.0 < certificate.share <= 1.0
    assert (certificate.curvature is None) == diagonal


def test_taking_everything_is_certified_as_the_best():
    G = np.random.default_rng(0).standard_normal((6, 4))
    state = FullFisher(G, 1.0)
    state.absorb(np.arange(6))
    certificate = certify(state, np.arange(6), eligible=np.ones(6, dtype=bool), allowance=Allowance(count=6))
    assert certificate.share == 1.0


def test_rows_that_are_not_eligible_do_not_loosen_the_bound():
    G = np.random.default_rng(0).standard_normal((10, 4))
    G[7] *= 1e6
    eligible = np.arange(10) != 7
    state = FullFisher(G, 1.0)
    state.absorb(np.array([0, 1]))
    certificate = certify(state, np.array([0, 1]), eligible=eligible, allowance=Allowance(count=2))
    assert certificate.upper_bound < np.log1p(1e6)


@settings(max_examples=40, deadline=None)
@given(
    gains=st.lists(st.floats(0, 10), min_size=1, max_size=7),
    capacity=st.integers(1, 30),
    data=st.data(),
)
def test_fractional_knapsack_is_above_every_set_that_fits(gains, capacity, data):
    tokens = np.array(data.draw(st.lists(st.integers(0, 15), min_size=len(gains), max_size=len(gains))))
    bound = Allowance(capacity=capacity, tokens=tokens).best_sum(np.array(gains), np.arange(len(gains)))
    for size in range(len(gains) + 1):
        for chosen in itertools.combinations(range(len(gains)), size):
            if tokens[list(chosen)].sum() <= capacity:
                assert sum(gains[i] for i in chosen) <= bound + 1e-9


def test_the_sentence_rounds_down():
    assert Certificate(0.9319, 1.0, 0.9319, None, "online").sentence() == (
        "at least 93.1 % of the best possible information for this budget"
    )
