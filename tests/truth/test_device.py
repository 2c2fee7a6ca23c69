"""Rows on a torch device give the plain loop's picks; device "cpu" runs the very code that a GPU does."""

import itertools

import numpy as np
import pytest
from test_engine import KINDS, SMALL, make_room, make_rows, run
from test_transductive import truth as transductive_truth

from spicerack.information import (
    FullFisher,
    Penalty,
    Room,
    RowMatrix,
    Transductive,
    deferred_greedy,
    greedy,
    greedy_truth,
)
from spicerack.information.device import DeviceRows

PENALTIES = (Penalty(0.0), Penalty(0.1), Penalty(50.0), Penalty(0.3, relative=True))
ALPHAS = (1e-8, 1.0, 1e8)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


def on(device, G):
    """The rows of G there, exact ones here."""
    return RowMatrix(DeviceRows([(slice(None), G)], G.shape, device), lambda rows: G[rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", ["count", "tokens", "quotas", "token quotas", "forced"])
def test_picks_equal_the_plain_loop_in_float64(kind, limit, device):
    """Volume by either loop and transductive information, 12 cases each; some are centered, some stop early."""
    seeds = itertools.count(31 * KINDS.index(kind) + len(limit))
    shapes = itertools.cycle(((40, 6, 25), (50, 24, 16), (30, 3, 30), (45, 11, 20), (36, 14, 10)))
    for (alpha, penalty), (n, k, count) in zip(itertools.product(ALPHAS, PENALTIES), shapes, strict=False):
        rng = np.random.default_rng(next(seeds))
        G = make_rows(kind, n, k, rng)
        center = G.mean(axis=0) if rng.random() < 0.33 else None
        stop = 0.3 if rng.random() < 0.2 else None
        make, eligible = make_room(limit, n, count, rng)
        exact, held = RowMatrix(G), on(device, G)
        common = (make, eligible, penalty, center)
        case = f"alpha {alpha}, {penalty}, n {n}, k {k}, centered {center is not None}, stop {stop}"
        expected = run(greedy, FullFisher(exact, alpha), exact, *common, stop_ratio=stop)
        deferred = run(deferred_greedy, FullFisher(held, alpha), held, *common, stop_ratio=stop, depths=SMALL)
        np.testing.assert_array_equal(deferred.indices, expected.indices, err_msg=case)
        np.testing.assert_allclose(deferred.trace["gain"], expected.trace["gain"], rtol=1e-6, atol=1e-12, err_msg=case)
        held = on(device, G)  # the run before may have gone over to float64
        plain = run(greedy, FullFisher(held, alpha), held, *common, stop_ratio=stop)
        np.testing.assert_array_equal(plain.indices, expected.indices, err_msg=case)
        C = G.T @ G
        expected = run(greedy, Transductive(exact, C, alpha), exact, *common, stop_ratio=stop)
        held = on(device, G)
        found = run(greedy, Transductive(held, C, alpha), held, *common, stop_ratio=stop)
        np.testing.assert_array_equal(found.indices, expected.indices, err_msg=case)


@pytest.mark.parametrize("kind", KINDS)
def test_picks_equal_the_definition(kind, device):
    rng = np.random.default_rng(8)
    for alpha, penalty in itertools.product((1e-3, 1.0, 1e3), (Penalty(0.1), Penalty(2.0, relative=True))):
        G = make_rows(kind, 40, 8, rng)
        eligible, center = np.ones(40, dtype=bool), G.mean(axis=0)
        options = {"penalty": penalty.weight, "relative": penalty.relative, "count": 20, "center": center}
        common = (lambda eligible=eligible: Room(eligible, count=20), eligible, penalty, center)
        held = on(device, G)
        found = run(deferred_greedy, FullFisher(held, alpha), held, *common, depths=SMALL)
        np.testing.assert_array_equal(found.indices, greedy_truth(G, alpha=alpha, **options))
        held = on(device, G)
        found = run(greedy, Transductive(held, G.T @ G, alpha), held, *common)
        assert found.indices.tolist() == transductive_truth(G, G, alpha, penalty, common[0](), center)


def test_more_picks_than_dimensions_refresh_from_the_root(device):
    rng = np.random.default_rng(2)
    G = (rng.standard_normal((3000, 16)) * rng.lognormal(0, 0.6, (3000, 1))).astype(np.float32)
    eligible = np.ones(3000, dtype=bool)
    plain, held = RowMatrix(G), on(device, G.astype(np.float64))
    common = (lambda: Room(eligible, count=400), eligible, Penalty(0.1))
    truth = run(greedy, FullFisher(plain, 1.0), plain, *common)
    found = run(deferred_greedy, FullFisher(held, 1.0), held, *common)
    np.testing.assert_array_equal(found.indices, truth.indices)
    np.testing.assert_allclose(found.scores, truth.scores, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [FullFisher, Transductive])
def test_a_pool_of_size_gives_the_picks_of_the_processor(make):
    rng = np.random.default_rng(3)
    G = (rng.standard_normal((100_000, 257)) * rng.lognormal(0, 0.6, (100_000, 1))).astype(np.float32)
    eligible = np.ones(len(G), dtype=bool)
    loop, count = (deferred_greedy, 600) if make is FullFisher else (greedy, 100)
    C = G[::50].T.astype(np.float64) @ G[::50]
    picks = []
    for working in (G, DeviceRows([(slice(None), G)], G.shape, "cuda")):
        rows = RowMatrix(working, lambda part: G[part].astype(np.float64))
        state = make(rows, 0.004) if make is FullFisher else make(rows, C, 0.004)
        picks.append(run(loop, state, rows, lambda: Room(eligible, count=count), eligible, Penalty(0.1)).indices)
        assert not rows.wide
    np.testing.assert_array_equal(*picks)


def test_widened_rows_leave_the_device(device, monkeypatch):
    G = np.random.default_rng(0).standard_normal((9, 4))
    held = on(device, G)
    assert held.device == device
    np.testing.assert_array_equal(held.working_at(np.array([3, 1])), G[[3, 1]].astype(np.float32))
    np.testing.assert_array_equal(held.among(np.array([3, 1])).working_at(slice(1, 2)), G[1:2].astype(np.float32))
    held.widen()
    monkeypatch.setattr(DeviceRows, "product", None)
    monkeypatch.setattr(DeviceRows, "block", None)
    np.testing.assert_allclose(held.product(G[0]), G @ G[0], rtol=1e-15)
    assert (held.device, held.rounding) == ("cpu", RowMatrix(G).rounding)
    assert next(held.chunks(np.arange(9), 9))[1].dtype == np.float64
