"""LESS equals its triple loop, ranks copies of the target first, and says what it lacks."""

import numpy as np
import pytest
from stores import write_checkpoints, write_store

from spicerack.errors import BudgetError, ConfigurationError, GradientError, StoreMismatchError
from spicerack.selectors import select

WEIGHTS = {"epoch-1": 0.5, "epoch-2": 0.3, "epoch-3": 0.2}


def cosine(x, y):
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths else 0.0


def triple_loop(pool, target, groups, aggregation):
    """Scores (n,) and the best subtask (n,), from lists of (weight, rows) over the same checkpoints."""
    names = sorted(set(groups))
    n = len(pool[0][1])
    values = np.zeros((n, len(names)))
    for i in range(n):
        for g, name in enumerate(names):
            members = [j for j, label in enumerate(groups) if label == name]
            for (weight, rows), goal in zip(pool, target, strict=True):
                if aggregation == "mean_cosine":
                    value = np.mean([cosine(rows[i], goal[j]) for j in members])
                else:
                    value = cosine(rows[i], goal[members].mean(axis=0))
                values[i, g] += weight * value
    return values.max(axis=1), values.argmax(axis=1)


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.standard_normal((30, 1)))
    pool = {name: rng.standard_normal((30, 8)) * scale for name in WEIGHTS}
    adam = {name: np.sign(rows) * np.abs(rows) ** 0.3 for name, rows in pool.items()}
    target = {name: rng.standard_normal((6, 8)) for name in WEIGHTS}
    return pool, adam, target, list("abacbb")


@pytest.mark.parametrize("aggregation", ["mean_cosine", "cosine_of_mean"])
@pytest.mark.parametrize("form", ["adam", "plain"])
def test_scores_equal_the_triple_loop(toy, tmp_path, aggregation, form):
    pool, adam, target, groups = toy
    held = {name: (w, {"gradient": pool[name], "adam": adam[name]}) for name, w in WEIGHTS.items()}
    store = write_checkpoints(tmp_path / "pool", held)
    goal = write_checkpoints(
        tmp_path / "target", {name: (w, {"gradient": target[name]}) for name, w in WEIGHTS.items()}
    )
    selection = select(store, "less", 8, goal, target_groups=groups, target_aggregation=aggregation, pool_rows=form)
    rows = adam if form == "adam" else pool
    scores, best = triple_loop(
        [(w, rows[name]) for name, w in WEIGHTS.items()], [target[name] for name in WEIGHTS], groups, aggregation
    )
    np.testing.assert_allclose(selection.scores, scores, atol=2e-6)
    np.testing.assert_array_equal(selection.indices, np.argsort(-scores)[:8])
    np.testing.assert_array_equal(selection.trace["subtask"], best[selection.indices])
    np.testing.assert_array_equal(selection.trace["score"], selection.scores[selection.indices])
    assert selection.manifest["findings"]["subtasks"] == ["a", "b", "c"]
    assert sum(selection.manifest["findings"]["picks_by_subtask"].values()) == 8


def test_an_array_is_one_checkpoint_and_one_subtask(toy):
    pool, _, target, _ = toy
    G, V = pool["epoch-1"], target["epoch-1"]
    selection = select(G, "less", 5, V)
    scores, _ = triple_loop([(1.0, G)], [V], ["t"] * 6, "mean_cosine")
    np.testing.assert_allclose(selection.scores, scores, atol=1e-6)


def test_adam_rows_are_taken_where_they_are_and_missed_loudly_where_not(toy, tmp_path):
    pool, adam, target, _ = toy
    G, V = pool["epoch-1"], target["epoch-1"]
    with_adam = write_store(tmp_path / "a", {"gradient": G, "adam": adam["epoch-1"]})
    without = write_store(tmp_path / "b", {"gradient": G})
    goal = write_store(tmp_path / "t", {"gradient": V})
    taken = select(with_adam, "less", 5, goal).manifest
    assert taken["options"]["pool_rows"] == "adam"
    missed = select(without, "less", 5, goal).manifest
    assert missed["options"]["pool_rows"] == "plain"
    assert "NO ADAM-FORM ROWS" in str(missed["choices"])
    with pytest.raises(ConfigurationError, match="no array 'adam'"):
        select(without, "less", 5, goal, pool_rows="adam")


@pytest.mark.parametrize("method", ["less", "bids"])
def test_a_pool_sample_copied_into_the_target_comes_first(method):
    G = np.random.default_rng(3).standard_normal((60, 10))
    assert select(G, method, 3, G[[17]] * 40.0).indices[0] == 17
    groups = ["a", "b"]
    assert set(select(G, method, 2, G[[17, 41]], target_groups=groups).indices.tolist()) == {17, 41}


@pytest.mark.parametrize("method", ["less", "bids"])
def test_rows_that_are_not_finite_at_one_checkpoint_are_never_picked(toy, tmp_path, method):
    pool, _, target, _ = toy
    rows = {name: values.copy() for name, values in pool.items()}
    rows["epoch-1"][4] = np.nan
    goal = {name: values.copy() for name, values in target.items()}
    goal["epoch-2"][2] = np.inf
    trained = np.full(30, 5)
    trained[9] = 0
    held = {name: (w, {"gradient": rows[name]}) for name, w in WEIGHTS.items()}
    store = write_checkpoints(tmp_path / "pool", held, trained=trained)
    aims = write_checkpoints(tmp_path / "target", {n: (w, {"gradient": goal[n]}) for n, w in WEIGHTS.items()})
    selection = select(store, method, 1.0, aims)
    assert sorted(selection.indices.tolist()) == [i for i in range(30) if i not in (4, 9)]
    assert np.isnan(selection.scores[[4, 9]]).all()
    told = {choice["name"]: choice for choice in selection.manifest["choices"]}
    named = dict(zip(selection.excluded["index"].tolist(), selection.excluded["reason"].tolist(), strict=True))
    assert named == {4: "non-finite gradient at epoch-1", 9: "no trained tokens"}
    with pytest.raises(BudgetError, match="row 4 is forced in, but cannot be picked: non-finite gradient at epoch-1"):
        select(store, method, 3, aims, include=[4])
    groups = ["lost" if i in (4, 9) else "kept" for i in range(30)]
    with pytest.raises(BudgetError, match="at least 1, but only 0 of its rows"):
        select(store, method, 3, aims, groups=groups, quotas={"lost": (1, None)})
    assert told["target rows"]["value"] == 5
    assert "1 non-finite gradient" in told["target rows"]["reason"]


@pytest.mark.parametrize("method", ["less", "bids"])
def test_equal_rows_have_equal_scores_wherever_they_stand(method, monkeypatch):
    monkeypatch.setattr("spicerack.selectors.rows.BLOCK_BYTES", 4 * 37 * 50)  # blocks of 50 rows, the last of 23
    rng = np.random.default_rng(5)
    G = rng.standard_normal((20, 37))[rng.integers(0, 20, 173)]
    copies = np.unique(G, axis=0, return_inverse=True)[1].ravel()
    selection = select(G, method, 173, rng.standard_normal((3, 37)))
    if method == "less":
        for copy in range(copies.max() + 1):
            assert np.unique(selection.scores[copies == copy]).size == 1
    for copy in range(copies.max() + 1):
        picked = [i for i in selection.indices.tolist() if copies[i] == copy]
        assert picked == sorted(picked)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": None}, ConfigurationError, "'less' needs a target.*--target"),
        ({"target": np.ones((2, 3))}, GradientError, "3 dimensions, the gradients 8"),
        ({"target": np.full((2, 8), np.nan)}, GradientError, "none of the 2 target rows can be used"),
        (
            {"target": np.vstack([np.ones((1, 8)), np.full((1, 8), np.nan)]), "target_groups": ["a", "b"]},
            GradientError,
            "subtask 'b'",
        ),
        ({"target": {"a": np.ones((1, 8)), "b": np.full((1, 8), np.nan)}}, GradientError, "rows of 'b' can be used"),
    ],
)
def test_targets_that_cannot_be_used(arguments, error, message):
    with pytest.raises(error, match=message):
        select(np.random.default_rng(0).standard_normal((9, 8)), "less", 2, **arguments)


@pytest.mark.parametrize(
    ("setting", "theirs", "message"),
    [
        ("projection", {"dimension": 8, "seed": 1}, r"projection\.seed is 1, the pool's 0"),
        ("model", "other (weights 12)", r"model is other \(weights 12\), the pool's m \(weights 34\)"),
        ("tracked", ["a"], "tracked is"),
    ],
)
def test_a_target_of_other_settings_is_refused_with_both_values(tmp_path, setting, theirs, message):
    rng = np.random.default_rng(0)
    ours = {"model": "m (weights 34)", "tracked": ["a", "b"], "projection": {"dimension": 8, "seed": 0}}
    pool = write_store(tmp_path / "pool", {"gradient": rng.standard_normal((9, 8))}, settings=ours)
    same = write_store(tmp_path / "same", {"gradient": rng.standard_normal((2, 8))}, settings=ours)
    other = write_store(
        tmp_path / "other", {"gradient": rng.standard_normal((2, 8))}, settings={**ours, setting: theirs}
    )
    assert select(pool, "less", 2, same).indices.size == 2
    for target in (other, {"x": other}):
        with pytest.raises(StoreMismatchError, match=message):
            select(pool, "less", 2, target)


def test_a_target_without_trained_tokens_is_refused(tmp_path):
    rows = np.random.default_rng(0).standard_normal((9, 8))
    empty = write_store(tmp_path / "t", {"gradient": rows[:2]}, trained=[0, 0])
    with pytest.raises(GradientError, match="none of the 2 target rows can be used: 2 no trained tokens"):
        select(rows, "less", 2, empty)


def test_a_target_of_zeros_ranks_nothing():
    rows = np.random.default_rng(0).standard_normal((9, 8))
    with pytest.raises(GradientError, match="the target rows of 'b' are all zero"):
        select(rows, "less", 2, {"a": rows[:1], "b": np.zeros((2, 8))})


def test_checkpoints_of_pool_and_target_must_be_the_same(toy, tmp_path):
    pool, _, target, _ = toy
    store = write_checkpoints(tmp_path / "pool", {n: (w, {"gradient": pool[n]}) for n, w in WEIGHTS.items()})
    one = write_store(tmp_path / "one", {"gradient": target["epoch-1"]})
    with pytest.raises(ConfigurationError, match="holds no checkpoint 'epoch-1'"):
        select(store, "less", 3, one)
    several = write_checkpoints(tmp_path / "several", {n: (w, {"gradient": target[n]}) for n, w in WEIGHTS.items()})
    single = write_store(tmp_path / "single", {"gradient": pool["epoch-1"]})
    with pytest.raises(ConfigurationError, match="one checkpoint, the target's of epoch-1, epoch-2, epoch-3"):
        select(single, "less", 3, several)


def test_several_targets_are_subtasks_of_any_size(tmp_path):
    rng = np.random.default_rng(2)
    G = rng.standard_normal((40, 6))
    small = write_store(tmp_path / "s", {"gradient": rng.standard_normal((1, 6))})
    large = rng.standard_normal((9, 6))
    selection = select(G, "less", 5, {"small": small, "large": large})
    V = np.concatenate([small.matrix(), large])
    scores, _ = triple_loop([(1.0, G)], [V], ["small"] + ["large"] * 9, "mean_cosine")
    np.testing.assert_allclose(selection.scores, scores, atol=1e-6)
    by_source = write_store(tmp_path / "b", {"gradient": large}, sources=np.array(list("xxyyzzxyz")))
    findings = select(G, "less", 5, by_source, target_groups="source").manifest["findings"]
    assert findings["subtasks"] == ["x", "y", "z"]
