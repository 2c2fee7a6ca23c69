"""A run that trims reads gradients even for a method that does not."""

import json

import numpy as np
import pytest

import spicerack


@pytest.mark.parametrize("by", ["loss_mean", "ifd"])
def test_random_can_be_trimmed(tiny_folder, tiny_pool, tmp_path, by):
    config = {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
        "labels": {"max_length": 64},
        "gradients": {"dimension": 32},
        "selection": {"method": "random", "budget": 1.0, "trim": 0.25, "trim_by": by, "trim_groups": "source"},
        "output_dir": str(tmp_path),
    }
    done = spicerack.run(config)
    values, sources = done.store.column(by), done.store.column("source")
    left = np.setdiff1d(np.arange(done.store.n), done.selection.indices)
    for source in set(sources):
        members = np.flatnonzero((sources == source) & np.isfinite(values))
        out = np.intersect1d(members, left)
        assert len(out) == len(members) // 4
        assert values[out].min() >= values[np.setdiff1d(members, out)].max()
    assert (tmp_path / "report.html").is_file()
    choices = json.loads((tmp_path / "manifest.json").read_text())["choices"]
    assert any(choice["name"] == "trim" for choice in choices)
