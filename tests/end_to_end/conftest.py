"""Runs of a tiny pool on a tiny model."""

import pytest


@pytest.fixture
def no_measuring(monkeypatch):
    """What the machine can do is measured at each pass, a third of a second."""
    for module in ("gradients", "features"):
        monkeypatch.setattr(f"spicerack.{module}.collect.measure_peak", lambda *_: 1e9)


@pytest.fixture
def sections(tiny_pool, tiny_folder, tmp_path):
    """Method, options of the gradients and of the selection -> the sections of a configuration."""

    def make(method, gradients=(), **selection):
        return {
            "data": {"pool": str(tiny_pool)},
            "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
            "labels": {"max_length": 64},
            "gradients": {"dimension": 64, "shard_rows": 16, **dict(gradients)},
            "selection": {"method": method, "budget": 6, **selection},
            "output_dir": str(tmp_path / method),
        }

    return make
