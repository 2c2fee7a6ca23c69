"""The compiled products of rows with three columns: right at every shape, and the same wherever a row stands."""

import numpy as np
import pytest

from spicerack.information import lanes
from spicerack.numbers import as_float32, as_stored

TYPES = {"float16": np.float32, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}


def held(values, dtype):
    """Numbers as an array of this type holds them, and those numbers in float64."""
    found = values if dtype == "float64" else as_stored(values.astype(np.float32), dtype)
    return found, (found if dtype == "float64" else as_float32(found)).astype(np.float64)


def products(X, columns, before=0):
    out = np.full((3, before + len(X)), np.nan)
    lanes.multiply(X, columns, out, before)
    assert np.isnan(out[:, :before]).all()
    return out[:, before:].T


@pytest.mark.parametrize("k", [1, 3, 8, 15, 16, 17, 100, 255, 256, 300, 1000])
@pytest.mark.parametrize("dtype", TYPES)
def test_products_of_any_number_of_rows(dtype, k):
    rng = np.random.default_rng(k)
    columns = rng.standard_normal((3, k)).astype(TYPES[dtype])
    for n in (0, 1, 2, 3, 4, 5, 7, 8, 50):
        X, wide = held(rng.standard_normal((n, k)), dtype)
        wide_columns = columns.astype(np.float64)
        limit = np.linalg.norm(wide, axis=1)[:, None] * np.linalg.norm(wide_columns, axis=1)
        limit = lanes.UNITS * np.finfo(TYPES[dtype]).eps * limit
        assert (np.abs(products(X, columns, before=2) - wide @ wide_columns.T) <= limit).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_terms_that_all_round_the_same_way(dtype):
    """The worst case of a sum: constant rows, whose partial sums lose the same bits again and again."""
    working = TYPES[dtype]
    for value in np.random.default_rng(0).uniform(0.5, 1.0, 40):
        X, wide = held(np.full((5, 8192), value), dtype)
        columns = np.full((3, 8192), 1.0 / 3.0).astype(working)
        exact = 8192 * wide[0, 0] * float(columns[0, 0])
        assert np.abs(products(X, columns) / exact - 1.0).max() <= lanes.UNITS * np.finfo(working).eps


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_rows_have_equal_products(dtype):
    """Ties are told by products that agree to the last bit, so the place of a row must not count."""
    rng = np.random.default_rng(0)
    row, _ = held(rng.standard_normal(333), dtype)
    columns = rng.standard_normal((3, 333)).astype(TYPES[dtype])
    for n in (1, 4, 11):
        found = products(np.repeat(row[None], n, axis=0), columns)
        np.testing.assert_array_equal(found, products(row[None], columns).repeat(n, axis=0))


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_that_lie_apart(dtype):
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((3, 40)).astype(TYPES[dtype])
    X, _ = held(rng.standard_normal((18, 60)), dtype)
    for view in (X[:, 7:47], X[::2, :40], X[::-1, 20:], np.asfortranarray(X)[:, :40]):
        np.testing.assert_array_equal(products(view, columns), products(view.copy(), columns))


def test_a_number_that_is_not_finite_stays_in_its_row():
    X = np.ones((9, 40), dtype=np.float32)
    X[2, 3], X[5, 39], X[8, 0] = np.nan, np.inf, np.nan
    found = products(X, np.ones((3, 40), dtype=np.float32))
    assert np.isnan(found[[2, 8]]).all()
    assert np.isinf(found[5]).all()
    np.testing.assert_array_equal(found[[0, 1, 3, 4, 6, 7]], 40.0)
