"""Methods that rank by one number: the order, what is never picked, and what is said of it."""

import numpy as np
import pytest

from spicerack.errors import BudgetError, ConfigurationError, GradientError, StoreError
from spicerack.selectors import select

G = np.random.default_rng(0).standard_normal((10, 4))
VALUES = np.array([5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0, 5.0])


def choices(selection):
    return {choice["name"]: choice for choice in selection.manifest["choices"]}


@pytest.mark.parametrize(
    ("method", "options", "column", "expected"),
    [
        ("length", {}, "tokens", [2, 6, 4]),
        ("length", {"order": "shortest"}, "tokens", [1, 5, 3]),
        ("length", {"column": "trained_tokens"}, "trained_tokens", [2, 6, 4]),
        ("loss", {}, "loss_mean", [2, 6, 4]),
        ("loss", {"order": "lowest"}, "loss_mean", [1, 5, 3]),
        ("loss", {"order": "middle"}, "loss_mean", [0, 9, 7]),
        ("loss", {"column": "loss_sum"}, "loss_sum", [2, 6, 4]),
        ("grad_norm", {}, "gradient_norm", [2, 6, 4]),
        ("selectit", {}, "selectit", [2, 6, 4]),
        ("ifd", {"ceiling": 8.5}, "ifd", [6, 4, 8]),
    ],
)
def test_the_order_is_that_of_the_column(method, options, column, expected):
    selection = select(G, method, 3, columns={column: VALUES}, **options)
    assert selection.indices.tolist() == expected
    assert (np.diff(selection.scores[selection.indices]) <= 0).all()


def test_ifd_leaves_out_ratios_of_one_and_above_and_says_how_many():
    ratios = np.array([0.9, 1.0, 1.3, np.nan, 0.5, 0.99, 0.2, 0.1, 0.3, 2.0])
    selection = select(G, "ifd", 8, columns={"ifd": ratios})
    assert selection.indices.tolist() == [5, 0, 4, 8, 6, 7]
    assert np.isnan(selection.scores[[1, 2, 3, 9]]).all()
    assert selection.manifest["findings"] == {"not_below_ceiling": 3}
    assert choices(selection)["never picked"]["value"] == 4
    assert "3 of them are not below 1" in choices(selection)["never picked"]["reason"]
    assert choices(selection)["picked"]["value"] == 6


def test_no_value_at_all_is_an_error_and_so_is_a_quota_that_cannot_be_met():
    with pytest.raises(GradientError, match="none of the 10 rows that may be picked has a value of ifd"):
        select(G, "ifd", 3, columns={"ifd": np.full(10, 1.5)})
    ratios = np.where(np.arange(10) < 5, 0.5, 2.0)
    with pytest.raises(BudgetError, match="at least 2, but only 0 of its rows"):
        select(G, "ifd", 4, columns={"ifd": ratios}, groups=["a"] * 5 + ["b"] * 5, quotas={"b": "2.."})


def test_a_forced_row_is_picked_without_a_score():
    selection = select(G, "loss", 3, columns={"loss_mean": np.where(VALUES == 3, np.nan, VALUES)}, include=[3])
    assert selection.indices.tolist() == [3, 2, 6]
    assert np.isnan(selection.scores[3])


def test_quotas_hold():
    selection = select(G, "loss", 4, columns={"loss_mean": VALUES}, groups=["a", "b"] * 5, quotas={"b": 2})
    assert selection.indices.tolist() == [2, 6, 9, 7]


def test_gradient_norms_of_an_array_are_its_row_lengths():
    selection = select(G, "grad_norm", 10)
    assert selection.indices.tolist() == np.argsort(-np.linalg.norm(G, axis=1)).tolist()
    assert choices(selection)["gradient_norm"]["value"] == "row lengths"


def test_length_counts_the_tokens_of_the_budget():
    selection = select(G, "length", "13 tokens", tokens=VALUES.astype(int))
    assert selection.indices.tolist() == [2, 7]


def test_a_missing_column_says_how_to_get_it(tmp_path, write_features):
    with pytest.raises(ConfigurationError, match="reads the column 'ifd', which an array does not have"):
        select(G, "ifd", 3)
    store = write_features(tmp_path / "s", {"embedding": G})
    with pytest.raises(ConfigurationError, match=r"column 'ifd' is asked for.*spicerack features"):
        select(store, "ifd", 3)


def test_a_store_of_columns_alone_can_be_ranked(tmp_path, write_features):
    store = write_features(tmp_path / "s", {}, columns=[("ifd", VALUES / 10)])
    assert select(store, "ifd", 3).indices.tolist() == [2, 6, 4]
    assert select(store, "random", 3).indices.size == 3
    with pytest.raises(ConfigurationError, match="no array 'gradient'"):
        select(store, "spice", 3)
    with pytest.raises(ConfigurationError, match="no array 'embedding'"):
        select(store, "k_center", 3, rows_from="embeddings")


def test_gradients_are_not_taken_from_a_feature_store_unasked(tmp_path, write_features):
    store = write_features(tmp_path / "s", {"embedding": G})
    with pytest.raises(ConfigurationError, match=r"no array 'gradient' \(it has embedding\)"):
        select(store, "spice", 3)
    assert select(store, "dpp", 3, rows_from="embeddings").indices.size == 3


def test_selectit_averages_models_by_their_parameters(tmp_path, write_features):
    small, large = VALUES, VALUES[::-1]
    for name, scores, size in (("small", small, 1), ("large", large, 3)):
        write_features(tmp_path / name, {}, columns=[("selectit", scores)], settings={"model_parameters": size})
    models = [str(tmp_path / "small"), str(tmp_path / "large")]
    selection = select(G, "selectit", 10, models=models)
    np.testing.assert_allclose(selection.scores, 0.25 * small + 0.75 * large, rtol=1e-6)
    assert list(selection.manifest["options"]["models"]) == models


def test_selectit_refuses_models_of_other_pools(tmp_path, write_features):
    sizes = {"model_parameters": 1}
    for name, ids in (("a", None), ("b", [f"x{i}" for i in range(10)])):
        write_features(tmp_path / name, {}, columns=[("selectit", VALUES)], settings=sizes, ids=ids)
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(StoreError, match="of different pools"):
        select(G, "selectit", 3, models=paths)
    with pytest.raises(ConfigurationError, match="has 10 rows, the pool 4"):
        select(G[:4], "selectit", 3, models=paths[:1])
    with pytest.raises(ConfigurationError, match="of other samples than the pool"):
        select(tmp_path / "a", "selectit", 3, models=paths[1:])
