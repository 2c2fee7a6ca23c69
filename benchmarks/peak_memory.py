"""Peak memory of the gradient pass beside a plain forward and backward of activation gradients on the same batch.

    .venv/bin/python benchmarks/peak_memory.py [--shape smollm2] [--dtype float32] [--device cuda]

Every contender runs in a process of its own. What counts is what the allocator held at most beyond the model: on a CPU
summed over torch's allocation events, with the growth of the process's resident memory beside it; on CUDA as its
allocator has it. Two plain ones: `plain` is the model as it is called, with the logits of all tokens at once; `plain,
head in chunks` spares those, and is the bar for what the pass itself adds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from gradients import BATCHES, SHAPES, make_batch
from harness import keep, machine
from transformers import LlamaConfig, LlamaForCausalLM

from spicerack.data.batching import Batch
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.head import Head
from spicerack.gradients.loss import losses_and_gradient
from spicerack.gradients.optimizers import AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.models.parameters import tracked_parameters

Work = Callable[[], object]


def plain(model: LlamaForCausalLM, batch: Batch) -> Work:
    """Frozen weights; the gradient starts at the embeddings, so every activation has one."""

    def run() -> None:
        states = model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
        model(inputs_embeds=states, labels=batch.labels, use_cache=False).loss.backward()

    return run


def plain_in_chunks(model: LlamaForCausalLM, batch: Batch) -> Work:
    head = Head(model)

    def run() -> None:
        states = model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
        hidden = model.get_decoder()(inputs_embeds=states, use_cache=False).last_hidden_state
        rows = hidden[:, :-1].detach().flatten(0, 1)
        targets, gradient = batch.labels[:, 1:].flatten(), torch.empty_like(rows)
        for part in head.chunks(len(rows)):
            logits = model.lm_head(rows[part])
            _, by_logits = losses_and_gradient(logits, targets[part], torch.ones(len(logits), device=logits.device))
            gradient[part] = by_logits @ model.lm_head.weight
        hidden[:, :-1].backward(gradient.view(*hidden[:, :-1].shape))

    return run


def spicerack_pass(which: str = "blocks", *, adam: bool = False, **options: Any) -> Callable[..., Work]:
    def make(model: LlamaForCausalLM, batch: Batch) -> Work:
        late = f"last:{model.config.num_hidden_layers // 3}"
        parameters = tracked_parameters(model, late if which == "last third" else which)
        projection = Projection(parameters, dimension=8192, device=model.device, dtype=model.dtype)
        if adam:
            weights = {p.name: model.get_parameter(p.name).float() for p in parameters}
            first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
            second = {name: torch.full_like(weight, 1e-6) for name, weight in weights.items()}
            options["moments"] = AdamMoments(first, second, step=10)

        def run() -> object:
            with GradientCapture(model, projection, **options) as capture:
                return batch_gradients(capture, batch, "mean").rows

        return run

    return make


CONTENDERS: dict[str, Callable[[LlamaForCausalLM, Batch], Work]] = {
    "plain": plain,
    "plain, head in chunks": plain_in_chunks,
    "spicerack, all blocks, k = 8192": spicerack_pass(),
    "spicerack, last third of the blocks": spicerack_pass("last third"),
    "spicerack, exact norms": spicerack_pass(exact_norms=True),
    "spicerack, Adam-form of full parameters": spicerack_pass(adam=True),
}


def short(batch: Batch) -> Batch:
    return Batch(input_ids=batch.input_ids[:1, :8], labels=batch.labels[:1, :8], attention_mask=None)


def measure(shape: str, dtype: str, device: str, contender: str) -> dict[str, float]:
    """Peak bytes beyond the model, by the allocator and by the process. Meant to run once in a process."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(device, getattr(torch, dtype)).eval()
    model.requires_grad_(False)
    batch = make_batch(shape, 1.0).to(torch.device(device))
    run = CONTENDERS[contender](model, batch)
    CONTENDERS[contender](model, short(batch))()  # sets kernels up
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return {"allocator": torch.cuda.max_memory_allocated() - held}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    resident = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"allocator": allocated(run), "resident": resident}


def allocated(work: Work) -> int:
    """The most bytes that torch's CPU allocator held during the work, beyond what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--contender", choices=list(CONTENDERS), help="measure this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.shape, arguments.dtype, arguments.device, arguments.contender)))
        return
    size = " x ".join(map(str, BATCHES[arguments.shape]))
    lines = ["# Peak memory of the gradient pass", "", machine("spicerack", "torch", "transformers"), ""]
    lines += [f"{arguments.shape}, {arguments.dtype}, {size} tokens; bytes beyond the model", ""]
    lines += ["| what | allocator, MB | of plain | resident, MB | of plain |", "|---|---|---|---|---|"]
    raw: dict[str, dict[str, float]] = {}
    for contender in CONTENDERS:
        command = [sys.executable, str(Path(__file__)), "--contender", contender]
        for option in ("shape", "dtype", "device"):
            command += [f"--{option}", getattr(arguments, option)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(contender, output, flush=True)
        raw[contender] = json.loads(output.splitlines()[-1])
        cells = [f"{value / 2**20:,.0f} | {value / raw['plain'][kind]:.2f}" for kind, value in raw[contender].items()]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    keep(f"peak_memory_{arguments.shape}_{arguments.dtype}_{arguments.device}", lines, raw)


if __name__ == "__main__":
    main()
