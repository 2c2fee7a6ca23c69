"""Products on a device keep their bound, in full float32 whatever the process has set."""

import numpy as np
import pytest
import torch
from test_matrix import KINDS, rows_of

from spicerack.information import RowMatrix, device
from spicerack.information.blocks import HostBlock
from spicerack.information.device import DeviceRows, full_float32, shortfall


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request):
    return request.param


def held(G, where):
    cut = len(G) // 3
    return DeviceRows([(slice(0, cut), G[:cut]), (slice(cut, len(G)), G[cut:])], G.shape, where)


@pytest.mark.parametrize("k", [1, 8, 63, 64, 65, 384, 768, 4096, 8192])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_within_their_rounding(kind, k, where):
    rng = np.random.default_rng(k)
    G = rows_of(kind, 64, k, rng)
    rows = held(G, where)
    M = RowMatrix(rows, lambda part: G[part])
    for V in (rows_of("alike", 3, k, rng).T, rows_of("plain", 5, k, rng).T, rows_of(kind, 70, k, rng).T):
        size = np.linalg.norm(G, axis=1)[:, None] * np.linalg.norm(V, axis=0)
        assert (np.abs(M.product(V) - G @ V) <= M.rounding * size).all()
        assert (np.abs(rows.product(V.T).T - G @ V) <= rows.rounding * size).all()
        np.testing.assert_array_equal(M.product(V)[:, 0].shape, M.product(V[:, 0]).shape)


@pytest.mark.parametrize("stop", [0, 4, 9])
def test_a_block_answers_as_one_in_main_memory(stop, where):
    rng = np.random.default_rng(stop)
    G, columns = rng.standard_normal((40, 200)), rng.standard_normal((9, 200))
    which = np.sort(rng.permutation(40)[:25])
    for first in (rng.integers(0, stop + 1, 25), np.zeros(25, dtype=np.int64)):
        found = held(G, where).block(which).energies(columns, first, stop)
        expected = HostBlock(G[which]).energies(columns, first, stop)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
        slow = [sum((x @ c) ** 2 for c in columns[a:stop]) for x, a in zip(G[which], first, strict=True)]
        np.testing.assert_allclose(expected[0], slow, rtol=1e-12)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_full_float32_is_local(precision):
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        kept = [setting.fp32_precision for setting in settings]
        with full_float32():
            assert [setting.fp32_precision for setting in settings] == ["ieee", "ieee"]
        assert [setting.fp32_precision for setting in settings] == kept
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
def test_tf32_that_the_process_allows_is_off_here(where):
    G = np.full((64, 512), 1.0 + 2.0**-12)
    torch.set_float32_matmul_precision("high")
    try:
        assert np.abs(held(G, "cuda").product(G[:3]) / (512 * G[0, 0] ** 2) - 1.0).max() < 1e-5
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("k", [1, 5, 512, 8192])
def test_a_device_that_keeps_fewer_bits_is_found_out(k, where, monkeypatch):
    def tf32(X, columns):
        kept = [(part.view(torch.int32) & ~0x1FFF).view(torch.float32) for part in (X.cpu(), torch.tensor(columns))]
        return kept[0] @ kept[1].T

    assert shortfall(where, k) is None
    monkeypatch.setattr(device, "_times", tf32)
    assert "relative error of 4.9e-04" in shortfall(where, k)


def test_read_only_rows_are_read(where):
    G = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    G.flags.writeable = False
    np.testing.assert_allclose(held(G, where).product(np.ones((1, 4)))[0], G.sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(held(G, where)[2:4], G[2:4])
