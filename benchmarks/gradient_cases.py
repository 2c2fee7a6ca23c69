"""The gradient pass case by case, each beside what others offer for it.

.venv/bin/python benchmarks/gradient_cases.py [--shape smollm2] [--dtype float32] [--rounds 5] [--tables dense]

Every case is a ratio to an ordinary full-parameter training step of the same model on the same tokens, interleaved in
one run; LoRA's also to a LoRA training step. `peers.py` says how to install the others; those that are not there are
left out. `--tables` are some of those that there are; `dense` is left out unless it is named: projections of whole
gradients, one round, which take ten times as long as all the rest together.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# oneDNN compiles a kernel for every new shape and keeps 1,024: in one process, tools would push out each other's
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

import numpy as np
import peers
import peft
import torch
from gradients import BATCHES, SHAPES, make_batch, own_attention, spicerack_pass, training_step
from harness import interleave, keep, machine, table
from transformers import LlamaConfig, LlamaForCausalLM

from spicerack.data.batching import Batch, collate, plan_batches
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.models.parameters import TrackedParameter, tracked_parameters
from spicerack.testing import random_samples

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
PACKAGES = ("spicerack", "torch", "transformers", "peft", "bergson", "dattri", "traker")
STEP = "training step"
SHARD = 1024  # samples of any lengths: with few, none has neighbors of its length
MIXED_BATCHES = {"tiny": 64, "smollm2": 16}  # of a shard's, evenly from the shortest samples to the longest
Turns = dict[str, list[tuple[Callable[[], object], int]]]
"""A contender's batches, each with its real tokens."""
Cases = dict[str, Callable[[], object] | None]


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
    second = second_moments(model, parameters)
    moments = AdamMoments({name: torch.zeros_like(moment) for name, moment in second.items()}, second, step=10)

    def run() -> object:
        with GradientCapture(model, projection, moments=moments, attention=own_attention(model)) as capture:
            return batch_gradients(capture, batch, "mean").directions

    return run


def second_moments(model: peft.PeftModel, parameters: tuple[TrackedParameter, ...]) -> dict[str, torch.Tensor]:
    return {p.name: torch.full(model.get_parameter(p.name).shape, 1e-6) for p in parameters}


def one_at_a_time(model: LlamaForCausalLM, batch: Batch) -> Callable[[], object]:
    """What LESS, SPICE and DataFlex do: a backward with all weight gradients for every sample."""

    def run() -> None:
        model.requires_grad_(True)
        for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
            model(input_ids=ids[None], labels=labels[None], use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)

    return run


def modules(model: LlamaForCausalLM, which: str, prefix: str) -> set[str]:
    """Tracked modules by their names in the base model, as bergson has them."""
    return {use.module.removeprefix(prefix) for p in tracked_parameters(model, which) for use in p.uses}


def full_cases(model: LlamaForCausalLM, shape: str, labeled: float, dimension: int) -> Cases:
    batch = make_batch(shape, labeled)
    late = f"last:{SHAPES[shape]['num_hidden_layers'] // 3}"
    columns = Projection(tracked_parameters(model, "blocks"), dimension=dimension).columns
    cases: Cases = {
        STEP: training_step(model, batch),
        f"spicerack, global k = {dimension}": spicerack_pass(model, batch, dimension),
        f"spicerack, sketch alone ({columns:,} columns)": spicerack_pass(model, batch, columns),
        "bergson, 16 x 16 a module": peers.bergson_pass(model, batch),
        "spicerack, last third of the blocks": spicerack_pass(model, batch, dimension, late),
        "bergson, last third of the blocks": peers.bergson_pass(model, batch, targets=modules(model, late, "model.")),
    }
    if labeled == 1.0:
        cases["dattri LoGra, 16 x 16 a module"] = peers.dattri_pass(model, batch, sorted(modules(model, "blocks", "")))
        cases["one sample at a time, no projection"] = one_at_a_time(model, batch)
    return cases


def lora_cases(model: LlamaForCausalLM, adapted: peft.PeftModel, shape: str, dimension: int) -> Cases:
    batch = make_batch(shape, 1.0)
    own = modules(adapted, "lora", "base_model.")
    moments = second_moments(adapted, tracked_parameters(adapted, "lora"))
    second = {name.removeprefix("base_model.").removesuffix(".weight"): moment for name, moment in moments.items()}
    return {
        STEP: training_step(model, batch),
        "LoRA r16 training step": lora_training_step(adapted, batch),
        "spicerack, LoRA r16": spicerack_pass(adapted, batch, dimension, "lora"),
        "bergson, LoRA r16": peers.bergson_pass(adapted, batch, targets=own),
        "spicerack, LoRA r16, plain and Adam-form rows": adam_pass(adapted, batch, dimension),
        "bergson, LoRA r16, Adam-normalized rows": peers.bergson_pass(adapted, batch, targets=own, second=second),
    }


def own_lora_cases(model: LlamaForCausalLM, shape: str, dtype: str, dimension: int) -> Cases:
    """LoRA's, beside the model without adapters."""
    return lora_cases(model, with_lora(make_model(shape, dtype)), shape, dimension)


def dense_cases(model: LlamaForCausalLM, shape: str, dimension: int) -> Cases:
    """One projection of the whole gradient, as the papers define it."""
    batch = make_batch(shape, 1.0)
    weights = [model.get_parameter(p.name) for p in tracked_parameters(model, "blocks")]
    columns = peers.TRAK_COLUMNS
    return {
        STEP: training_step(model, batch),
        f"spicerack, global k = {dimension}": spicerack_pass(model, batch, dimension),
        f"bergson, global k = {columns}": peers.bergson_pass(model, batch, projection=columns, whole=True),
        f"TRAK's projector, k = {columns}": peers.trak_pass(model, batch, weights),
    }


def length_turns(model: LlamaForCausalLM, shape: str, tokens: int) -> tuple[Turns, list[str]]:
    """The same passes over samples of one length and of lognormal lengths, in batches of `tokens`.

    Attention costs a token what its sample's length is, so there are equal lengths of the same attention too. Pads go
    unmasked, as in the pass over a model that was seen to look back only.
    """
    projection = Projection(tracked_parameters(model, "blocks"), dimension=4096, dtype=model.dtype)
    drawn = np.random.default_rng(0).lognormal(4.6, 0.6, SHARD).astype(int).clip(8, 512)
    felt = round(float((drawn**2).sum() / drawn.sum()))  # the length that the mean token has around it
    count = MIXED_BATCHES[shape]
    few = {"equal": 128, f"equal ({felt})": felt}
    kinds = {name: (np.full(tokens // length * (count // 4), length), count // 4) for name, length in few.items()}
    turns: Turns = {}
    notes = []
    for kind, (lengths, number) in {**kinds, "mixed": (drawn, count)}.items():
        samples = random_samples(lengths.tolist(), vocab_size=SHAPES[shape]["vocab_size"], trained=1.0)
        plan = plan_batches(lengths, tokens)
        padded = sum(len(members) * lengths[members].max() for members in plan)
        chosen = [plan[place] for place in peers.evenly(len(plan), number)]
        notes.append(f"{kind} lengths: {len(chosen)} of {len(plan)} batches, {1 - lengths.sum() / padded:.1%} pads")
        batches = [replace(collate([samples[i] for i in members]), attention_mask=None) for members in chosen]
        turns[f"spicerack, {kind} lengths"] = [
            (partial(one_batch, model, projection, batch), int(lengths[members].sum()))
            for batch, members in zip(batches, chosen, strict=True)
        ]
        ids = [sample.input_ids.tolist() for sample in samples]
        turns[f"bergson, {kind} lengths"] = peers.bergson_lengths(model, ids, tokens, number)
    return {name: turn for name, turn in turns.items() if turn}, notes


def one_batch(model: LlamaForCausalLM, projection: Projection, batch: Batch) -> None:
    with GradientCapture(model, projection, attention=own_attention(model)) as capture:
        batch_gradients(capture, batch, "mean")


def take_turns(turns: Turns, rounds: int) -> dict[str, list[list[tuple[float, int]]]]:
    """Seconds and real tokens of every batch, by rounds; in the first one every shape of a batch is new.

    In a round each tool runs by itself, its kinds of lengths side by side from their first batches to their last.
    """
    order = sorted(
        (name.split(",")[0], place / len(turn), name, place)
        for name, turn in turns.items()
        for place in range(len(turn))
    )
    spent: dict[str, list[list[tuple[float, int]]]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for found in spent.values():
            found.append([])
        for _, _, name, place in order:
            run, real = turns[name][place]
            started = time.perf_counter()
            run()
            spent[name][-1].append((time.perf_counter() - started, real))
    return spent


def by_rounds(spent: dict[str, list[list[tuple[float, int]]]]) -> dict[str, list[tuple[float, int]]]:
    """Seconds and real tokens of whole rounds."""
    return {
        name: [(sum(seconds for seconds, _ in batches), sum(real for _, real in batches)) for batches in rounds]
        for name, rounds in spent.items()
    }


def length_lines(spent: dict[str, list[tuple[float, int]]]) -> list[str]:
    """Real tokens a second of every contender, shapes met before and for the first time."""
    lines = ["| what | real tokens/s | by round | shapes met for the first time |", "|---|---|---|---|"]
    for name, rounds in spent.items():
        first, *later = rounds
        whole = sum(real for _, real in later) / sum(seconds for seconds, _ in later)
        each = ", ".join(f"{real / seconds:,.0f}" for seconds, real in later)
        lines.append(f"| {name} | {whole:,.0f} | {each} | {first[1] / first[0]:,.0f} |")
    return [*lines, ""]


def agreement(shape: str) -> list[str]:
    """Largest relative error of a sample's gradient, whole and in float32, between those who can give it."""
    model, batch = make_model(shape, "float32"), make_batch(shape, 0.5)
    parameters = tracked_parameters(model, "last:1")
    projection = Projection(parameters, dimension=None)
    with GradientCapture(model, projection) as capture:
        rows = batch_gradients(capture, batch, "mean").rows
    model.requires_grad_(True)
    worst = 0.0
    for row, ids, labels in zip(rows, batch.input_ids, batch.labels, strict=True):
        loss = model(input_ids=ids[None], labels=labels[None], use_cache=False).loss
        truth = torch.autograd.grad(loss, [model.get_parameter(p.name) for p in parameters])
        whole = torch.cat([gradient.flatten() for gradient in truth])
        worst = max(worst, float((row - whole).norm() / whole.norm()))
    lines = [f"spicerack and one sample at a time: {worst:.1e}"]
    kept: dict[str, torch.Tensor] = {}
    own = [p.uses[0].module.removeprefix("model.") for p in parameters]
    if run := peers.bergson_pass(model, batch, targets=set(own), projection=None, keep=kept):
        run()
        theirs = torch.cat([kept[name].flatten(1) for name in own], 1)
        lines.append(f"spicerack and bergson: {float(((rows - theirs).norm(dim=1) / rows.norm(dim=1)).max()):.1e}")
    return lines


def measure(cases: Cases, rounds: int, tokens: int, *, warm_up: int = 1) -> tuple[list[str], dict[str, list[float]]]:
    timings = interleave({name: run for name, run in cases.items() if run is not None}, rounds, warm_up)
    lines = [*table(timings, STEP, tokens, "tokens"), ""]
    if any(name.startswith("LoRA") for name in cases):
        lora = next(timing for timing in timings if timing.name == "LoRA r16 training step")
        own = next(timing for timing in timings if timing.name == "spicerack, LoRA r16")
        median, least, most = own.ratio(lora)
        lines += [f"spicerack, LoRA r16: {median:.2f} ({least:.2f} to {most:.2f}) of a LoRA training step", ""]
    return lines, {timing.name: timing.seconds for timing in timings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dimension", type=int, default=8192)
    parser.add_argument("--tables", default="all,half,LoRA,lengths", help="of all,half,LoRA,lengths,dense")
    arguments = parser.parse_args()
    wanted = arguments.tables.split(",")
    lines = ["# Gradient pass, case by case", "", machine(*PACKAGES), ""]
    raw = []
    for shape in arguments.shape or ["tiny", "smollm2"]:
        tokens = int(np.prod(BATCHES[shape]))
        for dtype in arguments.dtype or ["float32", "bfloat16"]:
            model = make_model(shape, dtype)
            k = arguments.dimension
            tables: dict[str, tuple[str, Callable[[], Cases], int]] = {
                "all": ("all tokens labeled", partial(full_cases, model, shape, 1.0, k), arguments.rounds),
                "half": ("half the tokens labeled", partial(full_cases, model, shape, 0.5, k), arguments.rounds),
                "LoRA": ("LoRA", partial(own_lora_cases, model, shape, dtype, k), arguments.rounds),
                "dense": ("dense projections, one round", partial(dense_cases, model, shape, k), 1),
            }
            for name in (name for name in tables if name in wanted):
                title, cases, rounds = tables[name]
                text, seconds = measure(cases(), rounds, tokens, warm_up=0 if name == "dense" else 1)
                lines += [f"## {shape}, {dtype}, {title}", "", *text]
                raw.append({"shape": shape, "dtype": dtype, "table": title, "seconds": seconds})
            if "lengths" not in wanted:
                continue
            turns, notes = length_turns(model, shape, 2048)
            lines += [f"## {shape}, {dtype}, lengths", "", *(f"{note}  " for note in notes), ""]
            spent = by_rounds(take_turns(turns, max(1, arguments.rounds // 2)))
            lines += length_lines(spent)
            raw.append({"shape": shape, "dtype": dtype, "table": "lengths", "seconds and tokens by round": spent})
        lines += [f"## {shape}, agreement of exact gradients, the last block, half the tokens labeled", ""]
        lines += [*(f"{line}  " for line in agreement(shape)), ""]
    named = [] if arguments.tables == parser.get_default("tables") else wanted
    suffix = "_".join([*(arguments.shape or []), *(arguments.dtype or []), *named])
    keep(f"gradient_cases_{suffix}" if suffix else "gradient_cases", lines, raw)


if __name__ == "__main__":
    main()
