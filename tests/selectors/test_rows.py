"""Rows read alike from an array and from a store."""

import numpy as np
import pytest

from spicerack.errors import GradientError
from spicerack.information import matrix
from spicerack.selectors import select
from spicerack.selectors.rows import Rows
from spicerack.store.reader import GradientStore
from spicerack.store.writer import StoreWriter


def write_store(path, G, *, dtype="float32", trained=None):
    n, k = G.shape
    trained = np.full(n, 5) if trained is None else trained
    with StoreWriter.create_or_resume(
        path, settings={"a": 1}, n=n, arrays={"gradient": k}, shard_rows=7, dtype=dtype
    ) as writer:
        for shard in writer.missing():
            part = slice(shard.start, shard.stop)
            size = shard.stop - shard.start
            table = {
                "id": [str(i) for i in range(shard.start, shard.stop)],
                "source": ["x"] * size,
                **{name: np.ones(size, dtype=np.float32) for name in ("loss_mean", "loss_sum", "gradient_norm")},
                "tokens": np.arange(shard.start, shard.stop) + 1,
                "trained_tokens": trained[part],
                "cut_tokens": np.zeros(size, dtype=np.int32),
            }
            writer.write(shard, {"gradient": G[part].astype(np.float32)}, table)
        return writer.finish()


@pytest.fixture
def G():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 6)) * np.exp(rng.standard_normal((30, 1)))


def test_unit_rows_have_length_one_and_zero_rows_stay_zero(G):
    G[4] = 0.0
    rows = Rows(G.astype(np.float32))
    assert not rows.take(4 + np.arange(1), "sqrt").any()
    lengths = np.linalg.norm(rows.take(np.arange(30), "unit"), axis=1)
    np.testing.assert_allclose(np.delete(lengths, 4), 1.0, rtol=1e-15)
    assert lengths[4] == 0.0
    np.testing.assert_allclose(rows.norms, np.linalg.norm(G, axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["array", "float16", "bfloat16", "float32"])
def test_sqrt_rows_lie_between_unit_and_plain_ones(G, dtype, tmp_path):
    """The direction of the plain row, at the square root of its length, exactly and as the passes read it."""
    store = None if dtype == "array" else write_store(tmp_path / "store", G, dtype=dtype)
    rows = Rows(G if store is None else store)
    root = rows.take(slice(None), "sqrt")
    np.testing.assert_allclose(np.linalg.norm(root, axis=1) ** 2, rows.norms, rtol=1e-13)
    np.testing.assert_allclose(root * np.sqrt(rows.norms)[:, None], rows.take(slice(None)), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(rows.matrix("sqrt"), root, rtol=1e-6)
    np.testing.assert_allclose(rows.working(np.array([7, 2]), "sqrt"), root[[7, 2]], rtol=1e-6)
    if store is not None:
        np.testing.assert_allclose(store.matrix("sqrt"), root, rtol=2e-3, atol=2e-3)


def test_an_array_of_the_right_type_is_not_copied(G):
    for dtype in (np.float32, np.float64):
        given = G.astype(dtype)
        assert Rows(given).matrix("plain", dtype) is given


def test_streamed_blocks_are_rows_of_the_matrix(monkeypatch):
    monkeypatch.setattr("spicerack.selectors.rows.BLOCK_BYTES", 4 * 5 * 3)
    G = np.random.default_rng(0).standard_normal((10, 5))
    for form in ("plain", "unit", "sqrt"):
        blocks = list(Rows(G).stream(form))
        assert len(blocks) == 4
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), Rows(G).matrix(form))


def test_values_beyond_float32_are_excluded(G):
    G[2, 0] = 1e200
    assert Rows(G).excluded == [(2, "non-finite gradient")]
    assert select(G, budget=1.0).indices.size == 29


def test_values_whose_squares_vanish_are_excluded(G):
    G[0] *= 1e-150
    ((row, reason),) = Rows(G).excluded
    assert row == 0
    assert "squares float64 loses" in reason
    assert select(G, budget=1.0).indices.size == 29
    with pytest.raises(GradientError, match="scale the rows"):
        select(np.full((3, 2), 1e-200), budget=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_store_its_path_and_its_rows_select_alike(G, dtype, tmp_path):
    store = write_store(tmp_path / "store", G, dtype=dtype)
    expected = select(store.matrix(), budget=12).indices
    for source in (store, tmp_path / "store", str(tmp_path / "store")):
        np.testing.assert_array_equal(select(source, budget=12).indices, expected)
    narrow, wide = (select(store, budget=12, rows="unit", precision=p).indices for p in ("float32", "float64"))
    np.testing.assert_array_equal(narrow, wide)
    lengths = np.linalg.norm(Rows(store).take(np.arange(30), "unit"), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-14)


@pytest.mark.parametrize("form", ["plain", "unit", "sqrt"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_streamed_passes_of_many_blocks_are_those_of_the_rows(form, dtype, tmp_path, monkeypatch):
    """A thread reads each block into the memory of its last one; none may be multiplied after that."""
    monkeypatch.setattr(matrix, "NATIVE_ABOVE", 0)
    monkeypatch.setattr(matrix, "PASS_BYTES", 2 * 24 * 5)  # five rows, or six
    rng = np.random.default_rng(0)
    rows = Rows(write_store(tmp_path / "store", rng.standard_normal((1003, 24)), dtype=dtype))
    streamed = rows.row_matrix(form, np.float32, memory=1)
    assert streamed.streamed
    V = rng.standard_normal((24, 4))
    for _ in range(5):
        np.testing.assert_allclose(streamed.product(V), rows.take(slice(None), form) @ V, atol=1e-4)


@pytest.mark.parametrize(("dtype", "broken"), [("float16", 0xFC00), ("bfloat16", 0x7F81), ("float32", np.nan)])
def test_a_stored_row_that_is_not_finite_is_named(G, dtype, broken, tmp_path):
    write_store(tmp_path / "store", G, dtype=dtype)
    shard = tmp_path / "store/checkpoint-0/shard-00002.npy"  # rows 14 to 20
    rows = np.load(shard)
    (rows if dtype == "float32" else rows.view(np.uint16))[3, 1] = broken
    np.save(shard, rows)
    with pytest.raises(GradientError, match=r"row 17 of .* is not finite"):
        select(GradientStore.open(tmp_path / "store", verify=False), budget=3)


def test_a_stores_exclusions_hold_with_their_reasons(G, tmp_path):
    trained = np.full(30, 5)
    trained[3] = 0
    G[9] = np.nan
    store = write_store(tmp_path / "store", G, trained=trained)
    for method in ("spice", "random"):
        selection = select(store, method, budget=1.0)
        assert selection.excluded.tolist() == [(3, "no trained tokens"), (9, "non-finite gradient")]
        assert selection.indices.size == 28
        assert selection.manifest["gradients"]["fingerprint"] == store.fingerprint()


def test_a_token_budget_reads_the_stores_table(G, tmp_path):
    selection = select(write_store(tmp_path / "store", G), budget="40 tokens")
    assert (selection.indices + 1).sum() <= 40
