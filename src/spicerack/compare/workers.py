"""Run the cells that are missing, in this process or in several.

Several processes share the GPUs in turn, or the CPU's cores in equal parts; each reads the model once. What a cell
finds does not depend on who ran it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import numpy as np

from spicerack.compare.bench import Bench, Spec
from spicerack.compare.plan import Cell

Work = tuple[Cell, np.ndarray]
Done = Callable[[Cell, dict[str, Any]], None]

_bench: Bench | None = None  # a worker process has one, made when it starts


def run_cells(spec: Spec, work: Sequence[Work], *, parallel: int = 1, done: Done | None = None) -> None:
    """Run cells; each leaves its `result.json`.

    Args:
        spec: what they share.
        work: cells with the pool rows of each.
        parallel: processes.
        done: called with every cell that is finished.
    """
    done = done or (lambda cell, result: None)
    if parallel == 1 or not work:
        bench = Bench(spec)
        for cell, indices in work:
            done(cell, bench.run(cell, indices))
        return
    context = get_context("spawn")  # CUDA cannot be used again in a fork
    parallel = min(parallel, len(work))
    ticket = context.Value("i", 0)
    with ProcessPoolExecutor(parallel, context, _start, (spec, ticket, parallel, _gpus())) as pool:
        futures = {pool.submit(_run, cell, indices): cell for cell, indices in work}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def _start(spec: Spec, ticket: Synchronized[int], parallel: int, gpus: Sequence[str]) -> None:
    """Before torch is set up in a worker: its GPU, or its part of the cores."""
    global _bench
    with ticket.get_lock():
        number = ticket.value
        ticket.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    else:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // parallel))
    _bench = Bench(spec)


def _run(cell: Cell, indices: np.ndarray) -> dict[str, Any]:
    assert _bench is not None
    return _bench.run(cell, indices)
