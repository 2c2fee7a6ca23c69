"""The gradient pass beside an ordinary training step and beside bergson, interleaved in one run.

    .venv/bin/python benchmarks/gradients.py [--shape smollm2] [--dtype float32] [--rounds 7]
    .venv/bin/python benchmarks/gradients.py --device cuda --shape smollm2 --shape llama-1b --dtype bfloat16

The training step is forward, loss over the same labels, backward with all weight gradients. Bergson is timed when it
is installed (`peers.py` says how), as its own `build` command runs: 16 x 16 sketch per module, all weights frozen but
the embedding. The share of peak is the operations that torch counts, a second, over those of a large matrix product in
the same dtype. Without shapes: the two that a CPU can run.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from harness import Timing, interleave, keep, machine, table
from peers import bergson_pass
from transformers import LlamaConfig, LlamaForCausalLM

from spicerack.data.batching import Batch
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.cost import count_flops, measure_peak
from spicerack.gradients.projection import Projection
from spicerack.models.attention import AttentionByBatch, choose_attention
from spicerack.models.loading import LoadedModel
from spicerack.models.parameters import tracked_parameters

SHAPES = {
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
    },
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
}
BATCHES = {"tiny": (32, 128), "smollm2": (8, 128), "llama-1b": (8, 128)}
BATCHES_GPU = {"tiny": (256, 512), "smollm2": (64, 512), "llama-1b": (16, 512)}
LABELED = {"all tokens labeled": 1.0, "half the tokens labeled": 0.5}


def make_batch(shape: str, labeled: float, device: str = "cpu") -> Batch:
    samples, length = (BATCHES if device == "cpu" else BATCHES_GPU)[shape]
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, SHAPES[shape]["vocab_size"], (samples, length), generator=generator)
    labels = input_ids.clone()
    labels[:, : round(length * (1 - labeled))] = -100
    return Batch(input_ids=input_ids.to(device), labels=labels.to(device), attention_mask=None)


def training_step(model: LlamaForCausalLM, batch: Batch) -> Callable[[], object]:
    def run() -> None:
        model.requires_grad_(True)
        model(input_ids=batch.input_ids, labels=batch.labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def spicerack_pass(
    model: LlamaForCausalLM, batch: Batch, dimension: int, which: str = "blocks"
) -> Callable[[], object]:
    projection = Projection(tracked_parameters(model, which), dimension=dimension, dtype=model.dtype)

    def run() -> torch.Tensor:
        with GradientCapture(model, projection, attention=own_attention(model)) as capture:
            return batch_gradients(capture, batch, "mean").rows

    return run


def own_attention(model: LlamaForCausalLM) -> AttentionByBatch | None:
    """The attention that the pass chooses for each batch; the others keep the model's default."""
    return choose_attention(LoadedModel(model, None, "benchmark", model.device, attention_is_open=True))


def waited(run: Callable[[], object], device: str) -> Callable[[], object]:
    """A run that ends when the device has ended it."""

    def wait() -> None:
        run()
        if device != "cpu":
            torch.cuda.synchronize(device)

    return wait


def shares_of_peak(
    contenders: dict[str, Callable[[], object]], timings: list[Timing], device: str, dtype: torch.dtype
) -> list[str]:
    """A line: operations a second of each contender as a share of a large matrix product's."""
    peak = measure_peak(torch.device(device), dtype)
    shares = [
        f"{timing.name} {count_flops(contenders[timing.name]) / statistics.median(timing.seconds) / peak:.0%}"
        for timing in timings
    ]
    return [f"Share of the measured peak ({peak / 1e12:.2f} TFLOP/s): {', '.join(shares)}", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dimension", type=int, default=8192)
    arguments = parser.parse_args()
    lines = ["# Gradient pass", "", machine("spicerack", "torch", "transformers", "bergson"), ""]
    if arguments.device != "cpu":
        lines.insert(-1, torch.cuda.get_device_name(arguments.device))
    raw = []
    for shape in arguments.shape or ["tiny", "smollm2"]:
        for dtype in arguments.dtype or ["float32", "bfloat16"]:
            torch.manual_seed(0)
            precision = getattr(torch, dtype)
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(arguments.device, precision).eval()
            for name, labeled in LABELED.items():
                batch = make_batch(shape, labeled, arguments.device)
                late = f"last:{SHAPES[shape]['num_hidden_layers'] // 3}"
                contenders = {
                    "training step": training_step(model, batch),
                    f"spicerack, k = {arguments.dimension}": spicerack_pass(model, batch, arguments.dimension),
                    "spicerack, last third of the blocks": spicerack_pass(model, batch, arguments.dimension, late),
                }
                if rival := bergson_pass(model, batch):
                    contenders["bergson 2.5.1, 16 x 16 per module"] = rival
                contenders = {who: waited(run, arguments.device) for who, run in contenders.items()}
                timings = interleave(contenders, arguments.rounds)
                lines += [f"## {shape}, {dtype}, {name}, {' x '.join(map(str, batch.input_ids.shape))} tokens", ""]
                lines += [*table(timings, "training step", batch.input_ids.numel(), "tokens"), ""]
                lines += shares_of_peak(contenders, timings, arguments.device, precision)
                raw.append(
                    {"shape": shape, "dtype": dtype, "labels": name, "seconds": {t.name: t.seconds for t in timings}}
                )
    device = [] if arguments.device == "cpu" else ["gpu"]
    keep("_".join(["gradients", *device, *(arguments.shape or []), *(arguments.dtype or [])]), lines, raw)


if __name__ == "__main__":
    main()
