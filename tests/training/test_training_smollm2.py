"""The whole loop on a real model: train on a few tasks, and the held-out tasks of the same families get likelier."""

import importlib.metadata

import pytest
import torch
from safetensors.torch import load_file

from spicerack.cli import demo
from spicerack.config import DataConfig, LabelConfig, ModelConfig
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.models.loading import load_model
from spicerack.training.evaluate import evaluate, group_names
from spicerack.training.finetune import finetune
from spicerack.training.options import EvaluateConfig, TrainConfig, WarmupConfig
from spicerack.training.samples import label_rows
from spicerack.training.warmup import warmup

pytestmark = pytest.mark.slow

try:
    importlib.metadata.distribution(demo.MODEL_PACKAGE)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("the demo's model is not installed", allow_module_level=True)


def test_train_evaluate_and_warm_up(tmp_path):
    loaded = load_model(demo.model_file(), ModelConfig(dtype="float32", device="cpu"))
    labeler = Labeler(loaded.tokenizer, LabelConfig(max_length=512))
    pool = load_pool(demo.make_pool(per_family=6, seed=0), DataConfig())
    held_out = load_pool(demo.make_pool(per_family=2, seed=1), DataConfig())
    test = label_rows(held_out, labeler)
    groups = group_names(held_out, test, "family")
    options = EvaluateConfig(exact_match=True, max_answer_tokens=8, max_new_tokens=8)
    before = evaluate(test, loaded, options, groups=groups)
    assert set(before.groups) == set(demo.FAMILIES)
    assert before.overall.answered > 0

    recipe = TrainConfig(max_steps=12, per_device_train_batch_size=4)
    trained = finetune(label_rows(pool, labeler), loaded, recipe, tmp_path / "train")
    after = evaluate(test, trained.loaded, options, groups=groups)
    assert after.loss_over_groups.mean < before.loss_over_groups.high
    assert after.overall.loss.mean < before.overall.loss.mean - 0.1

    base = trained.unload()
    again = evaluate(test, base, EvaluateConfig(), groups=groups)
    assert again.overall.loss == before.overall.loss

    small = WarmupConfig(fraction=0.2, num_train_epochs=2, gradient_accumulation_steps=1, lora_r=8, lora_alpha=32)
    done = warmup(pool, labeler, base, small, tmp_path / "warmup")
    assert sum(checkpoint.weight for checkpoint in done.checkpoints) == pytest.approx(1.0)
    moments = load_file(done.checkpoints[-1].folder / "adam.safetensors")
    assert len(moments) == 2 * 2 * 4 * 30  # moments, A and B, modules, layers
    assert all(torch.isfinite(moment).all() for moment in moments.values())
