"""LEAD on a tiny model: its bandit against the formula, its rounds against a plain loop, whole runs that repeat."""

import numpy as np
import pytest

import spicerack
from spicerack.errors import UnknownNameError
from spicerack.training.bandit import Exp3
from spicerack.training.lead import LeadOptions, Rate, clusters


def test_the_bandit_is_exp3():
    bandit, open_arms = Exp3(3, 0.3, seed=0), np.array([True, True, True])
    assert bandit.probabilities(open_arms) == pytest.approx([1 / 3] * 3)
    weights = np.ones(3)
    rng = np.random.default_rng(1)
    for _ in range(20):
        arm, p = bandit.draw(open_arms)
        expected = 0.7 * weights / weights.sum() + 0.1
        assert p == pytest.approx(expected[arm])
        reward = rng.random()
        bandit.reward(arm, reward, p, open_arms)
        weights[arm] *= np.exp(0.3 * reward / (p * 3))
    assert bandit.probabilities(open_arms) == pytest.approx(0.7 * weights / weights.sum() + 0.1)


def test_the_bandit_learns_which_arm_pays_and_draws_no_closed_one():
    bandit, open_arms = Exp3(4, 0.2, seed=0), np.array([True, True, True, False])
    for _ in range(300):
        arm, p = bandit.draw(open_arms)
        assert arm != 3
        bandit.reward(arm, 1.0 if arm == 1 else 0.0, p, open_arms)
    assert bandit.probabilities(open_arms)[1] > 0.8
    assert bandit.probabilities(np.array([True, False, False, True]))[[1, 2]].tolist() == [0.0, 0.0]


def test_clusters_cut_every_source_by_difficulty():
    difficulty, sources = np.arange(10.0)[::-1].copy(), np.array(["a"] * 6 + ["b"] * 4, dtype=object)
    eligible = np.arange(10) != 2
    cluster, names = clusters(difficulty, sources, eligible, LeadOptions(difficulty_clusters=2))
    assert names == tuple(f"{s}, difficulty {d} of 2" for s in "ab" for d in (1, 2))
    assert cluster.tolist() == [1, 1, -1, 0, 0, 0, 3, 3, 2, 2]


def test_the_rate_is_a_least_squares_slope():
    rate = Rate(0.01)
    rate.see(np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert rate.value == 0.01
    rate.see(np.array([1.0, 2.0]), np.array([0.5, 0.7]))
    rate.see(np.array([3.0]), np.array([2.0]))
    assert rate.value == pytest.approx((0.5 + 1.4 + 6.0) / (1 + 4 + 9))


@pytest.fixture(scope="module")
def settings(tiny_folder, tiny_pool):
    return {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
        "labels": {"max_length": 64},
        "gradients": {"dimension": 32},
        "selection": {
            **{"method": "lead", "budget": 12, "round_picks": 3, "difficulty_clusters": 2, "seed": 2},
            **{"lora_r": 2, "learning_rate": 0.02},
        },
    }


def test_a_run_by_lead_repeats_and_goes_on_after_an_interruption(settings, tmp_path, monkeypatch):
    done = spicerack.run({**settings, "output_dir": str(tmp_path / "a")})
    chosen = done.selection
    assert len(set(chosen.indices.tolist())) == 12
    assert chosen.manifest["method"] == "lead"
    assert chosen.trace["round"].tolist() == sorted(chosen.trace["round"].tolist())
    assert (chosen.trace["reward"] >= 0).all()
    assert (chosen.trace["reward"] <= 1).all()
    assert np.isfinite(chosen.scores).all()
    for number in np.unique(chosen.trace["round"]):
        members = chosen.trace["round"] == number
        assert len(set(chosen.trace["cluster"][members])) == 1
        assert (np.diff(chosen.trace["score"][members]) <= 0).all()

    from spicerack.training.proxy import Proxy

    step, calls = Proxy.step, []

    def interrupted(self, samples):
        calls.append(len(samples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, samples)

    monkeypatch.setattr(Proxy, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spicerack.run({**settings, "output_dir": str(tmp_path / "b")})
    monkeypatch.setattr(Proxy, "step", step)
    monkeypatch.setattr("spicerack.training.lead._difficulty", lambda *_: pytest.fail("the first pass was repeated"))
    again = spicerack.run({**settings, "output_dir": str(tmp_path / "b")})
    assert again.selection.indices.tolist() == chosen.indices.tolist()
    assert (tmp_path / "a/selected.jsonl").read_bytes() == (tmp_path / "b/selected.jsonl").read_bytes()


def test_predictions_follow_the_losses_that_training_brings(settings, tmp_path):
    """The believed losses of unpicked rows after the rounds are nearer to the true ones than those at the start."""
    from spicerack.config import make_config
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.models.loading import load_model
    from spicerack.training import lead as module
    from spicerack.training.loop import Loop
    from spicerack.training.proxy import Proxy

    selection = {**settings["selection"], "budget": 24, "round_picks": 4, "smoothing": 0.0, "lora_dropout": 0.0}
    selection |= {"learning_rate": 0.005}
    config = make_config({**settings, "gradients": {"dimension": 512}, "selection": selection})
    loaded = load_model(config.model.model_name_or_path, config.model)
    loop = Loop(load_pool(config.data.pool, config.data), Labeler(loaded.tokenizer, config.labels), loaded, config)
    proxy = Proxy(loaded, loop.options, config.gradients)
    found = module.lead(loop, proxy, loop.options, folder=tmp_path)
    rest = np.setdiff1d(np.arange(len(found.scores)), found.indices)
    true = proxy.measure([loop.sample(int(i)) for i in rest]).losses
    with np.load(tmp_path / module.START_FILE) as start:
        before = start["losses"][rest]
    assert true.mean() < before.mean() - 0.2
    assert np.abs(found.scores[rest] - true).mean() < 0.4 * np.abs(before - true).mean()


def test_an_option_that_lead_does_not_have_is_named(settings, tmp_path):
    selection = {**settings["selection"], "exploratoin": 0.2}
    with pytest.raises(UnknownNameError, match="did you mean 'exploration'"):
        spicerack.run({**settings, "selection": selection, "output_dir": str(tmp_path)})


def test_a_gradient_that_is_no_longer_finite_is_never_picked(settings, tmp_path, monkeypatch):
    from dataclasses import replace

    from spicerack.training.proxy import Proxy

    measure, lost = Proxy.measure, []

    def after_a_step(self, samples):
        measured = measure(self, samples)
        if self.steps and len(lost) < 4:
            measured.rows[0] = np.nan
            lost.append(samples[0].input_ids.tolist())
            return replace(measured, rows=measured.rows)
        return measured

    monkeypatch.setattr(Proxy, "measure", after_a_step)
    found = spicerack.run({**settings, "output_dir": str(tmp_path)}).selection
    assert found.indices.size == 12
    assert found.manifest["excluded_counts"] == {"non-finite gradient": 4}
    assert not np.isin(found.excluded["index"], found.indices).any()
    assert np.isfinite(found.trace["loss"]).all()
    assert np.isnan(found.scores).sum() == 4


def test_fewer_picks_than_asked_for_are_said(settings, tmp_path, monkeypatch):
    from dataclasses import replace

    from spicerack.training.proxy import Proxy

    measure = Proxy.measure

    def after_a_step(self, samples):
        measured = measure(self, samples)
        return replace(measured, rows=measured.rows * np.nan) if self.steps else measured

    monkeypatch.setattr(Proxy, "measure", after_a_step)
    selection = spicerack.run({**settings, "output_dir": str(tmp_path)}).selection
    (choice,) = [choice for choice in selection.manifest["choices"] if choice["name"] == "picks"]
    assert choice["value"] == selection.indices.size < 12
    assert choice["reason"].startswith("the budget asks for 12, and ")
