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


def test_mismatch_beside_gradients_takes_their_losses(tiny_folder, tiny_pool, tmp_path, monkeypatch):
    """The samples are not run again, and the numbers are those of a pass that runs them."""
    from spicerack.features.runner import Runner

    model = {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"}
    own = spicerack.collect_features(
        str(tiny_pool),
        model=str(tiny_folder),
        output_dir=tmp_path / "own",
        compute="mismatch",
        max_length=64,
        dtype="float32",
        device="cpu",
    )
    run, kinds = Runner.run, set()
    monkeypatch.setattr(Runner, "run", lambda self, texts, into: kinds.add(texts[0].kind) or run(self, texts, into))
    bound = float(np.nanmedian(own.column("mismatch")))
    config = {
        "data": {"pool": str(tiny_pool)},
        "model": model,
        "labels": {"max_length": 64},
        "gradients": {"dimension": 32},
        "selection": {"budget": 5, "objective": "transductive", "trim_above": bound, "trim_by": "mismatch"},
        "output_dir": str(tmp_path / "run"),
    }
    done = spicerack.run(config)
    assert kinds == {"mismatched"}
    for name in ("loss_mean", "loss_sum", "loss_mismatched", "mismatch"):
        np.testing.assert_allclose(done.store.features.column(name), own.column(name), rtol=1e-4)
    assert done.store.features.settings["losses"].startswith("of the gradient store ")
    assert "losses" not in own.settings
    picked = done.store.column("mismatch")[done.selection.indices]
    assert not (picked > bound).any()
    assert {reason for _, reason in done.selection.excluded} >= {f"trimmed: mismatch above {bound:g}"}
