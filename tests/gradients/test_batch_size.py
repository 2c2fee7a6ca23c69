"""The pass finds its batch size where that pays, says so, keeps it, and survives a device that is full."""

import json

import numpy as np
import pytest
import torch

import spicerack
from spicerack.config import RunConfig, load_config, with_options
from spicerack.errors import ConfigurationError
from spicerack.gradients import batch, batch_size, collect, probing
from spicerack.gradients.estimate import estimate
from spicerack.gradients.meter import Measured
from spicerack.pipeline import plan_pass
from spicerack.testing import tiny_model, tiny_tokenizer

OPTIONS = {"dimension": 32, "sketch": 4, "shard_rows": 16, "storage_dtype": "float32"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(collect, "measure_peak", lambda *_: 1e9)
    return tmp_path / "cache" / "spicerack" / "batch.json"


class Meter:
    """A device that takes 1 MB a token, of 1 GB, and a second a batch."""

    measured = 0

    def __init__(self, device):
        self.tokens = 0

    def free(self):
        return 10**9

    def measure(self, work):
        type(self).measured += 1
        work()
        return Measured(1.0, 10**6 * Counted.last)


class Counted:
    """The tokens of the last batch."""

    last = 0


@pytest.fixture
def large_enough(monkeypatch):
    """Any pool pays for a probe, on a simulated device."""
    whole = batch.batch_gradients

    def counted(capture, samples, reduction):
        Counted.last = samples.input_ids.numel()
        return whole(capture, samples, reduction)

    monkeypatch.setattr(batch, "batch_gradients", counted)
    monkeypatch.setattr(probing, "PROBE_SHARE", 100.0)
    monkeypatch.setattr(batch_size, "DeviceMeter", Meter)
    Meter.measured = 0


def plan(pool, **options):
    config = with_options(RunConfig(), {**OPTIONS, **options})
    return plan_pass(config, pool=str(pool), model=tiny_model(vocab_size=300), tokenizer=tiny_tokenizer())


def said(planned):
    return [(c.value, c.reason) for c in planned.choices if c.name == "tokens_per_batch"]


def test_a_small_pool_has_the_devices_default(tiny_pool, tmp_path, cache):
    planned = plan(tiny_pool)
    store = planned.run(tmp_path / "s")
    ((value, reason),) = said(planned)
    assert (value, store.settings["tokens_per_batch"]) == ("2048", 2048)
    assert "too few for a probe to pay" in reason
    assert planned.resolved == planned.config
    assert not cache.exists()


def test_the_size_is_found_once_and_remembered(tiny_pool, tmp_path, cache, large_enough):
    first = plan(tiny_pool)
    store = first.run(tmp_path / "first")
    ((value, reason),) = said(first)
    found = store.settings["tokens_per_batch"]
    assert value == str(found)
    assert 500 < found <= 800  # a shard at most, and four fifths of the memory at a megabyte a token
    assert reason == "80% of 0.9 GB free memory holds 800 tokens"
    assert first.resolved.tokens_per_batch == found
    assert len(json.loads(cache.read_text())["answers"]) == 1
    measured = Meter.measured
    again = plan(tiny_pool)
    assert np.array_equal(again.run(tmp_path / "again").matrix(), store.matrix())
    assert "remembered in" in said(again)[0][1]
    assert Meter.measured == measured > 0
    whole = plan(tiny_pool, gradient_norm="exact")
    whole.run(tmp_path / "whole")
    assert Meter.measured > measured  # another question


def test_a_store_that_was_begun_keeps_its_size(tiny_pool, tmp_path, large_enough, monkeypatch):
    whole = collect.GradientPass._shard

    def dying(self, runner, shard, *arguments):
        if shard.index == 2:
            raise KeyboardInterrupt
        return whole(self, runner, shard, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(collect.GradientPass, "_shard", dying)
        patched.setattr(Meter, "free", lambda self: 4 * 10**8)
        with pytest.raises(KeyboardInterrupt):
            plan(tiny_pool).run(tmp_path / "s")
    begun = json.loads((tmp_path / "s" / "manifest.json").read_text())["settings"]["tokens_per_batch"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    resumed = plan(tiny_pool)
    assert resumed.run(tmp_path / "s").settings["tokens_per_batch"] == begun
    assert said(resumed) == []
    assert resumed.resolved.tokens_per_batch == begun
    fresh = plan(tiny_pool)
    assert fresh.run(tmp_path / "fresh").settings["tokens_per_batch"] != begun


def test_the_runs_configuration_repeats_the_size_found(tiny_pool, tiny_folder, tmp_path, large_enough):
    config = {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32"},
        "gradients": OPTIONS,
        "output_dir": str(tmp_path / "run"),
    }
    done = spicerack.run(config)
    written = load_config(tmp_path / "run" / "config.yaml")
    assert written.gradients.tokens_per_batch == done.store.settings["tokens_per_batch"] != 2048


def full(monkeypatch, most):
    """A device that holds `most` padded tokens."""
    whole = batch.batch_gradients

    def limited(capture, samples, reduction):
        if samples.input_ids.numel() > most:
            raise torch.OutOfMemoryError("simulated")
        return whole(capture, samples, reduction)

    monkeypatch.setattr(batch, "batch_gradients", limited)


def test_batches_that_do_not_fit_are_halved_said_once_and_give_the_same_rows(tiny_pool, tmp_path, monkeypatch):
    whole = plan(tiny_pool).run(tmp_path / "whole")
    full(monkeypatch, 150)
    planned = plan(tiny_pool)
    store = planned.run(tmp_path / "halved")
    assert np.allclose(store.matrix(), whole.matrix(), rtol=1e-3, atol=1e-5)
    assert np.allclose(store.column("loss_sum"), whole.column("loss_sum"), rtol=1e-5)
    default, (value, reason) = said(planned)
    assert default[0] == "2048"
    assert value.startswith("halved to")
    assert "did not fit on cpu; it is run in parts" in reason


def test_a_size_that_did_not_fit_is_remembered_lower(tiny_pool, tmp_path, monkeypatch, large_enough, cache):
    found = plan(tiny_pool).run(tmp_path / "a").settings["tokens_per_batch"]
    full(monkeypatch, 150)
    plan(tiny_pool).run(tmp_path / "b")
    ((kept,),) = json.loads(cache.read_text())["answers"].values()
    assert 30 < kept["tokens_per_batch"] < found
    assert "did not fit" in kept["reason"]


def test_one_sample_that_does_not_fit_is_an_error(tiny_pool, tmp_path, monkeypatch):
    full(monkeypatch, 20)
    with pytest.raises(ConfigurationError, match=r"one sample of \d+ tokens on cpu; lower max_length"):
        plan(tiny_pool).run(tmp_path / "s")


@pytest.mark.parametrize("rows", [{}, {"gradient_norm": "exact"}])
def test_the_estimate_times_batches_of_the_size_that_the_pass_has(tiny_pool, tmp_path, large_enough, rows):
    planned = plan(tiny_pool, **rows)
    cost = estimate(planned, batches=2)
    assert cost.tokens == planned.survey.tokens.sum()
    assert cost.store_bytes == 40 * (32 * 4 + 64)
    measured = Meter.measured
    planned.run(tmp_path / "s")
    assert Meter.measured == measured
