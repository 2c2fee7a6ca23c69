"""Every feature equals its definition, computed sample by sample without batches, pads or stores."""

from hashlib import blake2b

import numpy as np
import pytest
import torch

from spicerack.config import DataConfig, LabelConfig
from spicerack.data.labels import Encoded, Labeler
from spicerack.data.records import load_pool
from spicerack.data.responses import behind, prompt_of
from spicerack.features.collect import collect_features
from spicerack.features.pooling import leading_directions
from spicerack.features.ratings import ANSWER
from spicerack.testing import random_samples, tiny_model

EVERYTHING = "loss,ifd,mismatch,selectit,embedding,embedding_weighted,states"
OPTIONS = {"max_length": 128, "storage_dtype": "float32", "tokens_per_batch": 300, "shard_rows": 4}


@pytest.fixture(scope="module")
def store(model, tokenizer, chats, prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "store"
    return collect_features(
        chats,
        model=model,
        tokenizer=tokenizer,
        output_dir=folder,
        compute=EVERYTHING,
        rating_prompts=str(prompts),
        state_rank=3,
        mismatches=2,
        **OPTIONS,
    )


@pytest.fixture(scope="module")
def encoded(tokenizer, chats):
    pool = load_pool(chats, DataConfig())
    labeler = Labeler(tokenizer, LabelConfig(max_length=128))
    return [labeler.encode(pool.sample(i), where=pool.where(i)) for i in range(len(pool))]


def run(model, ids):
    """Hidden states (t, h) and logits (t, v) of one text."""
    with torch.no_grad():
        one = torch.tensor(np.asarray(ids, dtype=np.int64))[None]
        return model.model(input_ids=one).last_hidden_state[0], model(input_ids=one).logits[0]


def losses(model, ids, trained):
    """Cross-entropies of the tokens at the places `trained`, one after the other."""
    logits = run(model, ids)[1].double()
    return [float(torch.logsumexp(logits[t - 1], 0) - logits[t - 1, int(ids[t])]) for t in trained]


def places(sample):
    return [t for t in range(1, len(sample.labels)) if sample.labels[t] != -100]


def test_the_embedding_is_the_mean_state(store, model, encoded):
    truth = np.stack([run(model, sample.input_ids)[0].mean(0).numpy() for sample in encoded])
    np.testing.assert_allclose(store.matrix(array="embedding"), truth, rtol=1e-4, atol=1e-5)


def test_the_weighted_embedding_weighs_a_state_by_its_place(store, model, encoded):
    truth = []
    for sample in encoded:
        states = run(model, sample.input_ids)[0].numpy()
        total = sum((t + 1) * state for t, state in enumerate(states))
        truth.append(total / sum(range(1, len(states) + 1)))
    np.testing.assert_allclose(store.matrix(array="embedding_weighted"), truth, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_trained_tokens(store, model, encoded):
    for i, sample in enumerate(encoded):
        found = losses(model, sample.input_ids, places(sample))
        assert store.column("trained_tokens")[i] == len(found)
        if not found:
            assert np.isnan(store.column("loss_mean")[i])
            continue
        assert store.column("loss_sum")[i] == pytest.approx(sum(found), rel=1e-5)
        assert store.column("loss_mean")[i] == pytest.approx(np.mean(found), rel=1e-5)


def test_ifd_is_the_loss_given_the_instruction_over_the_loss_alone(store, model, tokenizer, encoded):
    for i, sample in enumerate(encoded):
        where = places(sample)
        if not where:
            assert np.isnan(store.column("ifd")[i])
            continue
        response = [tokenizer.bos_token_id, *(int(sample.input_ids[t]) for t in where)]
        given = np.mean(losses(model, sample.input_ids, where))
        alone = np.mean(losses(model, response, range(1, len(response))))
        assert store.column("loss_alone")[i] == pytest.approx(alone, rel=1e-5)
        assert store.column("ifd")[i] == pytest.approx(given / alone, rel=1e-5)


def test_without_a_beginning_token_both_losses_leave_out_the_first(tmp_path):
    model = tiny_model("llama")
    model.config.bos_token_id = None
    samples = random_samples([9, 12, 7])
    pool = [{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in samples]
    store = collect_features(pool, model=model, output_dir=tmp_path / "s", compute="ifd")
    assert store.settings["alone_start"] is None
    for i, sample in enumerate(samples):
        where = places(sample)
        response = [int(sample.input_ids[t]) for t in where]
        given = np.mean(losses(model, sample.input_ids, where)[1:])
        alone = np.mean(losses(model, response, range(1, len(response))))
        assert store.column("ifd")[i] == pytest.approx(given / alone, rel=1e-5)


def digest(prompt):
    found = blake2b(np.array(prompt, dtype=np.int32).tobytes(), digest_size=8).digest()
    return int.from_bytes(found, "little")


def test_mismatch_is_the_loss_given_the_instruction_over_the_loss_behind_others(store, model, encoded):
    prompts = [tuple(sample.input_ids[: places(sample)[0]].tolist()) if places(sample) else () for sample in encoded]
    circle = sorted({*prompts} - {()}, key=digest)
    for i, sample in enumerate(encoded):
        where = places(sample)
        if not where:
            assert np.isnan(store.column("mismatch")[i])
            continue
        at = circle.index(prompts[i])
        behind = []
        for other in (circle[(at + 1) % len(circle)], circle[(at + 2) % len(circle)]):
            text = [*other, *(int(sample.input_ids[t]) for t in where)]
            behind += losses(model, text, range(len(other), len(text)))
        assert store.column("loss_mismatched")[i] == pytest.approx(np.mean(behind), rel=1e-5)
        given = np.mean(losses(model, sample.input_ids, where))
        assert store.column("mismatch")[i] == pytest.approx(given / np.mean(behind), rel=1e-5)


def test_a_prompt_too_long_for_a_response_loses_its_first_tokens():
    sample = Encoded(np.arange(6, dtype=np.int32), np.array([-100, -100, -100, 3, 4, 5], dtype=np.int32), 0, False)
    assert prompt_of(sample).tolist() == [0, 1, 2]
    joined = behind(np.arange(10, 20, dtype=np.int32), sample, 6)
    assert joined.input_ids.tolist() == [17, 18, 19, 3, 4, 5]
    assert joined.labels.tolist() == [-100, -100, -100, 3, 4, 5]
    plain = Encoded(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32), 0, False)
    assert not len(prompt_of(plain))


def test_ratings_equal_a_plain_loop(store, model, tokenizer, chats, prompts):
    digits = [tokenizer.convert_tokens_to_ids(str(rating)) for rating in range(1, 6)]
    for i, row in enumerate(chats):
        messages = row["messages"]
        if messages[-1]["role"] != "assistant":
            assert np.isnan(store.column("selectit")[i])
            continue
        before = messages[:-1]
        asked = (
            before[0]["content"]
            if len(before) == 1
            else "\n".join(f"{message['role']}: {message['content']}" for message in before)
        )
        scores = []
        for prompt in prompts.read_text().split("\n")[:3]:
            text = f"{prompt}\nInstruction: {asked}\nResponse: {messages[-1]['content']}{ANSWER}"
            ids = tokenizer(text)["input_ids"]
            ids = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
            assert len(ids) < 128
            p = torch.softmax(run(model, ids)[1][-1, digits].double(), 0).numpy()
            best = int(np.argmax(p))
            scores.append((best + 1) * sum(abs(p[k] - p[best]) for k in range(5)) / 4)
        truth = np.mean(scores) / (1 + 0.2 * np.std(scores))
        assert store.column("selectit")[i] == pytest.approx(truth, rel=1e-4)
        assert store.column("selectit_cut_tokens")[i] == 0


def test_states_keep_the_leading_directions_of_the_trained_places(store, model, encoded):
    rows = store.matrix(array="states").reshape(len(encoded), 3, 16)
    for i, sample in enumerate(encoded):
        where = places(sample)
        if not where:
            assert not rows[i].any()
            assert np.isnan(store.column("states_energy")[i])
            continue
        X = run(model, sample.input_ids)[0].numpy()[[t - 1 for t in where]].astype(np.float64)
        _, values, vectors = np.linalg.svd(X, full_matrices=False)
        kept = min(3, len(values))
        truth = (vectors[:kept].T * values[:kept] ** 2) @ vectors[:kept]
        np.testing.assert_allclose(rows[i].T @ rows[i], truth, rtol=1e-3, atol=1e-3 * np.abs(truth).max())
        energy = (values[:kept] ** 2).sum() / (values**2).sum()
        assert store.column("states_energy")[i] == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 6), (4, 6), (6, 6), (20, 6)])
def test_no_directions_of_that_number_are_nearer_to_the_moment(shape):
    X = np.random.default_rng(0).standard_normal(shape)
    directions, energy = leading_directions(torch.from_numpy(X), 2)
    values, vectors = np.linalg.eigh(X.T @ X)
    truth = (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
    kept = min(2, shape[0])
    np.testing.assert_allclose(directions.T @ directions, truth, atol=1e-5)
    assert directions.shape == (2, 6)
    assert not directions[kept:].any()
    assert energy == pytest.approx(np.trace(truth) / np.trace(X.T @ X), rel=1e-6)


def test_states_that_are_not_finite_or_zero():
    assert leading_directions(torch.zeros(3, 4), 2)[1] == 1.0
    directions, energy = leading_directions(torch.full((3, 4), float("inf")), 2)
    assert np.isnan(energy)
    assert directions.isnan().all()
