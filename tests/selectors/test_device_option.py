"""The option `device`: what is chosen, what is told, and that the picks stay."""

import subprocess
import sys

import numpy as np
import pytest
from stores import write_store

from spicerack.errors import ConfigurationError
from spicerack.information.device import DeviceRows
from spicerack.selectors import devices, rows, select

GPU = {"cuda:1": "a fast GPU", "cuda:0": "a slow GPU"}


@pytest.fixture(scope="module")
def G():
    rng = np.random.default_rng(0)
    return rng.standard_normal((400, 12)) * np.exp(rng.standard_normal((400, 1)))


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs with 1 GB free, whose memory is main memory; the names of the devices that rows were put on."""
    used = []

    def held(blocks, shape, device):
        used.append(device)
        return DeviceRows(blocks, shape, "cpu")

    monkeypatch.setattr(devices, "devices", lambda: GPU)
    monkeypatch.setattr(devices, "free_bytes", lambda name: 1 << 30)
    monkeypatch.setattr(devices, "WORTH", 1000)
    monkeypatch.setattr(devices, "shortfall", lambda name, k: None)
    monkeypatch.setattr(rows, "DeviceRows", held)
    return used


def told(selection):
    return [choice for choice in selection.manifest["choices"] if choice["name"] == "device"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "transductive"},
        {"rows": "unit", "penalty": 2.0, "center": True},
        {"search": "partitions", "partitions": 3},
        {"method": "fisher"},
        {"method": "dpp"},
    ],
)
def test_rows_on_a_gpu_give_the_same_selection(G, gpus, options):
    here = select(G, budget=60, device="cpu", **options)
    assert gpus == []
    there = select(G, budget=60, **options)
    assert gpus == ["cuda:1"]
    np.testing.assert_array_equal(there.indices, here.indices)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-4)
    if here.certificate is not None:
        assert there.certificate.share == pytest.approx(here.certificate.share, rel=1e-6)
    assert "a fast GPU" in told(there)[0]["reason"]
    assert not told(here)


@pytest.mark.parametrize(
    "options",
    [
        {"fisher": "diag"},
        {"search": "stochastic"},
        {"schedule": "pools", "pool_size": 40},
        {"precision": "float64"},
        {"method": "dpp", "kernel": "rbf"},
        {"method": "dpp", "regularize": True},
    ],
)
def test_without_float32_passes_nothing_moves_unasked(G, gpus, options):
    assert not told(select(G, budget=60, **options))
    assert gpus == []


def test_a_gpu_that_is_named_is_taken(G, gpus):
    for name, expected in (("cuda", "cuda:1"), ("cuda:0", "cuda:0")):
        assert told(select(G[:20], budget=3, device=name))[0]["value"] == expected
    assert gpus == ["cuda:1", "cuda:0"]


@pytest.mark.parametrize(("device", "share"), [("auto", "50%"), ("cuda:0", "80%")])
def test_rows_that_do_not_fit_stay_and_that_is_told(G, gpus, monkeypatch, device, share):
    monkeypatch.setattr(devices, "free_bytes", lambda name: G.size * 4)
    selection = select(G, budget=3, device=device)
    assert gpus == []
    assert told(selection)[0]["value"] == "cpu"
    assert f"more than {share} of" in told(selection)[0]["reason"]
    assert selection.manifest["options"]["device"] == "cpu"


def test_a_gpu_that_rounds_too_much_is_not_used(G, gpus, monkeypatch):
    monkeypatch.setattr(devices, "shortfall", lambda name, k: "it rounds")
    assert told(select(G, budget=3))[0]["reason"] == "cuda:1 (a fast GPU) is not used: it rounds"
    with pytest.raises(ConfigurationError, match="device='cuda' cannot be used: it rounds; use device='cpu'"):
        select(G, budget=3, device="cuda")
    assert gpus == []


def test_a_store_is_streamed_to_the_device(G, tmp_path, gpus):
    store = write_store(tmp_path / "store", {"gradient": G}, dtype="float16")
    here, there = select(store, budget=40, device="cpu"), select(store, budget=40, memory_gb=1e-6)
    np.testing.assert_array_equal(there.indices, here.indices)
    assert [choice["name"] for choice in there.manifest["choices"] if choice["name"] in ("rows", "device")] == [
        "device"
    ]


def test_a_device_that_is_missing_says_what_is_there(G, monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: GPU)
    with pytest.raises(ConfigurationError, match=r"device='cuda:7' is not there: torch sees cuda:1 \(a fast GPU\), "):
        select(G, budget=3, device="cuda:7")
    monkeypatch.setattr(devices, "devices", dict)
    for device in ("cuda", "mps"):
        with pytest.raises(ConfigurationError, match="no GPU on this machine; use device='auto' or 'cpu'"):
            select(G, budget=3, device=device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device='gpu', expected auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:x"}, "expected auto, cpu"),
        ({"device": "cuda", "precision": "float64"}, "leave out precision='float64'"),
        ({"device": "cuda", "fisher": "diag"}, "leave out fisher='diag'"),
        ({"device": "cuda", "method": "dpp", "kernel": "rbf"}, "leave out kernel='rbf'"),
        ({"device": "cuda", "method": "dpp", "regularize": True}, "leave out regularize"),
        ({"device": "cuda", "method": "fisher", "features": "last_hidden"}, "leave out features='last_hidden'"),
    ],
)
def test_what_cannot_be_asked_of_a_device(G, options, message):
    with pytest.raises(ConfigurationError, match=message):
        select(G, budget=3, **options)


def test_small_pools_do_not_import_torch():
    code = (
        "import sys, numpy; from spicerack.selectors import select; "
        "select(numpy.random.default_rng(0).standard_normal((50, 4)), budget=5); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("objective", ["volume", "transductive"])
def test_a_gpu_gives_the_same_selection(objective):
    rng = np.random.default_rng(1)
    large = (rng.standard_normal((60_000, 300)) * rng.lognormal(0, 0.7, (60_000, 1))).astype(np.float32)
    here, there = (select(large, budget=300, objective=objective, device=device) for device in ("cpu", "auto"))
    np.testing.assert_array_equal(there.indices, here.indices)
    assert told(there)[0]["value"].startswith("cuda")
