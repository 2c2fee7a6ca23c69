"""Greedy MAP of a determinantal point process equals the plain loop over determinants."""

import numpy as np
import pytest

from spicerack.errors import ConfigurationError, UnknownNameError
from spicerack.information.determinant import GaussianResiduals, LinearResiduals
from spicerack.information.matrix import RowMatrix
from spicerack.selectors import select


@pytest.fixture
def G():
    rng = np.random.default_rng(2)
    return rng.standard_normal((40, 8)) * rng.lognormal(0.0, 0.5, (40, 1))


@pytest.fixture
def q():
    return np.random.default_rng(3).uniform(0.5, 2.0, 40)


def unit(G):
    return G / np.linalg.norm(G, axis=1, keepdims=True)


def plain_loop(L, count, picks=()):
    picks = list(picks)
    while len(picks) < count:
        rest = [i for i in range(len(L)) if i not in picks]
        picks.append(max(rest, key=lambda i: (np.linalg.det(L[np.ix_([*picks, i], [*picks, i])]), -i)))
    return picks


def gaussian(X, h):
    return np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / (2 * h * h))


def test_cosine_kernel_with_quality(G, q):
    X = unit(G)
    selection = select(G, "dpp", 7, quality="mark", columns={"mark": q})
    L = np.outer(q, q) * (X @ X.T)
    assert selection.indices.tolist() == plain_loop(L, 7)
    picks = selection.indices
    total = selection.trace["gain"].sum() + 2 * 7 * np.log(np.median(q))  # quality counts over its median
    assert total == pytest.approx(np.linalg.slogdet(L[np.ix_(picks, picks)])[1], rel=1e-9)
    assert selection.manifest["findings"] == {"rounds": 1}


def test_without_quality_the_most_typical_row_is_first(G):
    X = unit(G)
    selection = select(G, "dpp", 6)
    first = int(np.argmax(X @ X.mean(axis=0)))
    assert selection.indices.tolist() == plain_loop(X @ X.T, 6, [first])


@pytest.mark.parametrize("regularize", [True, False])
def test_gaussian_kernel(G, q, regularize):
    L = np.outer(q, q) / np.median(q) ** 2 * gaussian(unit(G), 0.7) + regularize * np.eye(40)
    options = {"kernel": "rbf", "bandwidth": 0.7, "regularize": regularize}
    selection = select(G, "dpp", 15, quality="mark", columns={"mark": q}, **options)
    assert selection.indices.tolist() == plain_loop(L, 15)
    picks = selection.indices
    assert selection.trace["gain"].sum() == pytest.approx(np.linalg.slogdet(L[np.ix_(picks, picks)])[1], rel=1e-6)


def test_regularized_cosine_kernel_goes_on_beyond_its_rank(G, q):
    X = unit(G)
    L = np.outer(q, q) / np.median(q) ** 2 * (X @ X.T) + np.eye(40)
    selection = select(G, "dpp", 20, quality="mark", columns={"mark": q}, regularize=True)
    assert selection.indices.tolist() == plain_loop(L, 20)
    assert "rounds" not in [choice["name"] for choice in selection.manifest["choices"]]


def test_beyond_the_rank_a_new_round_begins_on_the_rest_and_says_so(G):
    X = unit(G)
    selection = select(G, "dpp", 19)
    assert selection.trace["round"].tolist() == [0] * 8 + [1] * 8 + [2] * 3
    (choice,) = [choice for choice in selection.manifest["choices"] if choice["name"] == "rounds"]
    assert choice["value"] == 3
    assert "after 8 picks" in choice["reason"]
    rest = np.setdiff1d(np.arange(40), selection.indices[:8])
    typical = (X @ X.mean(axis=0))[rest]
    first = int(np.argmax(typical))
    assert selection.indices[8:16].tolist() == rest[plain_loop(X[rest] @ X[rest].T, 8, [first])].tolist()


def test_copies_of_a_pick_wait_for_the_next_round(G):
    twice = np.vstack([G[:5], G[:5]])
    for kernel in ("cosine", "rbf"):
        selection = select(twice, "dpp", 10, kernel=kernel)
        assert sorted(selection.indices[:5].tolist()) == [0, 1, 2, 3, 4]
        assert selection.trace["round"].tolist() == [0] * 5 + [1] * 5


def test_rows_of_zeros_come_last_and_do_not_hang(G):
    G[[1, 4]] = 0.0
    selection = select(G, "dpp", 40)
    assert selection.indices.size == 40
    assert np.isfinite(selection.scores).all()
    assert select(np.zeros((5, 3)), "dpp", 4).indices.tolist() == [0, 1, 2, 3]


def test_lazy_residuals_equal_direct_ones(G, q):
    lazy, rng = LinearResiduals(RowMatrix(G), q), np.random.default_rng(0)
    picked = []
    for i in (3, 17, 9, 30):
        lazy.of(rng.choice(40, 10, replace=False))
        lazy.push(i)
        picked.append(i)
    Q = np.linalg.qr(G[picked].T)[0]
    truth = q**2 * ((G - (G @ Q) @ Q.T) ** 2).sum(axis=1)
    np.testing.assert_allclose(lazy.of(np.arange(40)), truth, atol=1e-12)


def test_the_factor_of_the_gaussian_kernel_may_not_outgrow_memory(G, q):
    residuals = GaussianResiduals(RowMatrix(G), q, bandwidth=1.0, ridge=1.0, memory=16 * 40 * 8)
    for i in range(16):
        residuals.push(i)
    with pytest.raises(ConfigurationError, match=r"after 16 picks; .* use kernel='cosine'"):
        residuals.push(16)


def test_quality_is_a_column_that_exists_and_is_not_negative(G):
    with pytest.raises(ConfigurationError, match="negative values"):
        select(G, "dpp", 3, quality="mark", columns={"mark": -np.ones(40)})
    with pytest.raises(ConfigurationError, match="reads the column 'loss_mean'"):
        select(G, "dpp", 3, quality="loss")
    with pytest.raises(UnknownNameError):
        select(G, "dpp", 3, qualty="loss")
    selection = select(
        G, "dpp", 3, quality="grad_norm", columns={"gradient_norm": np.where(np.arange(40) == 7, np.nan, 1)}
    )
    assert 7 not in selection.indices
    assert np.isnan(selection.scores[7])
    assert "never picked" in [choice["name"] for choice in selection.manifest["choices"]]
