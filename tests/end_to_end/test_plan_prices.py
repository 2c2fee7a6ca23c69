"""A plan prices the passes that the method needs, and they are those that a run of it makes."""

import numpy as np
import pytest

import spicerack
from spicerack.errors import ConfigurationError
from spicerack.pipeline import plan_run

pytestmark = pytest.mark.usefixtures("no_measuring")


@pytest.fixture
def configuration(sections):
    def make(method, checkpoints=None, **selection):
        return spicerack.RunConfig.model_validate(sections(method, {"checkpoints": checkpoints}, **selection))

    return make


@pytest.mark.parametrize(
    ("method", "options", "passes"),
    [
        ("spice", {}, ["gradient pass"]),
        ("random", {}, ["token counts"]),
        ("length", {}, ["token counts"]),
        ("loss", {}, ["forward pass: loss"]),
        ("ifd", {}, ["forward pass: ifd"]),
        ("ifd", {"trim": 0.1}, ["gradient pass", "forward pass: ifd"]),
        ("random", {"trim": 0.1, "trim_by": "ifd"}, ["gradient pass", "forward pass: ifd"]),
        ("random", {"trim": 0.1, "trim_by": "mismatch"}, ["gradient pass", "forward pass: mismatch"]),
        ("ifd", {"quotas": "proportional", "groups": "clusters:2"}, ["gradient pass", "forward pass: ifd"]),
        ("dpp", {"quality": "ifd"}, ["gradient pass", "forward pass: ifd"]),
        ("k_center", {"rows_from": "embeddings"}, ["forward pass: embedding"]),
    ],
)
def test_the_passes_are_those_of_the_run(configuration, method, options, passes):
    config = configuration(method, **options)
    planned = plan_run(config)
    costs = planned.estimate(batches=2)
    assert [cost.name for cost in costs] == passes
    assert not config.output_dir.exists()
    run = spicerack.run(config)
    assert ("gradient" in run.store.arrays) == (passes[0] == "gradient pass")
    assert costs[0].tokens == run.survey.tokens.sum()
    assert costs[0].samples == len(run.survey.tokens)
    if passes[0] != "gradient pass":
        chosen = {choice["name"]: choice["value"] for choice in run.selection.manifest["choices"]}
        assert planned.reason.value == chosen["pass"]


def test_a_pass_that_runs_no_model_has_no_time_and_no_speed(configuration):
    (cost,) = plan_run(configuration("random")).estimate()
    shown = dict(cost.rows())
    assert shown["token counts"] == "no pass over the model"
    assert "speed" not in shown
    assert (cost.seconds, cost.timed_batches) == (0.0, 0)


def test_a_forward_pass_is_priced_by_its_own_store(configuration):
    width = 16
    (cost,) = plan_run(configuration("k_center", rows_from="embeddings")).estimate(batches=2)
    assert cost.store_bytes == 40 * (width * 2 + 64)
    assert cost.timed_batches >= 1
    assert cost.seconds == pytest.approx(cost.tokens / cost.tokens_per_second)
    assert np.isfinite(cost.seconds)
    assert cost.seconds > 0


def test_every_text_of_a_row_is_timed(configuration, monkeypatch):
    from spicerack.features.runner import Runner

    run, kinds = Runner.run, set()
    monkeypatch.setattr(
        Runner, "run", lambda self, texts, results: kinds.add(texts[0].kind) or run(self, texts, results)
    )
    plan_run(configuration("ifd")).estimate()
    assert kinds == {"sample", "alone"}


def test_what_cannot_be_planned_is_one_line(configuration, tmp_path):
    with pytest.raises(ConfigurationError, match="'lead' trains a proxy"):
        plan_run(configuration("lead"))
    with pytest.raises(ConfigurationError, match="'spice' trains a proxy"):
        plan_run(configuration("spice", schedule="online"))
    with pytest.raises(ConfigurationError, match="'ifd' reads no gradients, so checkpoints"):
        plan_run(configuration("ifd", checkpoints=str(tmp_path)))
    with pytest.raises(ConfigurationError, match="the column 'nowhere', which no pass"):
        plan_run(configuration("dpp", quality="nowhere"))


def test_what_no_pass_gives_is_known_before_the_first(configuration):
    config = configuration("dpp", quality="nowhere")
    with pytest.raises(ConfigurationError, match="the column 'nowhere', which no pass"):
        spicerack.run(config)
    assert not (config.output_dir / "gradients").exists()
