"""What others offer for per-sample gradients, as their own commands run it, each behind one function.

They are no dependencies of the project; what is not installed is left out of a table, and said. Beside the project's
own packages:

    pip install --no-deps bergson==2.5.1 simple-parsing jaxtyping wadler-lindig natsort ml_dtypes petname
    pip install --no-deps docstring-parser torchopt optree dattri==0.3.0 traker==0.3.2
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch import Tensor, nn

from spicerack.data.batching import Batch

Run = Callable[[], object]
SIDE = 16  # of bergson's and dattri's sketch of a module
TRAK_COLUMNS = 256
LARGEST_MATRIX = 8 << 30  # bytes of TRAK's projection matrix that are tried


def installed(package: str) -> bool:
    """Whether a package is there; says so where it is not."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{package} is left out: it is not installed")
    return found


def bergson_pass(
    model: Any,
    batch: Batch,
    *,
    targets: set[str] | None = None,
    projection: int | None = SIDE,
    whole: bool = False,
    second: dict[str, Tensor] | None = None,
    keep: dict[str, Tensor] | None = None,
) -> Run | None:
    """bergson's `build`: all weights frozen but the embedding, hooks on every linear module of the base model.

    Args:
        model: a causal language model, with adapters or without.
        batch: without pads.
        targets: modules, by their names in the base model; None: all.
        projection: side of the sketch of a module, or columns of the global one; None: whole gradients.
        whole: one projection of all modules together.
        second: Adam's second moments by module.
        keep: filled with each module's rows.
    """
    if not installed("bergson"):
        return None
    from bergson import GradientProcessor
    from bergson.gradients import AdamNormalizer

    processor = GradientProcessor(
        projection_dim=projection,
        projection_target="global" if whole else "per_module",
        normalizers={name: AdamNormalizer(moment) for name, moment in (second or {}).items()},
    )
    step = _bergson(model, batch.input_ids.tolist(), batch.labels.tolist(), processor, targets, keep)
    return lambda: step(list(range(len(batch.labels))))


def bergson_lengths(model: Any, samples: list[list[int]], tokens: int, count: int) -> list[tuple[Run, int]]:
    """bergson over samples of any lengths, all labeled, in the batches of `tokens` that it forms itself.

    Returns:
        `count` of its batches at most, evenly from the shortest to the longest, each with its real tokens.
    """
    if not installed("bergson"):
        return []
    from bergson import GradientProcessor
    from bergson.data import allocate_batches

    step = _bergson(model, samples, samples, GradientProcessor(projection_dim=SIDE), None, None)
    lengths = [len(sample) for sample in samples]
    batches = sorted(allocate_batches(lengths, tokens), key=lambda members: max(lengths[i] for i in members))
    return [
        (partial(step, batches[place]), sum(lengths[i] for i in batches[place]))
        for place in evenly(len(batches), count)
    ]


def evenly(size: int, count: int) -> list[int]:
    """`count` places of `size`, the middle of each of `count` equal parts; all where there are no more."""
    count = min(size, count)
    return [int((2 * part + 1) * size / (2 * count)) for part in range(count)]


def _bergson(
    model: Any,
    ids: list[list[int]],
    labels: list[list[int]],
    processor: Any,
    targets: set[str] | None,
    keep: dict[str, Tensor] | None,
) -> Callable[[list[int]], None]:
    """The loop's body of bergson's own collection, for the samples of a batch."""
    from bergson import InMemoryCollector
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.config.config import IndexConfig
    from bergson.data import pad_and_tensor
    from datasets import Dataset

    config = IndexConfig(run_path="unused", loss_reduction="mean")
    forward_backward = fwd_bwd_factory(config)
    data = Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]})
    collector = InMemoryCollector(
        model=model.base_model, data=data, cfg=config, processor=processor, target_modules=targets
    )

    def step(members: list[int]) -> None:
        model.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(True)
        x, y, _, mask = pad_and_tensor([ids[i] for i in members], [labels[i] for i in members], sync_max_len=False)
        with collector.with_batch(mask):
            losses = forward_backward(model, x, y, {})
        if keep is not None:
            keep.update({name: rows.clone() for name, rows in collector.mod_grads.items()})
        collector.process_batch(members, losses=losses.detach())

    return step


def dattri_pass(model: Any, batch: Batch, names: list[str]) -> Run | None:
    """dattri's LoGra: hooks, a Kronecker projection of SIDE x SIDE a module, all weight gradients too."""
    if not installed("dattri"):
        return None
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    def loss(model: Any, rows: Any, device: str) -> Tensor:
        return model(**{name: tensor.to(device) for name, tensor in rows.items()}).loss

    def first_is_enough(model: Any, _: Any) -> Any:
        return model

    task = AttributionTask(loss, model, [model.state_dict()], checkpoints_load_func=first_is_enough)
    attributor = LoGraAttributor(
        task,
        layer_names=names,
        hessian="Identity",
        proj_dim=SIDE * SIDE,
        offload="none",
        cache_dir=tempfile.mkdtemp(),
    )
    rows = [{"input_ids": i, "labels": j} for i, j in zip(batch.input_ids, batch.labels, strict=True)]
    loader = torch.utils.data.DataLoader(rows, batch_size=len(rows))  # type: ignore[arg-type]  # a list is a dataset

    def run() -> None:
        model.requires_grad_(True)
        attributor.cache(loader)
        model.zero_grad(set_to_none=True)

    return run


def trak_pass(model: nn.Module, batch: Batch, weights: list[nn.Parameter]) -> Run | None:
    """A backward a sample, and TRAK's dense projector on the whole gradients, to TRAK_COLUMNS columns."""
    if not installed("trak"):
        return None
    from trak.projectors import BasicProjector, ProjectionType

    size = sum(weight.numel() for weight in weights)
    if 4 * 100 * size > LARGEST_MATRIX:
        print(f"TRAK's projector is left out: 100 columns of its matrix for {size:,} parameters take {400 * size:,} B")
        return None
    projector = BasicProjector(size, TRAK_COLUMNS, 0, ProjectionType.rademacher, torch.device("cpu"))

    def run() -> Tensor:
        model.requires_grad_(True)
        rows = []
        for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
            loss = model(input_ids=ids[None], labels=labels[None], use_cache=False).loss
            rows.append(torch.cat([g.float().flatten() for g in torch.autograd.grad(loss, weights)]))
        projected: Tensor = projector.project(torch.stack(rows), model_id=0)
        return projected

    return run
