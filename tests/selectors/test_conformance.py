"""Every selector keeps the promises of the conformance suite, and the suite can fail."""

import numpy as np
import pytest

import spicerack
from spicerack.selectors import get_selector, spice
from spicerack.selectors.registry import BUILT_IN
from spicerack.testing import check_selector

TARGET = np.random.default_rng(1).standard_normal((5, 12))

CASES = [
    ("bids", {}, TARGET),
    ("bids", {"normalization": "mad", "balance": False}, TARGET),
    ("bids", {"target_groups": ["a", "a", "b", "b", "c"], "task_weights": {"b": 2.0}}, TARGET),
    ("bids", {"target_groups": ["a", "a", "b", "b", "c"], "per_task_top": True}, TARGET),
    ("in2core", {"proponents_only": False}, TARGET),
    ("in2core", {"proponents_only": False, "hessian": "exact"}, TARGET),
    ("in2core", {"proponents_only": False, "hessian": "identity"}, TARGET),
    ("less", {}, TARGET),
    ("less", {"target_groups": ["a", "a", "b", "b", "c"], "target_aggregation": "cosine_of_mean"}, TARGET),
    ("dpp", {}, None),
    ("dpp", {"kernel": "rbf", "quality": "mark"}, None),
    ("dpp", {"regularize": True}, None),
    ("dpp", {"regularize": True, "quality": "mark"}, None),
    ("fisher", {}, None),
    ("fisher", {"features": "last_hidden"}, None),
    ("grad_norm", {}, None),
    ("grad_norm", {"order": "middle"}, None),
    ("ifd", {}, None),
    ("k_center", {}, None),
    ("k_center", {"rows_from": "embeddings", "rows": "plain"}, None),
    ("length", {}, None),
    ("length", {"order": "shortest"}, None),
    ("loss", {}, None),
    ("loss", {"order": "middle"}, None),
    ("random", {}, None),
    ("rds", {}, TARGET),
    ("rds", {"aggregation": "mean"}, TARGET),
    ("selectit", {}, None),
    ("spice", {}, None),
    ("spice", {"penalty": 2.0}, None),
    ("spice", {"fisher": "diag"}, None),
    ("spice", {"fisher": "adafisher-code"}, None),
    ("spice", {"objective": "transductive"}, None),
    ("spice", {"objective": "transductive", "rows": "unit"}, TARGET),
    ("tsds", {}, TARGET),
    ("tsds", {"draw": "top", "center": False, "neighbors": 7}, TARGET),
    ("unimax", {}, None),
    ("unimax", {"graph": "knn", "features": "gradients"}, None),
    ("unimax", {"objective": "uncertainty"}, None),
]


@pytest.mark.parametrize(("method", "options", "target"), CASES)
def test_a_selector_keeps_its_promises(method, options, target):
    columns = {*get_selector(method).needs.columns} | ({"mark"} if options.get("quality") == "mark" else set())
    check_selector(method, options=options, target=target, columns=sorted(columns - {"gradient_norm"}))


def test_no_method_is_left_out():
    assert {method for method, _, _ in CASES} == set(BUILT_IN)


@pytest.mark.parametrize(("method", "options", "target"), CASES)
def test_quotas_and_fixed_rows_hold_for_every_method(method, options, target):
    rng = np.random.default_rng(4)
    rows, tokens = rng.standard_normal((40, 12)), rng.integers(3, 30, 40)
    columns = {name: rng.uniform(0.05, 0.95, 40) for name in {*get_selector(method).needs.columns, "mark"}}
    groups = ["a", "b", "c", "d"] * 10
    fixed = {"include": [5, 22], "exclude": [0, 1, 2, 3], "groups": groups, "target": target, "columns": columns}
    quotas = {"a": 4, "b": "3..", "*": "..2"}
    chosen = spicerack.select(rows, method, 9, quotas=quotas, **fixed, **options)
    picked = [groups[i] for i in chosen.indices]
    assert (picked.count("a"), len(picked)) == (4, 9)
    assert picked.count("b") >= 3
    assert max(picked.count("c"), picked.count("d")) <= 2
    assert {5, 22} <= set(chosen.indices.tolist())
    assert not {0, 1, 2, 3} & set(chosen.indices.tolist())
    counted = spicerack.select(
        rows, method, "200 tokens", tokens=tokens, quotas={"a": "2..5", "*": "..6"}, **fixed, **options
    )
    assert tokens[counted.indices].sum() <= 200
    assert 2 <= [groups[i] for i in counted.indices].count("a") <= 5
    assert {5, 22} <= set(counted.indices.tolist())


def test_the_suite_finds_a_selector_that_does_not(monkeypatch):
    honest = spice.Spice.select

    def twice(self, problem, options):
        picks = honest(self, problem, options)
        picks.indices[-1] = picks.indices[0]
        return picks

    monkeypatch.setattr(spice.Spice, "select", twice)
    with pytest.raises(AssertionError, match="picked twice"):
        check_selector("spice")


def test_the_manifest_tells_arrays_apart():
    rows = np.random.default_rng(0).standard_normal((6, 3))
    first = spicerack.select(rows, "random", 2).manifest["gradients"]
    assert first == spicerack.select(rows.copy(), "random", 2).manifest["gradients"]
    assert first["fingerprint"] != spicerack.select(rows + 1, "random", 2).manifest["gradients"]["fingerprint"]
