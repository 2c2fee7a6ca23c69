"""UniMax: reach and spread equal their definitions, lazy equals plain, the network learns, ablations ablate."""

import itertools

import numpy as np
import pytest
import torch

from spicerack.information.graph import edges, reach
from spicerack.information.graph_learner import Learning, learn_features, nt_xent
from spicerack.information.spread import Spread
from spicerack.selectors import select
from spicerack.selectors.unimax import uncertainty


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.vstack([rng.normal(3 * np.eye(6)[c], 0.8, (20, 6)) for c in range(3)])


@pytest.fixture(scope="module")
def loss():
    return np.random.default_rng(1).uniform(0.5, 3.0, 60)


def plain_reach(X, count, keep):
    n, cosines = len(X), X.astype(np.float64) @ X.T.astype(np.float64)
    A = np.zeros((n, n))
    for i in range(n):
        order = [j for j in np.argsort(-cosines[i], kind="stable") if j != i][:count]
        A[i, order] = np.round(np.maximum(cosines[i, order], 0.0), 5)
    T = A / A.sum(axis=1, keepdims=True)
    P = T @ T
    for i in range(n):
        P[i, np.argsort(-P[i], kind="stable")[keep:]] = 0.0
    return P


def dense(columns, values, n):
    P = np.zeros((n, n))
    for i in range(n):
        np.add.at(P[i], columns[i], values[i])
    return P


@pytest.mark.parametrize("keep", [4, 50])
def test_reach_is_the_squared_adjacency_pruned(rows, keep, monkeypatch):
    monkeypatch.setattr("spicerack.information.graph.BLOCK_ENTRIES", 7 * 25)
    X = unit(rows)
    columns, values = reach(*edges(X, 5), keep)
    np.testing.assert_allclose(dense(columns, values, 60), plain_reach(X, 5, keep), atol=1e-5)


def test_rows_without_edges_reach_nobody():
    apart = np.eye(4, dtype=np.float32)
    assert not reach(*edges(apart, 2), 3)[1].any()
    assert reach(*edges(apart[:1], 2), 3)[1].shape == (1, 3)


def value(P, w, b, chosen):
    return float((w * (1 - np.prod(1 - P[list(chosen)], axis=0))).sum() + b[list(chosen)].sum())


@pytest.mark.parametrize(
    "options", [{}, {"lam": 0.0}, {"a": 0.0}, {"lam": 3.0, "a": 1.0}, {"neighbors": 4, "reached": 6}]
)
def test_picks_equal_the_plain_greedy(rows, loss, options):
    setting = {"lam": 1.0, "a": 0.5, "neighbors": 20, "reached": 50} | options
    selection = select(rows, "unimax", 15, columns={"loss_mean": loss}, graph="knn", **options)
    P = plain_reach(unit(rows), setting["neighbors"], setting["reached"])
    u = np.argsort(np.argsort(loss)) / 59
    w = 1 - setting["a"] + setting["a"] * u
    lam = setting["lam"] * (P @ w).mean()
    picks: list[int] = []
    for _ in range(15):
        gains = [-1.0 if i in picks else value(P, w, lam * u, [*picks, i]) for i in range(60)]
        best = max(gains)
        picks.append(int(np.flatnonzero(np.array(gains) >= best * (1 - 1e-12))[0]))
    assert selection.trace["gain"].sum() == pytest.approx(value(P, w, lam * u, picks), rel=1e-6)
    assert selection.indices.tolist() == picks
    assert selection.manifest["findings"]["weight_of_uncertainty"] == pytest.approx(lam, rel=1e-6)


def test_the_certificate_bounds_the_best_set(rows, loss):
    selection = select(rows[:30:3], "unimax", 3, columns={"loss_mean": loss[:30:3]}, graph="knn", neighbors=3)
    P = plain_reach(unit(rows[:30:3]), 3, 50)
    u = np.argsort(np.argsort(loss[:30:3])) / 9
    w = 0.5 + 0.5 * u
    lam = (P @ w).mean()
    best = max(value(P, w, lam * u, some) for some in itertools.combinations(range(10), 3))
    certificate = selection.certificate
    assert certificate.information <= best + 1e-6
    assert certificate.upper_bound >= best - 1e-6
    assert certificate.share >= certificate.greedy_factor > 1 - 1 / np.e
    assert "spread and uncertainty for this budget" in certificate.sentence()


def test_spread_is_monotone_and_submodular(rows):
    ends, chances = reach(*edges(unit(rows), 8), 20)
    rng = np.random.default_rng(0)
    spread = Spread(ends, chances, rng.random(60), rng.random(60))
    before = spread.gains(np.arange(60))
    total = 0.0
    for i in rng.permutation(60)[:20]:
        total += spread.add(int(i))
        now = spread.gains(np.arange(60))
        assert (now >= 0).all()
        assert (now <= before + 1e-12).all()
        before = now
    assert spread.value == pytest.approx(total)


def test_nt_xent_equals_a_plain_loop():
    first, second = (torch.randn(4, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    z = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    losses = []
    for i in range(8):
        partner = (i + 4) % 8
        others = sum(torch.exp(z[i] @ z[j] / 0.2) for j in range(8) if j != i)
        losses.append(-torch.log(torch.exp(z[i] @ z[partner] / 0.2) / others))
    assert float(nt_xent(first, second, 0.2)) == pytest.approx(float(sum(losses) / 8))


def test_the_network_draws_clusters_together_and_repeats_by_seed(rows):
    state = torch.random.get_rng_state()
    learned = learn_features(unit(rows), Learning(epochs=30, batch=30, anchors=8), seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(learned, learn_features(unit(rows), Learning(epochs=30, batch=30, anchors=8), seed=0))
    assert (learned != learn_features(unit(rows), Learning(epochs=30, batch=30, anchors=8), seed=1)).any()
    cluster = np.repeat(np.arange(3), 20)

    def gap(X):
        cosines = X @ X.T
        same = cluster[:, None] == cluster[None]
        return cosines[same].mean() - cosines[~same].mean()

    assert gap(learned) > gap(unit(rows))
    np.testing.assert_allclose(np.linalg.norm(learned, axis=1), 1.0, rtol=1e-5)


def test_ablations(rows, loss):
    columns = {"columns": {"loss_mean": loss}}
    alone = select(rows, "unimax", 10, objective="uncertainty", **columns)
    assert alone.indices.tolist() == np.argsort(-loss)[:10].tolist()
    assert alone.certificate is None
    spread = select(rows, "unimax", 3, graph="knn", lam=0.0, neighbors=6, **columns)
    assert sorted(spread.indices // 20) == [0, 1, 2]  # one a cluster
    learned = select(rows, "unimax", 10, **columns)
    assert learned.indices.tolist() == select(rows, "unimax", 10, **columns).indices.tolist()
    assert learned.certificate.share > 1 - 1 / np.e
    fixed = select(rows, "unimax", 10, include=[3], **columns).certificate
    assert (fixed.method, fixed.greedy_factor) == ("online", None)


def test_uncertainty_is_the_rank_over_the_largest():
    loss = np.array([3.0, 1.0, 2.0, 2.0, 9.0])
    found = uncertainty(loss, np.array([True, True, True, True, False]))
    np.testing.assert_allclose(found, [1.0, 0.0, 0.5, 0.5, np.nan])
    assert uncertainty(loss[:1], np.array([True])).tolist() == [0.0]


def test_rows_without_a_loss_are_never_picked(rows, loss):
    broken = np.where(np.arange(60) < 5, np.nan, loss)
    selection = select(rows, "unimax", 55, columns={"loss_mean": broken}, graph="knn")
    assert selection.indices.min() == 5
    assert np.isnan(selection.scores[:5]).all()
