"""The gradient pass beside an ordinary training step and beside bergson, interleaved in one run.

    .venv/bin/python benchmarks/gradients.py [--shape smollm2] [--dtype float32] [--rounds 7]

The training step is forward, loss over the same labels, backward with all weight gradients. Bergson is timed when it
is installed (`peers.py` says how), as its own `build` command runs: 16 x 16 sketch per module, all weights frozen but
the embedding.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from harness import interleave, keep, machine, table
from peers import bergson_pass
from transformers import LlamaConfig, LlamaForCausalLM

from spicerack.data.batching import Batch
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.projection import Projection
from spicerack.models.loading import LoadedModel, choose_attention
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
}
BATCHES = {"tiny": (32, 128), "smollm2": (8, 128)}
LABELED = {"all tokens labeled": 1.0, "half the tokens labeled": 0.5}


def make_batch(shape: str, labeled: float) -> Batch:
    samples, length = BATCHES[shape]
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, SHAPES[shape]["vocab_size"], (samples, length), generator=generator)
    labels = input_ids.clone()
    labels[:, : round(length * (1 - labeled))] = -100
    return Batch(input_ids=input_ids, labels=labels, attention_mask=None)


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
    own = LoadedModel(model, None, "benchmark", torch.device("cpu"), attention_is_open=True)

    def run() -> torch.Tensor:
        choose_attention(own, batch.input_ids.shape[1])  # as the pass does; the others keep the model's default
        with GradientCapture(model, projection) as capture:
            rows = batch_gradients(capture, batch, "mean").rows
        model.set_attn_implementation("sdpa")
        return rows

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dimension", type=int, default=8192)
    arguments = parser.parse_args()
    lines = ["# Gradient pass", "", machine("spicerack", "torch", "transformers", "bergson"), ""]
    raw = []
    for shape in arguments.shape or list(SHAPES):
        for dtype in arguments.dtype or ["float32", "bfloat16"]:
            torch.manual_seed(0)
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(getattr(torch, dtype)).eval()
            for name, labeled in LABELED.items():
                batch = make_batch(shape, labeled)
                late = f"last:{SHAPES[shape]['num_hidden_layers'] // 3}"
                contenders = {
                    "training step": training_step(model, batch),
                    f"spicerack, k = {arguments.dimension}": spicerack_pass(model, batch, arguments.dimension),
                    "spicerack, last third of the blocks": spicerack_pass(model, batch, arguments.dimension, late),
                }
                if rival := bergson_pass(model, batch):
                    contenders["bergson 2.5.1, 16 x 16 per module"] = rival
                timings = interleave(contenders, arguments.rounds)
                lines += [f"## {shape}, {dtype}, {name}, {' x '.join(map(str, BATCHES[shape]))} tokens", ""]
                lines += [*table(timings, "training step", batch.input_ids.numel(), "tokens"), ""]
                raw.append(
                    {"shape": shape, "dtype": dtype, "labels": name, "seconds": {t.name: t.seconds for t in timings}}
                )
    keep("gradients", lines, raw)


if __name__ == "__main__":
    main()
