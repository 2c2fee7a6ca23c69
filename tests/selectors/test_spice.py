"""SPICE's options do what they say."""

import numpy as np
import pytest
from stores import write_store

from spicerack.errors import ConfigurationError
from spicerack.information import greedy_truth
from spicerack.numbers import DTYPES
from spicerack.selectors import TokenBudget, select


@pytest.fixture(scope="module")
def G():
    rng = np.random.default_rng(0)
    return rng.standard_normal((80, 6)) * np.exp(rng.standard_normal((80, 1)))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("form", ["plain", "unit", "sqrt"])
@pytest.mark.parametrize("penalty", [0.0, 0.1, 5.0])
def test_picks_equal_the_truth(G, precision, form, penalty):
    picks = select(G, budget=30, alpha=2.0, rows=form, penalty=penalty, precision=precision).indices
    rows = G / np.linalg.norm(G, axis=1, keepdims=True) ** {"plain": 0.0, "sqrt": 0.5, "unit": 1.0}[form]
    np.testing.assert_array_equal(picks, greedy_truth(rows, alpha=2.0, penalty=penalty, count=30))


def test_unit_rows_ignore_length(G):
    scaled = G * np.exp2(np.arange(80) % 7)[:, None]
    np.testing.assert_array_equal(
        select(G, budget=20, rows="unit").indices, select(scaled, budget=20, rows="unit").indices
    )


@pytest.mark.parametrize("factor", [2.0**-70, 2.0**-20, 2.0**20])
def test_automatic_alpha_makes_picks_independent_of_scale(G, factor):
    expected = select(G, budget=20, penalty=0.0)
    scaled = select(G * factor, budget=20, penalty=0.0)
    np.testing.assert_array_equal(scaled.indices, expected.indices)
    np.testing.assert_allclose(scaled.trace["gain"], expected.trace["gain"], rtol=1e-9)


@pytest.mark.parametrize("method", ["spice", "fisher"])
def test_an_alpha_beside_which_nothing_is_seen_is_refused(G, method):
    with pytest.raises(ConfigurationError, match="is too large for these rows"):
        select(G, method, budget=3, alpha=1e300)
    assert select(G, method, budget=3, alpha=1e6).indices.size == 3


def test_alpha_of_mostly_zero_rows_comes_from_the_others():
    G = np.zeros((9, 2))
    G[0], G[1] = (2.0, 0.0), (0.0, 2.0)
    selection = select(G, budget=9)
    assert selection.manifest["options"]["alpha"] == 0.25
    assert "zero" in selection.manifest["choices"][0]["reason"]
    assert selection.indices.tolist() == list(range(9))


def test_all_zero_rows_are_picked_in_order():
    selection = select(np.zeros((4, 3)), budget=2)
    assert selection.indices.tolist() == [0, 1]
    assert selection.manifest["options"]["alpha"] == 1.0
    assert selection.certificate.share == 1.0


@pytest.mark.parametrize("fisher", ["diag", "adafisher-code"])
def test_other_fisher_forms_pick_by_their_own_gain(G, fisher):
    selection = select(G, budget=10, fisher=fisher, alpha=1.0, penalty=0.0)
    taken, square, picks = np.zeros(6), G**2, []
    for _ in range(10):
        if fisher == "diag":
            gains = np.log(1 + square / (1 + taken)).sum(axis=1)
        else:
            gains = np.log(1 + (square / (1 + taken)).sum(axis=1))
        gains[picks] = -np.inf
        picks.append(int(np.argmax(gains)))
        taken += square[picks[-1]] if fisher == "diag" else square[picks[-1]] ** 2
    assert selection.indices.tolist() == picks
    assert (selection.certificate is None) == (fisher == "adafisher-code")


def test_without_a_bound_the_manifest_says_why_there_is_no_certificate(G):
    selection = select(G, budget=5, fisher="adafisher-code")
    assert selection.certificate is None
    assert "certificate" in [choice["name"] for choice in selection.manifest["choices"]]
    assert select(G, budget=5, certify=False).certificate is None


@pytest.mark.parametrize("own", [True, False])
def test_transductive_minimizes_the_variance_in_the_target_directions(G, own):
    target = None if own else np.random.default_rng(3).standard_normal((4, 6))
    selection = select(G, budget=8, target=target, objective="transductive", alpha=0.5, penalty=0.0)
    C = G.T @ G if own else target.T @ target
    picks: list[int] = []
    for _ in range(8):
        variance = [np.trace(C @ np.linalg.inv(np.eye(6) + 0.5 * G[[*picks, i]].T @ G[[*picks, i]])) for i in range(80)]
        picks.append(min((v, i) for i, v in enumerate(variance) if i not in picks)[1])
    assert selection.indices.tolist() == picks
    rows = len(G if own else target)
    assert selection.trace["gain"].sum() == pytest.approx((np.trace(C) - min(variance)) / rows, rel=1e-9)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("schedule", ["global", "pools"])
def test_transductive_picks_do_not_depend_on_the_scale_of_the_rows(G, own, schedule):
    target = None if own else np.random.default_rng(3).standard_normal((4, 6))
    options = {"objective": "transductive", "penalty": 0.5, "schedule": schedule, "pool_size": 40, "pool_picks": 10}

    def picks(factor, **unit):
        goal = None if target is None else factor * target
        return select(factor * G, budget=20, target=goal, **options, **unit)

    selection = picks(1.0)
    assert selection.manifest["findings"]["penalty_effect"]["changed_picks"] > 0
    for factor in (0.1, 10.0):
        np.testing.assert_array_equal(picks(factor).indices, selection.indices)
    absolute = [picks(factor, penalty_unit="information").indices.tolist() for factor in (0.1, 10.0)]
    assert absolute[0] != absolute[1]


def test_the_unit_of_the_penalty_goes_with_the_objective(G):
    def told(**options):
        selection = select(G, budget=9, **options)
        names = [choice["name"] for choice in selection.manifest["choices"]]
        return selection.manifest["options"]["penalty_unit"], "penalty_unit" in names

    assert told() == ("information", False)
    assert told(objective="transductive") == ("gain", True)
    assert told(objective="transductive", penalty=0.0) == ("gain", False)
    assert told(objective="transductive", penalty_unit="information") == ("information", False)
    paper, given = select(G, budget=30, penalty=2.0), select(G, budget=30, penalty=2.0, penalty_unit="information")
    np.testing.assert_array_equal(paper.indices, given.indices)
    np.testing.assert_array_equal(paper.scores, given.scores)
    assert paper.certificate == given.certificate
    assert paper.certificate.greedy_factor is not None


def test_stop_ratio_compares_gains_with_the_first(G):
    whole = select(G, budget=80)
    stopped = select(G, budget=80, stop_ratio=0.5)
    gains = whole.trace["gain"]
    expected = int(np.flatnonzero(gains <= 0.5 * gains[0])[0])
    np.testing.assert_array_equal(stopped.indices, whole.indices[:expected])
    assert stopped.certificate.share <= 1.0


def test_pools_pick_from_each_candidate_pool_by_the_same_greedy(G):
    selection = select(G, budget=20, schedule="pools", pool_size=20, pool_picks=6, alpha=1.0, seed=3)
    order = np.random.Generator(np.random.PCG64(3)).permutation(80)
    for number in range(4):
        rows = np.sort(order[20 * number : 20 * number + 20])
        picked = selection.indices[selection.trace["pool"] == number]
        count = 6 if number < 3 else 2
        np.testing.assert_array_equal(picked, rows[greedy_truth(G[rows], alpha=1.0, penalty=0.1, count=count)])
    chosen = G[selection.indices]
    assert selection.certificate.information == pytest.approx(np.linalg.slogdet(np.eye(6) + chosen.T @ chosen)[1])
    assert np.isfinite(selection.scores).all()


def test_pools_that_cannot_reach_the_budget_say_what_would(G):
    with pytest.raises(ConfigurationError, match=r"reaches 24 rows, the budget is 40; use pool_picks=10"):
        select(G, budget=40, schedule="pools", pool_size=20, pool_picks=6)
    assert select(G, budget=40, schedule="pools", pool_size=20, pool_picks=10).indices.size == 40
    with pytest.raises(ConfigurationError, match=r"reaches 240 of 600 tokens; use pool_picks=15"):
        select(G, budget="600 tokens", tokens=[10] * 80, schedule="pools", pool_size=20, pool_picks=6)


def test_an_early_stop_in_pools_may_end_below_the_budget(G):
    selection = select(G, budget=20, schedule="pools", pool_size=20, pool_picks=10, stop_ratio=0.9)
    assert 4 <= selection.indices.size <= 20


def test_certificate_needs_no_penalty_and_holds_under_any(G):
    free, bound = select(G, budget=10, penalty=0.0), select(G, budget=10, penalty=1.0)
    assert bound.certificate.information <= free.certificate.upper_bound + 1e-9
    assert free.certificate.information <= bound.certificate.upper_bound + 1e-9


def test_what_the_penalty_did_is_said_and_an_idle_one_stands_out(G, capsys):
    from spicerack.cli.select import report_selection

    aligned = np.abs(G)  # nothing opposes anything
    report_selection(select(aligned, budget=10))
    printed = capsys.readouterr().out
    assert "the penalty did nothing: the same samples are picked without it" in printed
    assert "penalty_unit='gain'" in printed
    busy = select(G, budget=20, penalty=2.0)
    effect = busy.manifest["findings"]["penalty_effect"]
    without = select(G, budget=20, penalty=0.0)
    assert effect["changed_picks"] == np.setdiff1d(busy.indices, without.indices).size > 0
    assert effect["mean_conflict"] < effect["mean_conflict_without"]
    report_selection(busy)
    assert f"the penalty changed {effect['changed_picks']} picks" in capsys.readouterr().out
    report_selection(without)
    assert "the penalty" not in capsys.readouterr().out
    report_selection(select(G, budget=20, compare_penalty=False))
    assert "the penalty" not in capsys.readouterr().out


def test_centering_makes_a_common_direction_count(G):
    """Rows that share a direction oppose nothing until it is taken away."""
    common = G + 30.0 * np.ones(6)
    effect = [
        select(common, budget=20, penalty=2.0, rows="unit", center=center).manifest["findings"]["penalty_effect"]
        for center in (False, True)
    ]
    assert effect[0]["changed_picks"] == 0
    assert effect[1]["changed_picks"] > 0


@pytest.mark.parametrize("objective", ["volume", "transductive"])
def test_a_store_larger_than_the_memory_is_streamed_to_the_same_picks(objective, tmp_path):
    from spicerack.store.writer import StoreWriter

    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((700, 24)) * rng.lognormal(0, 0.5, (700, 1))).astype(np.float32)
    numbers = np.arange(700)
    names = ("loss_mean", "loss_sum", "tokens", "trained_tokens", "cut_tokens", "gradient_norm")
    with StoreWriter.create_or_resume(
        tmp_path / "store", settings={}, n=700, arrays={"gradient": 24}, shard_rows=128
    ) as writer:
        for shard in writer.missing():
            part = numbers[shard.start : shard.stop]
            table = {name: np.ones(part.size) for name in names}
            table |= {"id": [str(i) for i in part], "source": ["s"] * part.size}
            writer.write(shard, {"gradient": rows[part]}, table)
        store = writer.finish()
    options = {"budget": 40, "objective": objective, "alpha": 0.05}
    held, streamed = select(store, **options), select(store, **options, memory_gb=1e-6)
    assert "streamed" in [choice["value"] for choice in streamed.manifest["choices"]]
    np.testing.assert_array_equal(held.indices, streamed.indices)
    assert held.certificate.share == streamed.certificate.share


@pytest.mark.parametrize("form", ["plain", "unit", "sqrt"])
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("spice", {"objective": "volume"}),
        ("spice", {"objective": "transductive"}),
        ("k_center", {}),
        ("dpp", {"regularize": False}),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rows_in_half_precision_are_picked_as_those_in_float32(method, given, form, dtype, tmp_path, monkeypatch):
    from spicerack.information import matrix

    rng = np.random.default_rng(1)
    G = rng.standard_normal((400, 24)) * rng.lognormal(0, 0.5, (400, 1))
    G[50:60] = G[40:50]
    store = write_store(tmp_path / "store", {"gradient": G}, dtype=dtype, trained=[0, *[5] * 399])
    options = dict(given) if method == "dpp" else {**given, "rows": form}
    wide = select(store, method, 40, **options)  # few rows are held in float32
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    held: list[np.dtype] = []
    made = matrix.RowMatrix.__init__

    def watched(self, G, *args, **kwargs):
        held.append(None if G is None else G.dtype)
        made(self, G, *args, **kwargs)

    monkeypatch.setattr(matrix.RowMatrix, "__init__", watched)
    room = 400 * 24 * 3 / 2**30  # too little for float32
    for memory in (None, room, 1e-6):
        np.testing.assert_array_equal(select(store, method, 40, memory_gb=memory, **options).indices, wide.indices)
    few = np.float32 if given.get("objective") == "volume" else DTYPES[dtype]
    assert held == [few, DTYPES[dtype], None]


def two_kinds(most: int, fewest: int, k: int = 16) -> np.ndarray:
    """Rows of two clusters of directions, one of them much larger."""
    rng = np.random.default_rng(3)
    centers = np.eye(k)[:2] * 4.0
    return np.concatenate([c + 0.5 * rng.standard_normal((n, k)) for c, n in zip(centers, (most, fewest), strict=True)])


def test_balance_gives_the_rare_kind_more_of_the_picks():
    G = two_kinds(190, 10)
    options = {"objective": "transductive", "rows": "unit", "penalty": 0.0, "certify": False}
    shares = [
        float((select(G, budget=20, balance=balance, **options).indices >= 190).mean()) for balance in (0.0, 0.5, 1.0)
    ]
    assert shares[0] <= shares[1] <= shares[2]
    assert shares[2] >= 2 * shares[0]


def test_balance_is_the_objective_of_rows_weighted_by_their_density():
    from spicerack.information import RowMatrix, second_moment

    G = two_kinds(60, 12)
    unit = G / np.linalg.norm(G, axis=1, keepdims=True)
    weights = np.exp(10.0 * (unit @ unit.T - 1.0)).mean(axis=1) ** -0.5
    C = sum(w * np.outer(g, g) for w, g in zip(weights, unit, strict=True))
    np.testing.assert_allclose(second_moment(RowMatrix(unit), weights), C, rtol=1e-12)
    picked = select(G, budget=6, objective="transductive", rows="unit", penalty=0.0, alpha=1.0, balance=0.5).indices
    M = np.eye(G.shape[1])
    for step, i in enumerate(picked):
        left = {j: np.trace(C @ np.linalg.inv(M + np.outer(unit[j], unit[j]))) for j in range(72)}
        assert left[i] <= min(left[j] for j in left if j not in picked[:step]) * (1 + 1e-9)
        M += np.outer(unit[i], unit[i])


def test_densities_over_anchors_are_near_those_over_all_rows():
    from spicerack.information.density import densities

    X = np.random.default_rng(0).standard_normal((900, 5))
    X[:600, 0] += 3.0
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    usable = np.arange(900) % 7 > 0

    def blocks():
        yield slice(0, 500), X[:500]
        yield slice(500, 900), X[500:]

    exact = np.exp(10.0 * (X @ X[usable].T - 1.0)).mean(axis=1)
    whole = densities(blocks, usable)
    np.testing.assert_allclose(whole[usable], exact[usable], rtol=1e-9)
    assert (whole[~usable] == 1.0).all()
    sampled = densities(blocks, usable, anchors=400)
    assert np.corrcoef(sampled[usable], exact[usable])[0, 1] > 0.9


def test_balance_reads_embeddings_where_a_store_holds_the_rows():
    from spicerack.selectors import get_selector
    from spicerack.selectors.base import needs_of, read_options

    spice = get_selector("spice")
    assert needs_of(spice, read_options(spice, {})).arrays == ("gradient",)
    given = {"objective": "transductive", "balance": 0.5}
    assert "embedding_weighted" in needs_of(spice, read_options(spice, given)).arrays


def test_balance_without_the_pool_as_target_is_refused(G):
    with pytest.raises(ConfigurationError, match="transductive"):
        select(G, budget=5, balance=0.5)
    with pytest.raises(ConfigurationError, match="target is given"):
        select(G, budget=5, target=G[:9], objective="transductive", balance=0.5)


@pytest.mark.parametrize("budget", [10, TokenBudget(60)])
def test_partitions_keep_the_least_rows_of_a_group_that_nothing_else_would_pick(budget):
    rng = np.random.default_rng(0)
    G = rng.standard_normal((200, 8))
    G[150:] *= 1e-3
    groups, tokens = ["a"] * 150 + ["b"] * 50, rng.integers(3, 9, 200)
    given = {"groups": groups, "quotas": {"b": (4, None)}, "tokens": tokens, "certify": False}
    found = select(G, "spice", budget, search="partitions", partitions=3, **given)
    assert (found.indices >= 150).sum() == 4
    exact = select(G, "spice", budget, **given)
    assert (exact.indices >= 150).sum() == 4
    if budget == 10:
        assert found.indices.size == 10


def test_an_early_stop_that_could_leave_a_quota_unmet_is_refused():
    G = np.random.default_rng(0).standard_normal((20, 4))
    given = {"groups": ["a", "b"] * 10, "stop_ratio": 0.5}
    with pytest.raises(ConfigurationError, match="may stop before the least rows of the quotas"):
        select(G, "spice", 6, quotas={"b": (2, None)}, **given)
    assert select(G, "spice", 6, quotas={"b": (None, 2)}, **given).indices.size <= 6
