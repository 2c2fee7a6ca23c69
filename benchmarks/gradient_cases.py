"""The gradient pass case by case: LoRA, Adam-form, global projection, one sample at a time, mixed lengths.

.venv/bin/python benchmarks/gradient_cases.py [--shape smollm2] [--dtype float32] [--rounds 5]

Every case is a ratio to an ordinary full-parameter training step of the same model on the same tokens, interleaved in
one run; LoRA's also to a LoRA training step.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import peft
import torch
from gradients import SHAPES, make_batch, spicerack_pass, training_step
from harness import interleave, keep, machine, table
from transformers import LlamaConfig, LlamaForCausalLM

from spicerack.data.batching import Batch, collate, plan_batches
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def make_model(shape: str, dtype: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(getattr(torch, dtype)).eval()


def with_lora(model: LlamaForCausalLM) -> peft.PeftModel:
    options = {"r": 16, "lora_alpha": 32, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(model, peft.LoraConfig(**options, init_lora_weights=False)).to(model.dtype).eval()


def lora_training_step(model: peft.PeftModel, batch: Batch) -> Callable[[], object]:
    def run() -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        model(input_ids=batch.input_ids, labels=batch.labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def adam_pass(model: peft.PeftModel, batch: Batch, dimension: int) -> Callable[[], object]:
    parameters = tracked_parameters(model, "lora")
    projection = Projection(parameters, dimension=dimension, dtype=model.dtype)
    shapes = {p.name: model.get_parameter(p.name).shape for p in parameters}
    second = {name: torch.full(shape, 1e-6) for name, shape in shapes.items()}
    moments = AdamMoments({name: torch.zeros(shape) for name, shape in shapes.items()}, second, step=10)

    def run() -> object:
        with GradientCapture(model, projection, moments=moments) as capture:
            return batch_gradients(capture, batch, "mean").directions

    return run


def one_at_a_time(model: LlamaForCausalLM, batch: Batch) -> Callable[[], object]:
    """What LESS, SPICE and DataFlex do: a backward with all weight gradients for every sample."""

    def run() -> None:
        model.requires_grad_(True)
        for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
            model(input_ids=ids[None], labels=labels[None], use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)

    return run


def cases(shape: str, dtype: str, dimension: int) -> dict[str, Callable[[], object]]:
    plain, adapted = make_model(shape, dtype), with_lora(make_model(shape, dtype))
    batch = make_batch(shape, 1.0)
    columns = Projection(tracked_parameters(plain, "blocks"), dimension=dimension).columns
    return {
        "training step": training_step(plain, batch),
        "training step, one sample at a time": one_at_a_time(plain, batch),
        f"all layers, global k = {dimension}": spicerack_pass(plain, batch, dimension),
        f"all layers, sketch alone ({columns:,} columns)": spicerack_pass(plain, batch, columns),
        "LoRA r16 training step": lora_training_step(adapted, batch),
        "LoRA r16 rows": spicerack_pass(adapted, batch, dimension, "lora"),
        "LoRA r16 rows, plain and Adam-form": adam_pass(adapted, batch, dimension),
    }


def length_cases(shape: str, dtype: str, tokens: int) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """The same pass over samples of one length and of lognormal lengths, cut into batches of `tokens`."""
    model = make_model(shape, dtype)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=4096, dtype=model.dtype)
    rng = np.random.default_rng(0)
    lengths = {"equal lengths": np.full(64, 128), "mixed lengths": rng.lognormal(4.6, 0.6, 64).astype(int).clip(8, 512)}
    runs, real = {}, {}
    for name, values in lengths.items():
        samples = random_samples(values.tolist(), vocab_size=SHAPES[shape]["vocab_size"], trained=1.0)
        batches = [collate([samples[i] for i in members]) for members in plan_batches(values, tokens)]

        def run(batches: list[Batch] = batches) -> None:
            with GradientCapture(model, projection) as capture:
                for batch in batches:
                    batch_gradients(capture, batch, "mean")

        runs[name], real[name] = run, int(values.sum())
    return runs, real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dimension", type=int, default=8192)
    arguments = parser.parse_args()
    lines = ["# Gradient pass, case by case", "", machine("spicerack", "torch", "transformers", "peft"), ""]
    raw = []
    for shape in arguments.shape or list(SHAPES):
        for dtype in arguments.dtype or ["float32", "bfloat16"]:
            contenders = cases(shape, dtype, arguments.dimension)
            timings = interleave(contenders, arguments.rounds)
            tokens = make_batch(shape, 1.0).input_ids.numel()
            lines += [f"## {shape}, {dtype}", "", *table(timings, "training step", tokens, "tokens"), ""]
            seconds = {t.name: t.seconds for t in timings}
            runs, real = length_cases(shape, dtype, 2048)
            for timing in interleave(runs, arguments.rounds):
                rate = real[timing.name] / sorted(timing.seconds)[len(timing.seconds) // 2]
                lines.append(f"{timing.name}: {rate:,.0f} real tokens/s")
                seconds[timing.name] = timing.seconds
            lines.append("")
            raw.append({"shape": shape, "dtype": dtype, "seconds": seconds, "real_tokens": real})
    keep("gradient_cases", lines, raw)


if __name__ == "__main__":
    main()
