"""`select`: the contract of its result, and one clear line for every bad input."""

import json

import numpy as np
import pytest
import torch

from spicerack.errors import BudgetError, ConfigurationError, GradientError, UnknownNameError
from spicerack.selectors import TokenBudget, select


@pytest.fixture(scope="module")
def G():
    return np.random.default_rng(0).standard_normal((50, 6))


def test_a_selection_has_what_the_contract_says(G):
    selection = select(G, budget=0.2)
    assert selection.indices.dtype == np.int64
    assert selection.indices.shape == (10,)
    assert selection.scores.dtype == np.float64
    assert selection.scores.shape == (50,)
    for column in ("gain", "base", "epsilon", "conflict", "score"):
        assert selection.trace[column].shape == (10,)
        assert selection.trace[column].dtype == np.float64
    certificate = selection.certificate
    assert certificate.share == pytest.approx(certificate.information / certificate.upper_bound)
    assert 0.0 <= certificate.curvature <= 1.0
    assert len(selection.excluded) == 0
    assert json.loads(json.dumps(selection.manifest))["budget"] == {"count": 10}
    assert repr(selection).startswith("Selection(method='spice', picked=10 of 50, excluded=0, share>=")


def test_automatic_alpha_is_resolved_and_recorded_with_its_reason(G):
    manifest = select(G, budget=5).manifest
    alpha = 1.0 / np.median((G**2).sum(axis=1))
    assert manifest["options"]["alpha"] == pytest.approx(alpha)
    assert manifest["choices"][0]["name"] == "alpha"
    assert "median" in manifest["choices"][0]["reason"]


def test_a_run_is_repeated_by_its_manifest(G):
    first = select(G, budget=7, penalty=0.3, rows="unit")
    again = select(G, first.manifest["method"], first.manifest["budget"]["count"], **first.manifest["options"])
    np.testing.assert_array_equal(first.indices, again.indices)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, "torch", "bfloat16", "fortran", "list"])
def test_any_container_of_the_same_numbers_gives_the_same_picks(kind):
    G = np.random.default_rng(1).integers(-8, 9, (40, 5)).astype(np.float64)  # exact in every dtype
    given = {
        "torch": lambda: torch.tensor(G, requires_grad=True),
        "bfloat16": lambda: torch.tensor(G).bfloat16(),
        "fortran": lambda: np.asfortranarray(G),
        "list": lambda: G.tolist(),
    }.get(kind, lambda: G.astype(kind))()
    np.testing.assert_array_equal(select(given, budget=12).indices, select(G.astype(int), budget=12).indices)


def test_the_array_is_left_as_it_was(G):
    before = G.copy()
    select(G, budget=5, rows="unit")
    np.testing.assert_array_equal(G, before)


@pytest.mark.parametrize("method", ["spice", "random"])
def test_rows_that_are_not_finite_are_excluded_named_and_never_picked(G, method):
    bad = G.astype(np.float32)
    bad[3, 0], bad[8, 2], bad[11, 1] = np.nan, np.inf, -np.inf
    selection = select(bad, method, budget=1.0)
    assert sorted(selection.excluded["index"].tolist()) == [3, 8, 11]
    assert set(selection.excluded["reason"]) == {"non-finite gradient"}
    assert selection.indices.size == 47
    assert not {3, 8, 11} & set(selection.indices.tolist())
    assert np.isnan(selection.scores[[3, 8, 11]]).all()
    assert np.isfinite(np.delete(selection.scores, [3, 8, 11])).all()
    assert selection.manifest["excluded_counts"] == {"non-finite gradient": 3}


def test_excluded_rows_do_not_change_the_other_picks(G):
    kept = select(G, budget=12)
    with_bad = select(np.vstack([G, np.full((3, 6), np.nan)]), budget=12)
    np.testing.assert_array_equal(kept.indices, with_bad.indices)
    assert kept.certificate == with_bad.certificate


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.zeros((0, 4)), "hold nothing"),
        (np.zeros((4, 0)), "hold nothing"),
        (np.array([["a", "b"]]), "dtype"),
        (np.zeros((2, 2), dtype=complex), "dtype"),
        (np.full((3, 2), np.nan), "none of the 3 rows can be picked: 3 non-finite gradient"),
        ([[1.0], [1.0, 2.0]], "rectangular"),
    ],
)
def test_rows_that_cannot_be_selected_from(bad, message):
    with pytest.raises(GradientError, match=message):
        select(bad, budget=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "spise"}, UnknownNameError, "unknown method 'spise'; did you mean 'spice'"),
        ({"penalyt": 1}, UnknownNameError, "'penalyt'; did you mean 'penalty'"),
        ({"method": "random", "penalty": 1}, UnknownNameError, "method 'random'"),
        ({"penalty": -1}, ConfigurationError, "penalty=-1, expected greater than or equal to 0"),
        ({"penalty": float("nan")}, ConfigurationError, "penalty=nan"),
        ({"penalty": -1, "stop_ratio": 2}, ConfigurationError, "penalty=-1.*; stop_ratio=2, expected less than"),
        ({"alpha": 0}, ConfigurationError, "alpha=0, expected 'auto' or greater than 0"),
        ({"rows": "units"}, ConfigurationError, "rows='units', expected 'plain', 'unit' or 'sqrt'"),
        ({"objective": "transductive", "fisher": "diag"}, ConfigurationError, "fisher='full', not 'diag'"),
        ({"pool_size": 5, "pool_picks": 6}, ConfigurationError, "pool_picks=6 is above pool_size=5"),
        ({"seed": -1}, ConfigurationError, "seed=-1"),
        ({"budget": 51}, BudgetError, "51 is above the 50 rows"),
        ({"budget": TokenBudget(10)}, BudgetError, "tokens="),
        ({"target": np.ones((2, 6))}, ConfigurationError, "objective='volume' reads no target"),
        ({"target": np.ones((2, 5)), "objective": "transductive"}, GradientError, "5 dimensions, the gradients 6"),
        ({"method": "random", "target": np.ones((2, 6))}, ConfigurationError, "reads no target"),
        ({"target_groups": ["a"]}, ConfigurationError, "there is no target"),
        (
            {"target": np.ones((1, 6)), "target_groups": ["a"], "objective": "transductive"},
            ConfigurationError,
            "reads no target_groups",
        ),
        ({"budget": "9 tokens", "tokens": [1, 2]}, ConfigurationError, "expected 50 integers"),
        ({"budget": "9 tokens", "tokens": [-1] * 50}, ConfigurationError, "negative"),
        ({"budget": "9 tokens", "tokens": [10] * 50}, BudgetError, "the shortest has 10 tokens"),
    ],
)
def test_what_cannot_be_used_is_named_on_one_line(G, options, error, message):
    with pytest.raises(error, match=message) as caught:
        select(G, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["spice", "random"])
def test_a_token_budget_is_kept(G, method):
    tokens = np.random.default_rng(0).integers(5, 40, 50)
    selection = select(G, method, "200 tokens", tokens=tokens)
    spent = tokens[selection.indices].sum()
    rest = np.setdiff1d(np.arange(50), selection.indices)
    assert spent <= 200
    assert (tokens[rest] > 200 - spent).all()
    assert selection.manifest["budget"] == {"tokens": 200}


def test_every_row_that_could_not_be_picked_is_named_with_its_reason():
    G = np.random.default_rng(1).standard_normal((20, 3))
    G[7] = np.nan
    losses = np.arange(20.0)
    found = select(
        G, "random", 5, exclude=[3, 7], include=[19], trim=0.2, trim_groups=["a"] * 20, columns={"loss_mean": losses}
    )
    named = dict(zip(found.excluded["index"].tolist(), found.excluded["reason"].tolist(), strict=True))
    assert named.pop(7) == "non-finite gradient"
    assert named.pop(3) == "excluded by the caller"
    assert set(named.values()) == {"trimmed: a high loss_mean within its group"}
    assert 19 not in named
    assert found.manifest["excluded_by_caller"] == 1
    assert np.isnan(found.scores[list(named)]).all()


def test_quotas_may_be_whole_numbers_of_numpy_and_nothing_else_escapes():
    G, groups = np.random.default_rng(1).standard_normal((12, 3)), ["a", "b"] * 6
    found = select(G, "random", 5, groups=groups, quotas={"a": np.int64(4)})
    assert (found.indices % 2 == 0).sum() == 4
    for wrong in (4.0, None, True, [1, 2, 3]):
        with pytest.raises(BudgetError, match=r"expected LEAST\.\.MOST"):
            select(G, "random", 5, groups=groups, quotas={"a": wrong})


@pytest.mark.parametrize("groups", ["clusters:0", "clusters:many"])
def test_clusters_are_a_whole_number(groups):
    G = np.random.default_rng(1).standard_normal((12, 3))
    with pytest.raises(ConfigurationError, match="expected clusters:N"):
        select(G, "random", 5, groups=groups, quotas="proportional")


@pytest.mark.parametrize("name", ["penalty", "alpha", "stop_ratio"])
@pytest.mark.parametrize("value", [True, False])
def test_an_option_without_its_value_is_not_read_as_one(name, value):
    """`--penalty` alone on the command line is true, and true is 1.0 to a number."""
    with pytest.raises(
        ConfigurationError, match=f"{name}={value}, expected a value .* --{name.replace('_', '-')} VALUE"
    ):
        select(np.eye(4), "spice", 2, **{name: value})


def test_options_that_are_true_or_false_are_taken():
    assert select(np.eye(4), "spice", 2, certify=False).certificate is None


def test_the_certified_share_is_never_rounded_up():
    shares = []
    for seed in range(12):
        found = select(np.random.default_rng(seed).standard_normal((40, 6)), "spice", 5)
        shown = float(repr(found).partition("share>=")[2].rstrip(")"))
        assert shown <= found.certificate.share < shown + 0.001 + 1e-12
        shares.append(found.certificate.share)
    assert any(round(share, 3) > share for share in shares)


def test_of_many_names_a_few_are_listed():
    few, many = ([f"sample-{i:03d}" for i in range(count)] for count in (40, 100))
    assert str(UnknownNameError("sample", "?", few)).endswith(few[-1])
    assert str(UnknownNameError("sample", "?", many)).endswith(f"there is: {', '.join(many[:5])}, ... (100 in all)")
