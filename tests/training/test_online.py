"""The online schedule against a plain reimplementation of it, step by step; resumed; with the proxy standing still."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import spicerack
from spicerack.config import GradientConfig
from spicerack.errors import ConfigurationError, StoreLockedError, StoreMismatchError, UnknownNameError
from spicerack.information import Room
from spicerack.models.loading import LoadedModel
from spicerack.testing import random_samples, tiny_model
from spicerack.training.online import WALK_FILE, OnlineOptions, walk
from spicerack.training.proxy import Proxy

GRADIENTS = GradientConfig(dimension=None, tokens_per_batch=64)
OPTIONS = OnlineOptions(
    pool_size=7, pool_picks=3, train_every=2, learning_rate=0.05, lora_r=2, lora_alpha=4, lora_dropout=0.0, seed=3
)
N = 40


@pytest.fixture(scope="module")
def samples():
    return random_samples(np.random.default_rng(1).integers(4, 14, N).tolist())


def make_proxy(options=OPTIONS):
    loaded = LoadedModel(tiny_model(), None, "llama", torch.device("cpu"))
    return Proxy(loaded, options, GRADIENTS)


def room(count=15, n=N):
    return Room(np.arange(n) != 5, count=count)


def plain_gradient(model, sample, names):
    """One backward for one sample; the rows are those of the tracked weights, in the model's order."""
    model.zero_grad()
    ids, labels = torch.tensor(sample.input_ids[None]).long(), torch.tensor(sample.labels[None]).long()
    model(input_ids=ids, labels=labels).loss.backward()
    return np.concatenate([dict(model.named_parameters())[name].grad.flatten().numpy() for name in names])


def information(X, alpha):
    return np.linalg.slogdet(np.eye(len(X)) + alpha * X @ X.T)[1]


def plain_greedy(G, alpha, penalty, count):
    """Log-det gain minus conflict with the mean of the picks, from their definitions, first row on ties."""
    picks = []
    for _ in range(count):
        scores = np.full(len(G), -np.inf)
        for i in sorted(set(range(len(G))) - set(picks)):
            mean = G[picks].mean(axis=0) if picks else np.zeros(G.shape[1])
            cosine = -G[i] @ mean / (np.linalg.norm(G[i]) * np.linalg.norm(mean) + 1e-8)
            gain = information(G[[*picks, i]], alpha) - information(G[picks], alpha)
            scores[i] = gain - penalty * max(0.0, cosine)
        picks.append(int(scores.argmax()))
    return picks


def plain_walk(samples, options, count):
    """The schedule as the paper tells it: dense gradients, the defining greedy, a textbook Adam step."""
    torch.manual_seed(options.seed)
    lora = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), lora)
    tracked = [
        name for name, _ in model.named_parameters() if ".layers." in name and name.endswith("base_layer.weight")
    ]
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in adapters]
    order = np.random.Generator(np.random.PCG64(options.seed)).permutation([i for i in range(N) if i != 5])
    picked, buffer, steps, losses = [], [], 0, []
    for number, start in enumerate(range(0, len(order), options.pool_size)):
        members = np.sort(order[start : start + options.pool_size])
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        G = np.stack([plain_gradient(model, samples[i], tracked) for i in members]).astype(np.float64)
        alpha = 1.0 / np.median((G**2).sum(axis=1))
        places = plain_greedy(G, alpha, options.penalty, min(options.pool_picks, count - len(picked)))
        picked += members[places].tolist()
        buffer += members[places].tolist()
        if len(picked) == count:
            break
        if (number + 1) % options.train_every == 0:
            model.zero_grad()
            total = 0.0
            for i in buffer:
                ids, labels = (
                    torch.tensor(samples[i].input_ids[None]).long(),
                    torch.tensor(samples[i].labels[None]).long(),
                )
                total = total + model(input_ids=ids, labels=labels).loss * samples[i].trained_tokens
            (total / sum(samples[i].trained_tokens for i in buffer)).backward()
            losses.append(float(total.detach()) / sum(samples[i].trained_tokens for i in buffer))
            norm = torch.sqrt(sum((p.grad**2).sum() for p in adapters))
            steps += 1
            for parameter, (m, v) in zip(adapters, moments, strict=True):
                g = parameter.grad * min(1.0, options.max_grad_norm / float(norm + 1e-6))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                with torch.no_grad():
                    parameter -= (
                        options.learning_rate * (m / (1 - 0.9**steps)) / ((v / (1 - 0.999**steps)).sqrt() + 1e-8)
                    )
            buffer = []
    return picked, losses


def test_a_walk_is_that_of_the_plain_reimplementation(samples):
    found = walk(lambda i: samples[i], make_proxy(), OPTIONS, room())
    picked, losses = plain_walk(samples, OPTIONS, 15)
    assert found.indices.tolist() == picked
    assert found.losses == pytest.approx(losses, rel=1e-4)
    assert found.trace["pool"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert found.trace["proxy_steps"].tolist() == [0] * 6 + [1] * 6 + [2] * 3
    assert 5 not in found.indices
    assert np.isnan(found.scores[5])


def test_training_the_proxy_changes_what_is_picked(samples):
    still = walk(lambda i: samples[i], make_proxy(), OPTIONS.model_copy(update={"train_every": 99}), room())
    moved = walk(lambda i: samples[i], make_proxy(), OPTIONS.model_copy(update={"learning_rate": 0.5}), room())
    assert still.losses == ()
    assert still.indices[:6].tolist() == moved.indices[:6].tolist()
    assert still.indices.tolist() != moved.indices.tolist()


@pytest.mark.parametrize("form", ["unit", "sqrt"])
def test_with_a_proxy_that_stands_still_it_is_the_schedule_pools(samples, form):
    options = OPTIONS.model_copy(update={"train_every": 99, "alpha": 2.0, "rows": form})
    found = walk(lambda i: samples[i], make_proxy(options), options, Room(np.ones(N, dtype=bool), count=15))
    proxy = make_proxy(options)
    G = proxy.measure(samples).rows
    expected = spicerack.select(
        G, "spice", 15, schedule="pools", pool_size=7, pool_picks=3, alpha=2.0, rows=form, seed=3
    )
    assert found.indices.tolist() == expected.indices.tolist()
    for name in ("gain", "base", "epsilon", "conflict", "score"):
        assert np.allclose(found.trace[name], expected.trace[name], atol=1e-6), name


@pytest.mark.parametrize("pools", [1, 2, 3])
def test_an_interrupted_walk_ends_as_an_undisturbed_one(samples, tmp_path, pools):
    options = OPTIONS.model_copy(update={"lora_dropout": 0.2})
    undisturbed = walk(lambda i: samples[i], make_proxy(options), options, room())

    def interrupt(done, of):
        if done == pools:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(lambda i: samples[i], make_proxy(options), options, room(), folder=tmp_path, done=interrupt)
    with open(tmp_path / WALK_FILE, "ab") as file:
        file.write(b'{"members": [1, ')  # cut in the middle of a line
    proxy, measured = make_proxy(options), []
    measure = proxy.measure
    proxy.measure = lambda part: measured.append(len(part)) or measure(part)
    again = walk(lambda i: samples[i], proxy, options, room(), folder=tmp_path)
    assert again.indices.tolist() == undisturbed.indices.tolist()
    assert np.array_equal(again.scores, undisturbed.scores, equal_nan=True)
    assert again.losses == undisturbed.losses
    assert len(measured) == 5 - pools
    assert len((tmp_path / WALK_FILE).read_text().splitlines()) == 5


def test_a_budget_out_of_reach_is_said_before_the_walk(samples):
    with pytest.raises(ConfigurationError, match="reaches 18 rows, the budget is 30; use pool_picks=6"):
        walk(lambda i: samples[i], make_proxy(), OPTIONS, room(30))


def test_tokens_can_be_the_budget(samples):
    tokens = np.array([len(sample.input_ids) for sample in samples])
    found = walk(lambda i: samples[i], make_proxy(), OPTIONS, Room(np.ones(N, dtype=bool), capacity=60, tokens=tokens))
    assert 40 < tokens[found.indices].sum() <= 60


def test_a_gradient_that_is_not_finite_is_not_picked(samples):
    proxy = make_proxy()
    measure = proxy.measure

    def spoiled(part):
        measured = measure(part)
        for place, sample in enumerate(part):
            if sample is samples[8]:
                measured.rows[place, 0] = np.nan
        return measured

    proxy.measure = spoiled
    found = walk(lambda i: samples[i], proxy, OPTIONS, Room(np.ones(N, dtype=bool), count=18))
    assert found.not_finite == (8,)
    assert 8 not in found.indices


def test_a_proxy_that_is_lost_ends_the_walk(samples):
    """Steps that are far too long leave no loss finite; nothing is picked by what is left."""
    options = OPTIONS.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 0.0})
    with pytest.raises(ConfigurationError, match=r"lost in training: after 1 steps at a learning rate of 1e\+30"):
        walk(lambda i: samples[i], make_proxy(options), options, room())
    proxy = make_proxy(options)
    proxy.step(samples[:3])
    with pytest.raises(ConfigurationError, match="lost in training: after 1 steps"):
        proxy.step(samples[3:6])


def test_the_model_is_given_back(samples):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    proxy = Proxy(LoadedModel(model, None, "llama", torch.device("cpu")), OPTIONS, GRADIENTS)
    proxy.step(samples[:4])
    proxy.release()
    assert not hasattr(model, "peft_config")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_with_the_online_schedule_leaves_what_a_run_leaves(tiny_folder, tiny_pool, tmp_path):
    config = {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
        "labels": {"max_length": 64},
        "gradients": {"dimension": 32},
        "selection": {
            **{"method": "spice", "schedule": "online", "budget": 8, "pool_size": 10, "pool_picks": 2, "seed": 1},
            **{"train_every": 2, "lora_r": 2, "learning_rate": 0.01},
        },
    }
    done = spicerack.run({**config, "output_dir": str(tmp_path / "a")})
    assert len(done.selection.indices) == 8
    assert done.store is None
    assert done.selection.manifest["findings"]["proxy_steps"] == 2
    again = spicerack.run({**config, "output_dir": str(tmp_path / "b")})
    for name in ("selected.jsonl", "indices.npy", "scores.parquet", "trace.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert json.loads((tmp_path / "a/manifest.json").read_text())["options"]["train_every"] == 2
    repeated = spicerack.run(tmp_path / "a/config.yaml")
    assert repeated.selection.indices.tolist() == again.selection.indices.tolist()
    changed = {**config, "selection": {**config["selection"], "penalty": 0.3}, "output_dir": str(tmp_path / "a")}
    with pytest.raises(StoreMismatchError, match=r"walk with other settings: options\.penalty was 0\.1, now 0\.3; "):
        spicerack.run(changed)


def test_a_store_alone_cannot_go_online_and_says_who_can():
    with pytest.raises(ConfigurationError, match="'online' keeps a model in the loop, which `spicerack run`"):
        spicerack.select(np.eye(4), "spice", 2, schedule="online")
    with pytest.raises(ConfigurationError, match="'lead' keeps a model in the loop and selects from no store"):
        spicerack.select(np.eye(4), "lead", 2)


def test_a_walk_that_ends_before_a_budget_in_tokens_says_so(samples):
    tokens = np.array([len(sample.input_ids) for sample in samples])
    wide = Room(np.ones(N, dtype=bool), capacity=int(tokens.sum()), tokens=tokens)
    assert walk(lambda i: samples[i], make_proxy(), OPTIONS, wide).short
    narrow = Room(np.ones(N, dtype=bool), capacity=20, tokens=tokens)
    assert not walk(lambda i: samples[i], make_proxy(), OPTIONS, narrow).short


@pytest.mark.parametrize(
    ("name", "value"), [("trim_groups", "source"), ("subtask_column", "source"), ("trim_above", 0)]
)
def test_what_the_loop_does_not_read_is_refused(tiny_folder, tiny_pool, tmp_path, name, value):
    selection = {"method": "spice", "schedule": "online", "budget": 4, name: value}
    given = {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder)},
        "selection": selection,
    }
    with pytest.raises(ConfigurationError, match=name):
        spicerack.run({**given, "output_dir": str(tmp_path)})


def test_two_walks_in_one_folder_are_refused(tiny_folder, tiny_pool, tmp_path):
    from spicerack.store.writer import acquire

    selection = {"method": "spice", "schedule": "online", "budget": 4, "lora_r": 2}
    given = {
        "data": {"pool": str(tiny_pool)},
        "model": {"model_name_or_path": str(tiny_folder)},
        "selection": selection,
    }
    (tmp_path / "loop").mkdir()
    with (
        acquire(tmp_path / "loop/loop.lock", "it"),
        pytest.raises(StoreLockedError, match="another process is writing"),
    ):
        spicerack.run({**given, "output_dir": str(tmp_path)})


@pytest.mark.parametrize("method", ["lead", "spice"])
@pytest.mark.parametrize("name", ["bf16", "num_train_epochs", "gradient_accumulation_steps", "gradient_checkpointing"])
def test_options_of_a_trainer_that_a_proxy_does_not_have_are_refused(tiny_folder, tiny_pool, tmp_path, method, name):
    given = {"data": {"pool": str(tiny_pool)}, "model": {"model_name_or_path": str(tiny_folder)}}
    selection = {"method": method, "budget": 4, name: 1, **({"schedule": "online"} if method == "spice" else {})}
    with pytest.raises(UnknownNameError, match=f"option '{name}'"):
        spicerack.run({**given, "selection": selection, "output_dir": str(tmp_path)})


@pytest.mark.parametrize("name", ["checkpoints", "optimizer_state"])
def test_options_of_the_pass_that_the_loop_does_not_read_are_refused(tiny_folder, tiny_pool, tmp_path, name):
    given = {"data": {"pool": str(tiny_pool)}, "model": {"model_name_or_path": str(tiny_folder)}}
    selection = {"method": "lead", "budget": 4}
    with pytest.raises(ConfigurationError, match=f"reads no {name}"):
        spicerack.run({**given, "selection": selection, "gradients": {name: "x"}, "output_dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("options", "message"), [({}, "reads no target"), ({"balance": 0.5, "objective": "transductive"}, "balance")]
)
def test_a_target_that_spice_has_no_use_for_costs_no_pass(tiny_folder, tiny_pool, tmp_path, options, message):
    given = {"data": {"pool": str(tiny_pool)}, "model": {"model_name_or_path": str(tiny_folder)}}
    selection = {"method": "spice", "budget": 4, "target": str(tiny_pool), **options}
    with pytest.raises(ConfigurationError, match=message):
        spicerack.run({**given, "selection": selection, "output_dir": str(tmp_path / "o")})
    assert not (tmp_path / "o/gradients").exists()
