"""In2Core: DataInf equals its matrix form, the exact Hessian its solve, and only proponents are picked."""

import numpy as np
import pytest
from stores import write_store

from spicerack.errors import BudgetError, ConfigurationError, UnknownNameError
from spicerack.information.datainf import Curvature
from spicerack.selectors import select

SEGMENTS = [
    ("model.layers.0.q_proj.weight", 0, 3),
    ("model.layers.0.v_proj.weight", 3, 8),
    ("model.layers.1.q_proj.weight", 8, 12),
    ("model.layers.10.q_proj.weight", 12, 20),
]
BLOCKS = [slice(start, stop) for _, start, stop in SEGMENTS]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    G = rng.standard_normal((50, 20)) * np.exp(rng.standard_normal((50, 1)))
    V = rng.standard_normal((5, 20)) + 0.3
    return G.astype(np.float32).astype(np.float64), V.astype(np.float32).astype(np.float64)


@pytest.fixture
def stores(task, tmp_path):
    G, V = task
    return write_store(tmp_path / "p", {"gradient": G}, segments=SEGMENTS), write_store(tmp_path / "t", {"gradient": V})


def damping_of(G, factor=0.1):
    return factor * np.mean((G**2).sum(axis=1)) / G.shape[1]


def loop(G, v):
    """The paper's formula, one block: I (n,)."""
    damping = damping_of(G)
    r = np.mean([v - (v @ g) / (damping + g @ g) * g for g in G], axis=0) / damping
    return np.array([-(r @ g) for g in G])


def matrix_form(G, V):
    """-(1/lambda) (C - (1/n) C D K), one block: (m, n)."""
    damping, K, C = damping_of(G), G @ G.T, V @ G.T
    D = np.diag(1.0 / (damping + np.diag(K)))
    return -(C - C @ D @ K / len(G)) / damping


def solved(G, V):
    moment = G.T @ G / len(G) + damping_of(G) * np.eye(G.shape[1])
    return -V @ np.linalg.solve(moment, G.T)


def influences(G, V, blocks, hessian, counted=None, size=16):
    """(m, n) by the package's form, streamed in blocks of rows."""

    def stream():
        return ((slice(i, min(i + size, len(G))), G[i : i + size]) for i in range(0, len(G), size))

    counted = np.ones(len(G), dtype=bool) if counted is None else counted
    curvature = Curvature.measure(stream, counted, blocks, damping=0.1, hessian=hessian)
    found = np.empty((len(V), len(G)))
    for part, values in curvature.influences(curvature.directions(V)):
        found[:, part] = values
    return found


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("blocks", [[slice(0, 20)], BLOCKS])
def test_the_streamed_form_equals_the_loop_and_the_matrix_form(task, blocks):
    G, V = task
    found = influences(G, V, blocks, "datainf")
    by_loop = sum(np.array([loop(G[:, b], v[b]) for v in V]) for b in blocks)
    by_matrix = sum(matrix_form(G[:, b], V[:, b]) for b in blocks)
    np.testing.assert_allclose(found, by_loop, rtol=1e-10, atol=1e-10 * np.abs(by_loop).max())
    np.testing.assert_allclose(found, by_matrix, rtol=1e-10, atol=1e-10 * np.abs(by_loop).max())


def test_the_exact_hessian_solves_and_the_identity_leaves_it_out(task):
    G, V = task
    exact = sum(solved(G[:, b], V[:, b]) for b in BLOCKS)
    np.testing.assert_allclose(influences(G, V, BLOCKS, "exact"), exact, rtol=1e-9)
    np.testing.assert_allclose(influences(G, V, BLOCKS, "identity"), -(V @ G.T), rtol=1e-12)


def test_the_mean_target_has_the_mean_influence(task):
    G, V = task
    of_mean = influences(G, V.mean(axis=0, keepdims=True), BLOCKS, "datainf")[0]
    np.testing.assert_allclose(of_mean, influences(G, V, BLOCKS, "datainf").mean(axis=0), rtol=1e-9, atol=1e-9)


def test_rows_that_do_not_count_have_no_part_in_the_curvature(task):
    G, V = task
    counted = np.arange(50) % 5 != 0
    found = influences(G, V, BLOCKS, "datainf", counted)
    alone = influences(G[counted], V, BLOCKS, "datainf")
    np.testing.assert_allclose(found[:, counted], alone, rtol=1e-10)


def test_a_block_without_gradient_has_no_influence(task):
    G, V = task
    G = G.copy()
    G[:, BLOCKS[1]] = 0.0
    rest = [BLOCKS[0], *BLOCKS[2:]]
    for hessian in ("datainf", "exact", "identity"):
        np.testing.assert_allclose(influences(G, V, BLOCKS, hessian), influences(G, V, rest, hessian), rtol=1e-10)


@pytest.mark.parametrize("hessian", ["datainf", "exact", "identity"])
@pytest.mark.parametrize("rows", ["unit", "plain"])
def test_scores_are_minus_the_influence_of_the_layers_that_are_read(task, stores, hessian, rows):
    G, V = task if rows == "plain" else map(unit, task)
    pool, target = stores
    selection = select(pool, "in2core", 6, target, hessian=hessian, layers="first", layer_share=0.5, rows=rows)
    expected = -influences(G[:, :8], V[:, :8], BLOCKS[:2], hessian).mean(axis=0)
    np.testing.assert_allclose(selection.scores, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(selection.indices, np.argsort(-expected)[:6])
    np.testing.assert_array_equal(selection.trace["influence"], -selection.trace["score"])


@pytest.mark.parametrize("hessian", ["datainf", "exact", "identity"])
@pytest.mark.parametrize("layers", ["first", "last", "stride", "all"])
def test_a_pool_sample_as_the_target_is_a_proponent(task, hessian, layers):
    G, _ = task
    for i in (0, 7, 23):
        scores = select(G, "in2core", 1, G[[i]], hessian=hessian, layers=layers).scores
        assert scores[i] > 0


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, [0, 1]),
        ({"layers": "last", "layer_share": 0.25}, [3]),
        ({"layers": "stride", "layer_share": 0.5}, [0, 3]),
        ({"layers": "all"}, [0, 1, 2, 3]),
        ({"layers": "layers.1"}, [2]),
        ({"layers": "q_proj, layers.0"}, [0, 1, 2, 3]),
        ({"layers": ["v_proj"]}, [1]),
        ({"layer_share": 0.01}, [0]),
    ],
)
def test_layers_are_blocks_of_the_store(stores, options, blocks):
    findings = select(*stores[:1], "in2core", 3, stores[1], **options).manifest["findings"]
    assert findings["blocks"] == [SEGMENTS[b][0] for b in blocks]
    assert findings["blocks_in_all"] == 4


@pytest.mark.parametrize("rows", ["unit", "plain"])
def test_the_pilot_compares_the_layers_with_all(task, stores, rows):
    manifest = select(stores[0], "in2core", 0.2, stores[1], rows=rows).manifest
    pilot = manifest["findings"]["pilot"]
    G, V = task if rows == "plain" else map(unit, task)
    some = -influences(G[:, :8], V[:, :8], BLOCKS[:2], "datainf").mean(axis=0)
    every = -influences(G, V, BLOCKS, "datainf").mean(axis=0)
    ranks = [np.argsort(np.argsort(scores)) for scores in (some, every)]
    assert pilot["rows"] == 50
    assert pilot["rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
    best = [set(np.argsort(-scores)[:10].tolist()) for scores in (some, every)]
    assert pilot["top_overlap"] == pytest.approx(len(best[0] & best[1]) / 10)
    assert "rank correlation" in str(manifest["choices"])
    fewer = select(stores[0], "in2core", 0.2, stores[1], pilot=20).manifest["findings"]["pilot"]
    assert fewer["rows"] == 20
    assert "pilot" not in select(stores[0], "in2core", 0.2, stores[1], layers="all").manifest["findings"]


def test_short_responses_win_by_their_long_gradients_alone():
    """Two kinds of rows; those of the target's kind point its way, the others are ten times as long."""
    rng = np.random.default_rng(2)
    kind, other = np.eye(2, 12)
    G = np.vstack([kind + 0.3 * rng.standard_normal((20, 12)), 10 * (other + 0.3 * rng.standard_normal((20, 12)))])
    V = kind + 0.3 * rng.standard_normal((5, 12))
    picked = {rows: select(G, "in2core", 10, V, hessian="identity", rows=rows).indices for rows in ("unit", "plain")}
    assert (picked["unit"] < 20).all()
    assert (picked["plain"] >= 20).sum() >= 8


@pytest.mark.parametrize("rows", ["unit", "plain"])
def test_coverage_is_the_mean_influence_of_the_best_proponents(task, rows):
    G, V = task if rows == "plain" else map(unit, task)
    with_a_bad_one = np.vstack([task[1], np.full((1, 20), np.nan)])
    findings = select(task[0], "in2core", 5, with_a_bad_one, coverage=3, rows=rows).manifest["findings"]
    expected = np.sort(influences(G, V, [slice(0, 20)], "datainf"), axis=1)[:, :3].mean(axis=1)
    np.testing.assert_allclose(findings["coverage"]["mean_influence"], expected, rtol=1e-10)
    assert findings["coverage"]["target_rows"] == [0, 1, 2, 3, 4]
    assert findings["worst_covered"][0] == int(np.argmax(expected))


def test_only_proponents_are_picked_and_fewer_are_said(task):
    G, V = task
    whole = select(G, "in2core", 1.0, V)
    proponents = int((whole.scores > 0).sum())
    assert whole.indices.size == proponents == whole.manifest["findings"]["proponents"]
    assert f"there are {proponents} proponents" in str(whole.manifest["choices"])
    assert select(G, "in2core", 1.0, V, proponents_only=False).indices.size == 50
    half = select(G, "in2core", 0.5, V, reading="proponents")
    assert half.indices.size == round(0.5 * proponents)
    np.testing.assert_array_equal(half.indices, whole.indices[: half.indices.size])
    with pytest.raises(ConfigurationError, match="takes a share"):
        select(G, "in2core", 10, V, reading="proponents")


def test_excluded_rows_have_no_score_and_no_part(task):
    G, V = task
    bad = np.vstack([G, np.full((2, 20), np.nan)])
    selection, clean = select(bad, "in2core", 8, V), select(G, "in2core", 8, V)
    np.testing.assert_array_equal(selection.indices, clean.indices)
    assert np.isnan(selection.scores[50:]).all()
    np.testing.assert_allclose(selection.scores[:50], clean.scores, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": None}, ConfigurationError, "'in2core' needs a target"),
        ({"layers": "layers.7"}, UnknownNameError, "layer 'layers.7'"),
        ({"hessian": "inverse"}, ConfigurationError, "hessian='inverse'"),
        ({"budget": 51}, BudgetError, "51 is above"),
    ],
)
def test_what_cannot_be_used(stores, arguments, error, message):
    with pytest.raises(error, match=message):
        select(stores[0], "in2core", **{"budget": 3, "target": stores[1], **arguments})


def test_a_hessian_that_does_not_fit_is_refused(task, monkeypatch):
    monkeypatch.setattr("spicerack.selectors.in2core.free_memory", lambda: 1000)
    with pytest.raises(ConfigurationError, match="use hessian='datainf'"):
        select(task[0], "in2core", 3, task[1], hessian="exact")


def test_a_quota_that_the_proponents_cannot_meet_is_refused():
    rng = np.random.default_rng(4)
    G = rng.standard_normal((30, 6)).astype(np.float32)
    G[:10, 0] = -8.0
    target = np.eye(1, 6, dtype=np.float32)
    groups = ["against"] * 10 + ["other"] * 20
    with pytest.raises(BudgetError, match="0 of its rows can be picked; only proponents are picked"):
        select(G, "in2core", 5, target, groups=groups, quotas={"against": (2, None)})
    both = select(G, "in2core", 5, target, groups=groups, quotas={"against": (2, None)}, proponents_only=False)
    assert (both.indices < 10).sum() == 2


def test_a_share_of_the_proponents_meets_the_quotas_and_replaces_rows_that_they_close():
    """The strongest proponents are of group a; of the 12 the 6 of the budget leave none for b."""
    angles = np.deg2rad([*range(0, 80, 10), *(75, 78, 81, 84), *range(100, 180, 10)])
    G = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups = ["a"] * 8 + ["b"] * 12
    given = {"reading": "proponents", "hessian": "identity", "target": np.eye(1, 2), "groups": groups}
    assert select(G, "in2core", 0.5, **{**given, "groups": None}).indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert select(G, "in2core", 0.5, quotas={"b": "4.."}, **given).indices.tolist() == [0, 1, 8, 9, 10, 11]
    assert select(G, "in2core", 0.5, quotas={"a": "..3"}, **given).indices.tolist() == [0, 1, 2, 8, 9, 10]
    forced = select(G, "in2core", 0.5, quotas={"b": "4.."}, include=[19], **given)
    assert forced.indices.tolist() == [19, 0, 1, 8, 9, 10]
    with pytest.raises(BudgetError, match="at least 7 rows, the budget is 6; the budget is a share of the proponents"):
        select(G, "in2core", 0.5, quotas={"a": "7.."}, **given)
