"""A LoRA training step on a CPU: rows of similar length in parts, the whole padded batch, and TRL's own loss.

    .venv/bin/python benchmarks/training.py POOL --model MODEL [--steps 4] [--rounds 3]

Batches are random rows of POOL, as `spicerack train` draws them. Each contender computes the loss of each batch and
its gradients, on the same weights; the optimizer's own step costs the same for all and is left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch
from harness import interleave, keep, machine, table
from torch.nn.functional import cross_entropy

from spicerack.config import RunConfig, with_options
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.training import loss_sum
from spicerack.training.finetune import load_for_training
from spicerack.training.options import TrainConfig
from spicerack.training.samples import label_rows
from spicerack.training.trainer import add_adapters, pad_rows

Inputs = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--steps", type=int, default=4, help="batches a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = {"model_name_or_path": options.model, "dtype": options.dtype, "pool": options.pool, "max_length": 512}
    config = with_options(RunConfig(), settings)
    loaded, recipe = load_for_training(config, TrainConfig(per_device_train_batch_size=options.batch))
    pool = load_pool(options.pool, config.data)
    rows = np.random.default_rng(0).choice(len(pool), options.steps * options.batch, replace=False)
    samples = label_rows(pool, Labeler(loaded.tokenizer, config.labels), rows).samples
    drawn = [samples[start : start + options.batch] for start in range(0, len(samples), options.batch)]
    batches = [
        pad_rows([{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in group]) for group in drawn
    ]
    model = add_adapters(loaded.model, recipe).train()

    def whole(inputs: Inputs) -> torch.Tensor:
        with patch.object(loss_sum, "of_similar_length", lambda batch: [batch]):
            return loss_sum.labeled_loss_sum(model, inputs)

    def every_position(inputs: Inputs) -> torch.Tensor:
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), inputs["labels"][:, 1:].flatten(), reduction="sum")

    def steps(loss: Callable[[Inputs], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for inputs in batches:
                loss(inputs).backward()
                model.zero_grad(set_to_none=True)

        return run

    base = "a whole batch, logits everywhere"
    contenders = {
        base: steps(every_position),
        "a whole batch, logits where labels stand": steps(whole),
        "spicerack: rows of similar length, logits where labels stand": steps(
            lambda inputs: loss_sum.labeled_loss_sum(model, inputs)
        ),
    }
    timings = interleave(contenders, options.rounds)
    real = sum(len(sample.input_ids) for sample in samples)
    padded = sum(inputs["input_ids"].numel() for inputs in batches)
    parts = [part for inputs in batches for part in loss_sum.of_similar_length(inputs)]
    left = sum(part["input_ids"].numel() for part in parts)
    lines = [
        "# A LoRA training step on a CPU",
        "",
        machine("spicerack", "torch", "transformers", "peft"),
        "",
        f"{len(batches)} batches of {options.batch} rows, LoRA r{recipe.lora_r} on {recipe.lora_target_modules}, "
        f"dropout {recipe.lora_dropout}. Real tokens {real:,}; with pads {padded:,}; in {len(parts)} parts {left:,}.",
        "",
        *table(timings, base, real, "real tokens"),
    ]
    keep("training", lines, {timing.name: timing.seconds for timing in timings})


if __name__ == "__main__":
    main()
