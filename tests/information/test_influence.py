"""Streamed products are those of the whole matrix, and equal rows have equal ones wherever they stand."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.information.influence import add_products, products, read_ahead


def blocks_of(G, size):
    return ((slice(i, min(i + size, len(G))), G[i : i + size]) for i in range(0, len(G), size))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    k=st.integers(1, 40),
    c=st.integers(1, 40),
    size=st.sampled_from([1, 7, 64, 100, 500]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_the_whole_matrix(n, k, c, size, dtype, seed):
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((max(1, n // 3), k)).astype(dtype)
    which = rng.integers(0, len(distinct), n)
    G, columns = distinct[which], rng.standard_normal((c, k))
    A = np.zeros((c, n), dtype=dtype)
    add_products(A, blocks_of(G, size), columns)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(A, columns @ G.T.astype(np.float64), rtol=tolerance, atol=tolerance)
    first = {int(kind): int(np.flatnonzero(which == kind)[0]) for kind in set(which.tolist())}
    np.testing.assert_array_equal(A, A[:, [first[int(kind)] for kind in which]])


def test_sums_over_checkpoints():
    G = np.random.default_rng(0).standard_normal((20, 5))
    A = np.zeros((2, 20))
    for weight in (0.75, 0.25):
        add_products(A, blocks_of(G, 6), weight * G[:2])
    np.testing.assert_allclose(A, G[:2] @ G.T, rtol=1e-12)


def test_the_next_block_is_read_while_one_is_used():
    started = threading.Event()

    def items():
        yield 1
        started.set()
        yield 2

    reader = read_ahead(items())
    assert next(reader) == 1
    assert started.wait(5)
    assert list(reader) == [2]
    assert list(read_ahead(iter([]))) == []


def test_an_error_of_the_reader_reaches_the_caller():
    def broken():
        yield slice(0, 1), np.zeros((1, 2))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(products(broken(), np.zeros((1, 2))))
