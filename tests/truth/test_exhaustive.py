"""On pools small enough to try every set: greedy's guarantee, the certificate, the decomposition."""

import itertools

import numpy as np
import pytest

from spicerack.information import (
    Allowance,
    Conflict,
    FullFisher,
    Penalty,
    PrefixBounds,
    Room,
    RowMatrix,
    certify,
    greedy,
)
from spicerack.information.diagonal import DiagonalFisher


def information(G, alpha, rows, diagonal):
    F = G[list(rows)].T @ G[list(rows)]
    return np.linalg.slogdet(np.eye(G.shape[1]) + alpha * (np.diag(np.diag(F)) if diagonal else F))[1]


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_greedy_and_certificate_against_the_optimum(seed, penalty, diagonal):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((9, 4)) * np.exp(rng.standard_normal((9, 1)))
    for alpha, size in itertools.product((0.1, 3.0, 1e6), (1, 3, 5)):
        optimum = max(information(G, alpha, rows, diagonal) for rows in itertools.combinations(range(9), size))
        matrix = RowMatrix(G.astype(np.float32), lambda i: G[i])
        state = (DiagonalFisher if diagonal else FullFisher)(matrix, alpha)
        everything, allowance = np.ones(9, dtype=bool), Allowance(count=size)
        prefixes = PrefixBounds(allowance)
        result = greedy(
            state,
            Conflict(matrix),
            penalty=Penalty(penalty),
            room=Room(everything, count=size),
            eligible=everything,
            watch=prefixes.watch,
        )
        certificate = certify(state, result.indices, eligible=everything, allowance=allowance, prefixes=prefixes)
        assert certificate.information == pytest.approx(information(G, alpha, result.indices, diagonal), rel=1e-6)
        assert certificate.upper_bound >= optimum * (1 - 1e-9)
        if penalty == 0.0:
            assert certificate.information >= (1 - 1 / np.e) * optimum
            if not diagonal:
                c = certificate.curvature
                assert certificate.information >= (1 - np.exp(-c)) / max(c, 1e-12) * optimum * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_token_certificate_is_above_every_set_within_the_tokens(seed):
    rng = np.random.default_rng(seed)
    G, tokens = rng.standard_normal((9, 4)), rng.integers(1, 20, 9)
    matrix, everything = RowMatrix(G), np.ones(9, dtype=bool)
    state, allowance = FullFisher(matrix, 1.0), Allowance(capacity=30, tokens=tokens)
    prefixes = PrefixBounds(allowance)
    result = greedy(
        state,
        Conflict(matrix),
        penalty=Penalty(0.1),
        room=Room(everything, capacity=30, tokens=tokens),
        eligible=everything,
        watch=prefixes.watch,
    )
    certificate = certify(state, result.indices, eligible=everything, allowance=allowance, prefixes=prefixes)
    sets = (rows for size in range(1, 10) for rows in itertools.combinations(range(9), size))
    optimum = max(information(G, 1.0, rows, False) for rows in sets if tokens[list(rows)].sum() <= 30)
    assert certificate.upper_bound >= optimum * (1 - 1e-9)
    assert tokens[result.indices].sum() <= 30


def test_epsilon_identity_and_falling_gains():
    G = np.random.default_rng(0).standard_normal((60, 8))
    matrix = RowMatrix(G.astype(np.float32), lambda i: G[i])
    everything = np.ones(60, dtype=bool)
    result = greedy(
        FullFisher(matrix, 1.0),
        Conflict(matrix),
        penalty=Penalty(0.0),
        room=Room(everything, count=40),
        eligible=everything,
    )
    trace = result.trace
    np.testing.assert_allclose(trace["gain"], trace["base"] + trace["epsilon"], atol=1e-6)
    assert (trace["epsilon"] <= 1e-12).all()
    assert (np.diff(trace["gain"]) <= 1e-9).all()
    for step, (i, epsilon) in enumerate(zip(result.indices, trace["epsilon"], strict=True)):
        with_i = information(G, 1.0, result.indices[: step + 1], False)
        without = information(G, 1.0, result.indices[:step], False) if step else 0.0
        assert with_i - without - np.log1p(G[i] @ G[i]) == pytest.approx(epsilon, abs=1e-6)
