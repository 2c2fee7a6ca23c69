"""An evaluation is what one sample at a time gives, whatever the batches."""

import json
import sys
import types
from dataclasses import replace

import numpy as np
import peft
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GenerationConfig

from spicerack.config import DataConfig, LabelConfig
from spicerack.data.labels import Encoded, Labeler
from spicerack.data.records import load_pool
from spicerack.errors import ConfigurationError, DataError, MissingDependencyError, ModelError
from spicerack.models.loading import LoadedModel
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer
from spicerack.training.answers import greedy_answers, normalize, question_of
from spicerack.training.evaluate import evaluate, group_names
from spicerack.training.losses import loss_sums
from spicerack.training.options import EvaluateConfig, make_options
from spicerack.training.samples import LabeledRows, label_rows

LENGTHS = [5, 9, 7, 30, 8, 2, 7, 9, 10, 11]


def labeled(samples):
    ids = tuple(f"s{i}" for i in range(len(samples)))
    return LabeledRows(tuple(samples), np.arange(len(samples)), ids, (), "rule")


def loaded_model(architecture="llama", tokenizer=True):
    model = tiny_model(architecture, vocab_size=300)
    return LoadedModel(model, tiny_tokenizer() if tokenizer else None, architecture, torch.device("cpu"))


def loss_of(model, sample):
    """Sum of -log p of one sample, position by position."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(sample.input_ids[None]).long()).logits[0].double()
    total = 0.0
    for place in range(1, len(sample.input_ids)):
        if sample.labels[place] != -100:
            total -= torch.log_softmax(logits[place - 1], 0)[sample.labels[place]].item()
    return total


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen3-moe"])
@pytest.mark.parametrize("tokens_per_batch", [1, 24, 4096])
def test_the_losses_are_those_of_one_sample_at_a_time(architecture, tokens_per_batch):
    loaded, samples = loaded_model(architecture), random_samples(LENGTHS, vocab_size=300)
    truth = [loss_of(loaded.model, sample) for sample in samples]
    assert np.allclose(loss_sums(loaded, samples, tokens_per_batch=tokens_per_batch), truth, rtol=1e-5)


def test_groups_and_means():
    loaded, samples = loaded_model(), random_samples(LENGTHS, vocab_size=300)
    groups = ["b", "a", "b", "b", "a", "b", "a", "b", "b", "b"]
    done = evaluate(labeled(samples), loaded, EvaluateConfig(tokens_per_batch=40, resamples=200), groups=groups)
    tokens = np.array([sample.trained_tokens for sample in samples])
    sums = np.array([loss_of(loaded.model, sample) for sample in samples])
    mine = np.array(groups) == "a"
    assert list(done.groups) == ["a", "b"]
    assert done.groups["a"].samples == 3
    assert done.groups["a"].trained_tokens == tokens[mine].sum()
    assert done.groups["a"].loss.mean == pytest.approx((sums / tokens)[mine].mean(), rel=1e-5)
    assert done.groups["a"].token_loss == pytest.approx(sums[mine].sum() / tokens[mine].sum(), rel=1e-5)
    assert done.overall.loss.mean == pytest.approx((sums / tokens).mean(), rel=1e-5)
    both = (done.groups["a"].loss.mean + done.groups["b"].loss.mean) / 2
    assert done.loss_over_groups.mean == pytest.approx(both)
    for interval in (done.overall.loss, done.loss_over_groups, done.groups["b"].loss):
        assert interval.low < interval.mean < interval.high


def test_what_is_written_is_what_was_measured(tmp_path):
    data = labeled(random_samples(LENGTHS, vocab_size=300))
    done = evaluate(data, loaded_model(), EvaluateConfig(), groups=["a"] * 9 + ["b"])
    files = done.write(tmp_path)
    summary = json.loads(files["evaluation.json"].read_text())
    assert summary["overall"]["loss"]["mean"] == done.overall.loss.mean
    assert summary["groups"]["b"]["loss"] == {"mean": done.groups["b"].loss.mean, "low": None, "high": None}
    assert summary["options"]["resamples"] == 2000
    table = pq.read_table(files["samples.parquet"])
    assert table["id"].to_pylist() == list(data.ids)
    assert np.mean(table["loss"].to_numpy()) == pytest.approx(done.overall.loss.mean)


def test_the_loss_is_that_of_training():
    """The mean over all trained tokens is what transformers calls the loss of the batch."""
    loaded = loaded_model()
    samples = random_samples([8, 8, 8], vocab_size=300, trained=1.0)
    done = evaluate(labeled(samples), loaded, EvaluateConfig())
    ids = torch.tensor(np.stack([sample.input_ids for sample in samples])).long()
    with torch.no_grad():
        truth = loaded.model(input_ids=ids, labels=ids).loss.item()
    assert done.overall.token_loss == pytest.approx(truth, rel=1e-5)


def test_the_model_is_left_in_its_mode():
    loaded = loaded_model()
    loaded.model.train()
    evaluate(labeled(random_samples([5], vocab_size=300)), loaded, EvaluateConfig())
    assert loaded.model.training


def test_a_model_that_gives_no_number_is_an_error():
    loaded = loaded_model()
    with torch.no_grad():
        loaded.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"2 of 2 samples is not finite, the first is s0"):
        evaluate(labeled(random_samples([5, 6], vocab_size=300)), loaded, EvaluateConfig())


def test_groups_come_from_a_column():
    rows = [{"instruction": "a", "output": "b", "task": "x"}, {"instruction": "c", "output": "d", "task": 7}]
    labeler = Labeler(tiny_tokenizer(), LabelConfig())
    pool = load_pool(rows, DataConfig())
    assert group_names(pool, label_rows(pool, labeler).rows, "task") == ["x", "7"]
    with pytest.raises(DataError, match="has no 'capability'"):
        group_names(pool, label_rows(pool, labeler).rows, "capability")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_greedy_answers_are_the_plain_loop(architecture):
    loaded = loaded_model(architecture)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 260, length).astype(np.int32) for length in (3, 9, 5, 20)]
    together = greedy_answers(loaded, prompts, max_new_tokens=6, tokens_per_batch=1000)
    for prompt, answer in zip(prompts, together, strict=True):
        ids = prompt.tolist()
        for _ in range(6):
            with torch.no_grad():
                best = int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best == 2:
                break
            ids.append(best)
        assert answer == loaded.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
    assert greedy_answers(loaded, prompts, max_new_tokens=6, tokens_per_batch=1) == together


@pytest.mark.parametrize("adapted", [False, True])
def test_what_a_model_says_of_its_own_generation_plays_no_part(adapted):
    loaded = loaded_model()
    if adapted:
        loaded = replace(loaded, model=peft.get_peft_model(loaded.model, peft.LoraConfig(r=2)).eval())
    prompts = [np.arange(4, 12, dtype=np.int32), np.full(9, 7, dtype=np.int32)]
    plain = greedy_answers(loaded, prompts, max_new_tokens=8, tokens_per_batch=100)
    own = GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1, num_beams=3, min_new_tokens=4)
    loaded.model.generation_config = own
    if adapted:
        loaded.model.get_base_model().generation_config = own
    assert greedy_answers(loaded, prompts, max_new_tokens=8, tokens_per_batch=100) == plain
    assert loaded.model.generation_config is own


def test_answers_that_would_be_cut_off_are_refused():
    with pytest.raises(ConfigurationError, match=r"max_new_tokens=48 cuts answers off .* max_answer_tokens=128"):
        make_options(EvaluateConfig, {"exact_match": True, "max_answer_tokens": 128})
    make_options(EvaluateConfig, {"max_answer_tokens": 128})


def test_exact_match_of_a_model_that_has_learned_the_answers(tmp_path):
    """A model trained to know half the answers by heart gets that half right."""
    from spicerack.training.finetune import finetune
    from spicerack.training.options import TrainConfig

    rows = [{"instruction": f"{i}?", "output": word, "g": "a"} for i, word in enumerate(["AB", "c d", "ef", "gh"])]
    labeler = Labeler(tiny_tokenizer(), LabelConfig())
    pool = load_pool(rows, DataConfig())
    half, whole = label_rows(pool, labeler, [0, 1]), label_rows(pool, labeler)
    options = TrainConfig(use_peft=False, learning_rate=1e-2, num_train_epochs=60, save_strategy="no")
    trained = finetune(half, loaded_model(), options, tmp_path).loaded
    done = evaluate(whole, trained, EvaluateConfig(exact_match=True, resamples=200), groups=["a"] * 4)
    table = done.table.to_pydict()
    assert table["reference"] == ["AB", "c d", "ef", "gh"]
    assert table["answer"][:2] == ["AB", "c d"]
    assert table["exact_match"] == [True, True, False, False]
    assert (done.overall.answered, done.overall.exact_match.mean) == (4, 0.5)
    assert done.exact_match_over_groups.mean == 0.5
    long = evaluate(whole, trained, EvaluateConfig(exact_match=True, max_answer_tokens=4))
    assert long.overall.answered == 3  # "c d" and what ends it are five tokens
    assert long.table["answer"].to_pylist()[1] is None


def test_the_question_is_the_last_answer_and_what_stands_before_it():
    ids = np.arange(10, 20, dtype=np.int32)
    labels = np.full(10, -100, dtype=np.int32)
    labels[[2, 3, 7, 8]] = ids[[2, 3, 7, 8]]
    question = question_of(Encoded(ids, labels, 0, False), longest=2)
    assert question.prompt.tolist() == ids[:7].tolist()
    assert question.reference.tolist() == [17, 18]
    assert question_of(Encoded(ids, labels, 0, False), longest=1) is None
    assert question_of(Encoded(ids, labels, 3, False), longest=2) is None, "a sample that was cut has no whole answer"
    assert question_of(Encoded(ids, ids, 0, False), longest=20) is None, "a text has no prompt"


@pytest.mark.parametrize(
    ("one", "other"), [(" Four.\n", "four"), ("a  b", "A b"), ("½", "1⁄2"), ("ＡＢ", "ab"), ("Straße", "STRASSE")]
)
def test_answers_that_are_the_same(one, other):
    assert normalize(one) == normalize(other)


def test_answers_that_are_not():
    assert normalize("3.5") != normalize("35")
    assert normalize("ls -l") != normalize("ls l")


def test_exact_match_needs_a_tokenizer():
    data = labeled(random_samples([5, 9], vocab_size=300, trained=0.0))
    with pytest.raises(ConfigurationError, match="without a tokenizer"):
        evaluate(data, loaded_model(tokenizer=False), EvaluateConfig(exact_match=True))


def test_the_harness_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    data = labeled(random_samples([5], vocab_size=300))
    with pytest.raises(MissingDependencyError, match=r"pip install 'spicerack\[harness\]'"):
        evaluate(data, loaded_model(), EvaluateConfig(harness_tasks="arc_easy"))


def test_the_harness_gets_the_model_and_gives_its_numbers(monkeypatch):
    """A stand-in with the harness's own interface: lm-eval is not installed here."""
    asked = {}

    def simple_evaluate(model, tasks, limit, fewshot_random_seed):
        asked.update(model=model, tasks=tasks, limit=limit)
        if "nonsense" in tasks:
            raise ValueError("Tasks not found: nonsense")
        return {"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.25, "acc_stderr,none": 0.01}}}

    package, models = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.models")
    wrapper = types.ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate, package.__spec__ = simple_evaluate, types.SimpleNamespace()
    wrapper.HFLM = lambda pretrained, tokenizer: pretrained
    for name, module in {package.__name__: package, models.__name__: models, wrapper.__name__: wrapper}.items():
        monkeypatch.setitem(sys.modules, name, module)
    loaded, data = loaded_model(), labeled(random_samples([5], vocab_size=300))
    done = evaluate(data, loaded, EvaluateConfig(harness_tasks="arc_easy", harness_limit=3))
    assert done.harness == {"arc_easy": {"acc,none": 0.25, "acc_stderr,none": 0.01}}
    assert asked == {"model": loaded.model, "tasks": ["arc_easy"], "limit": 3}
    with pytest.raises(ConfigurationError, match="cannot run nonsense"):
        evaluate(data, loaded, EvaluateConfig(harness_tasks="nonsense"))


def test_losses_are_without_dropout_whatever_mode_the_parts_are_in():
    """Adapters fresh from peft train around a base that does not, and the other way round."""
    model = peft.get_peft_model(
        tiny_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    )
    loaded, samples = LoadedModel(model, None, "tiny", torch.device("cpu")), random_samples([5, 9, 7])
    model.eval()
    truth = loss_sums(loaded, samples, tokens_per_batch=64)
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in modules:
        module.train()
    np.testing.assert_array_equal(loss_sums(loaded, samples, tokens_per_batch=64), truth)
    assert modules
    assert all(module.training for module in modules)
