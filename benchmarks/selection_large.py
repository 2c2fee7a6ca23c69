"""Selection from a store larger than the memory that may be used: time, peak resident memory, certificate.

    .venv/bin/python benchmarks/selection_large.py [--rows 1000000] [--dimension 1024] [--volume 10000]
        [--transductive 2000] [--memory-gb 0.5] [--folder PATH]

A store of float16 rows is made block by block (a mixture of gaussians with power-law spectrum and heavy-tailed norms),
then each selection runs in a process of its own, its rows streamed from the store at every pass. Peak resident memory
is the process's own (VmHWM), the interpreter and torch included; the system's file cache is not part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
from harness import keep, machine
from selection_rows import Mixture

from spicerack.selectors import select, spice
from spicerack.store.reader import GradientStore
from spicerack.store.writer import StoreWriter

SHARD_ROWS = 8192


def make_store(folder: Path, rows: int, dimension: int) -> None:
    """A finished store; an unfinished one is gone on with."""
    mixture = Mixture(dimension)
    writer = StoreWriter.create_or_resume(
        folder,
        settings={"made by": "benchmarks/selection_large.py", "mixture": mixture.about},
        n=rows,
        arrays={"gradient": dimension},
        shard_rows=SHARD_ROWS,
    )
    with writer:
        for shard in writer.missing():
            count = shard.stop - shard.start
            block = mixture.block(shard.index, count)
            writer.write(shard, {"gradient": block}, _table(shard.start, block))
        writer.finish()


def _table(start: int, block: np.ndarray) -> dict[str, Any]:
    count = len(block)
    ones = np.ones(count)
    return {
        "id": [f"row-{start + i}" for i in range(count)],
        "source": ["mixture"] * count,
        "loss_mean": ones,
        "loss_sum": ones,
        "tokens": np.full(count, 100),
        "trained_tokens": np.full(count, 50),
        "cut_tokens": np.zeros(count, dtype=int),
        "gradient_norm": np.linalg.norm(block, axis=1),
    }


def run_one(folder: Path, objective: str, budget: int, memory_gb: float) -> dict[str, Any]:
    """One selection in this process: seconds of its parts, memory, certificate."""
    spent: dict[str, float] = {}

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = inner(*args, **kwargs)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    spice.certificate_of = timed("certify", spice.certificate_of)
    spice.search = timed("picks", spice.search)
    store = timed("open", GradientStore.open)(folder)
    options = {"objective": objective, "penalty": 0.1, "memory_gb": memory_gb, "compare_penalty": False}
    selection = timed("select", select)(store, budget=budget, **options)
    assert selection.certificate is not None
    return {
        "objective": objective,
        "budget": budget,
        "memory_gb": memory_gb,
        "seconds": {name: round(value, 1) for name, value in spent.items()},
        "peak_gb": round(peak_resident() / 2**30, 3),
        "share": selection.certificate.share,
        "bound": selection.certificate.method,
        "picked": int(selection.indices.size),
        "choices": selection.manifest["choices"],
    }


def peak_resident() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Make the store, select from it in processes of their own, keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--volume", type=int, default=10_000, help="rows to pick by the log-det; 0: none")
    parser.add_argument("--transductive", type=int, default=2_000, help="rows to pick by the other objective; 0: none")
    parser.add_argument("--memory-gb", type=float, default=0.5, help="the option memory_gb of the method")
    parser.add_argument("--folder", type=Path, help="keep the store here; default: a temporary folder")
    parser.add_argument("--name", default="selection_large", help="of the files under benchmarks/results")
    parser.add_argument("--one", choices=["volume", "transductive"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        budget = given.volume if given.one == "volume" else given.transductive
        print(json.dumps(run_one(given.folder, given.one, budget, given.memory_gb)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "store"
        started = time.perf_counter()
        make_store(folder, given.rows, given.dimension)
        print(f"store made in {time.perf_counter() - started:.0f} s", flush=True)
        results = []
        for objective, budget in (("volume", given.volume), ("transductive", given.transductive)):
            if budget:
                command = [sys.executable, __file__, *sys.argv[1:], "--one", objective, "--folder", str(folder)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(results[-1]), flush=True)
    keep(given.name, _table_lines(given, results), {"rows": given.rows, "dimension": given.dimension, "runs": results})


def _table_lines(given: argparse.Namespace, results: list[dict[str, Any]]) -> list[str]:
    gb = given.rows * given.dimension * 2 / 2**30
    lines = [
        f"# Selection from a store of {given.rows:,} x {given.dimension} float16 ({gb:.2f} GB)",
        "",
        f"{Mixture(given.dimension).about}; plain rows, penalty 0.1, memory_gb {given.memory_gb}.",
        machine("numpy", "torch"),
        "",
        "| objective | picked | open and verify, s | whole selection, s | of it picks, s | of it certificate, s "
        "| peak resident, GB | certificate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results:
        at = run["seconds"]
        share = f"{run['share']:.4f} ({run['bound']})"
        cells = (run["objective"], f"{run['picked']:,}", at["open"], at["select"], at["picks"], at["certify"])
        lines.append("| " + " | ".join(str(cell) for cell in (*cells, run["peak_gb"], share)) + " |")
    return lines


if __name__ == "__main__":
    main()
