"""Products of the passes err by no more than the matrix says, whatever the rows, the columns and the kernel."""

import multiprocessing
import sys

import numpy as np
import pytest

from spicerack import numbers
from spicerack.information import RowMatrix, lanes, matrix, native, products
from spicerack.numbers import DTYPES, as_float32, as_stored

KINDS = ("plain", "alike", "two values", "heavy", "one-hot")


def rows_of(kind, n, k, rng):
    return {
        "plain": lambda: rng.standard_normal((n, k)),
        "alike": lambda: np.full((n, k), rng.uniform(0.5, 1.0)) * rng.uniform(0.9, 1.0, (n, 1)),
        "two values": lambda: np.where(np.arange(k) % 2, rng.uniform(0.1, 1.0, (n, 1)), 0.3),
        "heavy": lambda: np.abs(rng.standard_normal((n, k))) * np.exp(2.0 * rng.standard_normal((n, k))),
        "one-hot": lambda: np.eye(k)[rng.integers(0, k, n)],
    }[kind]()


@pytest.mark.parametrize("k", [8, 128, 384, 768, 4096, 8192])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("large", [False, True])
def test_products_are_within_their_rounding(kind, k, large, monkeypatch):
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0 if large else 1 << 40)  # through compiled loops, or through numpy
    rng = np.random.default_rng(k)
    G = rows_of(kind, 64, k, rng)
    M = RowMatrix(G.astype(np.float32), lambda rows: G[rows])
    for V in (rows_of("alike", 3, k, rng).T, rows_of("plain", 5, k, rng).T, rows_of(kind, 2, k, rng).T):
        limit = M.rounding * np.linalg.norm(G, axis=1)[:, None] * np.linalg.norm(V, axis=0)
        assert (np.abs(M.product(V) - G @ V) <= limit * (M.product_rounding / M.rounding)).all()
        np.testing.assert_array_equal(M.product(V)[:, 0].shape, M.product(V[:, 0]).shape)
        narrow = V.astype(np.float32)
        assert (np.abs(M.working_at(slice(None)) @ narrow - G @ V) <= limit).all()  # as pools and refreshes multiply


@pytest.mark.parametrize("k", [8, 384, 4096])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "widened"), [("float16", False), ("float16", True), ("bfloat16", False)])
def test_products_of_half_precision_are_those_of_the_stored_rows(kind, k, dtype, widened, monkeypatch):
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    monkeypatch.setattr(lanes, "HALVES", lanes.HALVES and not widened)  # where the processor cannot, numpy widens
    rng = np.random.default_rng(k)
    G = rows_of(kind, 64, k, rng)
    lengths = np.linalg.norm(G, axis=1)
    unit = (G / lengths[:, None]).astype(np.float32)
    unit[3, :4] = [6e-8, -5e-6, 0.0, -0.0]  # the smallest numbers of float16 among them
    stored = as_stored(unit, dtype)
    exact = as_float32(stored).astype(np.float64) * lengths[:, None]
    M = RowMatrix(stored, lambda rows: exact[rows], lengths=lengths)
    V = np.concatenate([rows_of("plain", 4, k, rng), rows_of(kind, 1, k, rng)]).T
    limit = M.product_rounding * np.linalg.norm(exact, axis=1)[:, None] * np.linalg.norm(V, axis=0)
    assert (np.abs(M.product(V) - exact @ V) <= limit).all()
    np.testing.assert_allclose(M.working_at(np.array([5, 3])), exact[[5, 3]], rtol=1e-6)
    assert [rows.dtype for _, rows in M.working_blocks()] == [np.float32]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("large", [False, True])
def test_rows_that_are_scattered_are_the_rows_asked_for(dtype, large, monkeypatch):
    for module in (products, numbers):
        monkeypatch.setattr(module, "TORCH_ABOVE", 0 if large else 1 << 40)
    G = as_stored(np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32), dtype)
    G.flags.writeable = False  # as rows of a mapped file are
    for rows in (np.array([3, 3, 49, 0]), np.zeros(0, dtype=np.int64), slice(2, 9)):
        found = products.taken(G, rows)
        assert found.dtype == DTYPES[dtype]
        np.testing.assert_array_equal(found, G[rows])
        np.testing.assert_array_equal(RowMatrix(G).working_at(rows), as_float32(G)[rows])


def test_a_listener_hears_of_every_row_once(monkeypatch):
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    G = np.random.default_rng(0).standard_normal((101, 5)).astype(np.float32)
    heard = np.zeros((4, 101))

    def listen(part, products):
        heard[:, part] += products

    V = np.random.default_rng(1).standard_normal((5, 4))
    for M in (RowMatrix(G), RowMatrix(None, lambda rows: G[rows], working_at=lambda rows: G[rows], shape=G.shape)):
        heard[:] = 0.0
        np.testing.assert_array_equal(M.product(V, listen), heard.T)
        np.testing.assert_allclose(heard.T, G @ V, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_columns_outside_the_range_of_float32(scale):
    G = np.random.default_rng(0).standard_normal((5, 3))
    v = np.array([1.0, 2.0, 3.0]) * scale
    np.testing.assert_allclose(RowMatrix(G.astype(np.float32)).product(v) / scale, G @ v / scale, rtol=1e-5)
    assert not RowMatrix(G).product(np.zeros((3, 2))).any()


def test_read_only_rows_are_read(monkeypatch):
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    G = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    G.flags.writeable = False
    np.testing.assert_allclose(RowMatrix(G).product(np.ones(4)), G.sum(axis=1), rtol=1e-5)


def sums_of_ones():
    return RowMatrix(np.ones((64, 8), dtype=np.float32)).product(np.ones(8)).tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked there")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    assert sums_of_ones() == [8.0] * 64  # starts the threads of this process
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(sums_of_ones).get(timeout=60) == [8.0] * 64


def test_where_compiled_code_cannot_be_kept_it_is_compiled_anew(monkeypatch):
    njit = native.numba.njit

    def without_a_folder(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(native.numba, "njit", without_a_folder)
    assert native.compiled(lambda x: x + 1)(2) == 3
