"""The two sizes that influence methods have to bear: BIDS over 288,000 x 350, LESS over 1,000,000 x 8192.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/influence.py [--less-rows 1000000] [--bids-rows 288000] ...

BIDS: influences of six tasks that share directions (so that columns agree as real ones do, in part), normalized and
picked from, 15 % of the rows. LESS: `spicerack.select` on a gradient store whose shards are hard links to one file of
10,000 random unit rows in half precision, so that 16 GB of rows take 160 MB of disk: the reads, the conversions, the
products and the table are those of a real store of that size, the disk's own speed is not in it (the file stays in the
system's cache). One checkpoint; several cost so many times as much. Each case runs in a process of its own, whose peak
resident memory is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
from harness import keep, machine

SHARD_ROWS = 10_000
TASKS = 6


def synthetic_influences(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """(m, n) float32: each task has a direction, each column a share of its task's and one of its own."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((TASKS, rows), dtype=np.float32)
    A = np.empty((columns, rows), dtype=np.float32)
    for j in range(columns):
        share = rng.uniform(0.3, 0.8)
        A[j] = share * shared[j % TASKS] + np.sqrt(1 - share**2) * rng.standard_normal(rows, dtype=np.float32)
    return A


def bids(args: argparse.Namespace) -> dict[str, float]:
    from spicerack.information.balanced import balanced_greedy
    from spicerack.information.influence import normalize
    from spicerack.information.room import Room

    A = synthetic_influences(args.bids_rows, args.bids_columns)
    every = np.ones(args.bids_rows, dtype=bool)
    started = time.perf_counter()
    normalize(A, "zscore", every)
    normalized = time.perf_counter()
    count = round(0.15 * args.bids_rows)
    result = balanced_greedy(A, Room(every, count=count))
    done = time.perf_counter()
    assert np.unique(result.indices).size == count
    return {"picks": count, "normalize": normalized - started, "pick": done - normalized, "seconds": done - started}


def linked_store(folder: Path, rows: int, dimension: int) -> Path:
    """A store of `rows` rows whose shards are all the same file; see the module's text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from spicerack.store import files
    from spicerack.store.layout import MANIFEST, ROWS, Shard
    from spicerack.store.writer import StoreWriter

    rng = np.random.default_rng(0)
    size = min(SHARD_ROWS, rows)
    count = rows // size
    with StoreWriter.create_or_resume(
        folder, settings={}, n=size, arrays={"gradient": dimension}, shard_rows=size
    ) as writer:
        table = {
            **{"id": [str(i) for i in range(size)], "source": ["synthetic"] * size},
            **{name: np.ones(size, dtype=np.float32) for name in ("loss_mean", "loss_sum", "gradient_norm")},
            **{name: np.full(size, 100, dtype=np.int32) for name in ("tokens", "trained_tokens", "cut_tokens")},
        }
        unit = rng.standard_normal((size, dimension), dtype=np.float32)
        writer.write(writer.missing()[0], {"gradient": unit}, table)
        manifest = writer.finish().manifest
    first = Shard(0, 0, size)
    entries = manifest["shards"][first.rows_file]
    one = pq.read_table(folder / ROWS)
    pq.write_table(pa.concat_tables([one] * count), folder / ROWS)
    for index in range(1, count):
        shard = Shard(index, index * size, (index + 1) * size)
        for name, source in ((shard.file("gradient"), first.file("gradient")), (shard.rows_file, first.rows_file)):
            os.link(folder / source, folder / name)
        manifest["shards"][shard.rows_file] = {
            shard.file("gradient"): entries[first.file("gradient")],
            shard.rows_file: entries[first.rows_file],
        }
    manifest |= {
        "n": size * count,
        "shard_plan": [{"start": i * size, "stop": (i + 1) * size} for i in range(count)],
        "rows_sha256": files.sha256(folder / ROWS),
    }
    files.write_json(folder / MANIFEST, manifest)
    return folder


def less(args: argparse.Namespace) -> dict[str, float]:
    import spicerack
    from spicerack.store.reader import GradientStore

    store = GradientStore.open(args.store, verify=False)
    target = np.random.default_rng(1).standard_normal((args.targets, store.k))
    groups = [f"task {j % TASKS}" for j in range(args.targets)]
    started = time.perf_counter()
    selection = spicerack.select(store, "less", 0.05, target, target_groups=groups)
    seconds = time.perf_counter() - started
    copies = selection.scores.reshape(-1, min(SHARD_ROWS, store.n))
    assert (copies == copies[0]).all(), "equal rows have other scores elsewhere in the pool"
    return {
        "rows": store.n,
        "picks": int(selection.indices.size),
        "seconds": seconds,
        "gigabytes": store.n * store.k * 2 / 1e9,
    }


def peak_memory() -> int:
    """Most bytes that this process had resident; on Linux its own alone, not those of the one that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_child(case: str, argv: list[str]) -> dict[str, float]:
    """Run a case in a process of its own; what it found, with its peak resident gigabytes."""
    done = subprocess.run([sys.executable, __file__, *argv, "--case", case], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids-rows", type=int, default=288_000)
    parser.add_argument("--bids-columns", type=int, default=350)
    parser.add_argument("--less-rows", type=int, default=1_000_000)
    parser.add_argument("--less-dimension", type=int, default=8192)
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--store", type=Path, help="folder of the linked store; default: a temporary one")
    parser.add_argument("--case", choices=["bids", "less"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        found = bids(args) if args.case == "bids" else less(args)
        print(json.dumps({**found, "peak_gb": peak_memory() / 1e9}))
        return
    argv = sys.argv[1:]
    by_bids = in_child("bids", argv)
    with tempfile.TemporaryDirectory() as folder:
        store = linked_store(Path(folder) / "store", args.less_rows, args.less_dimension)
        by_less = in_child("less", [*argv, "--store", str(store)])
    lines = [
        "# Influence methods at size",
        "",
        machine("numpy", "spicerack"),
        "",
        "| case | seconds | peak resident memory |",
        "|---|---|---|",
        f"| BIDS, {args.bids_rows:,} x {args.bids_columns}, {by_bids['picks']:,} picks: normalize "
        f"{by_bids['normalize']:.1f} s, pick {by_bids['pick']:.1f} s | {by_bids['seconds']:.1f} | "
        f"{by_bids['peak_gb']:.2f} GB |",
        f"| LESS, {by_less['rows']:,} x {args.less_dimension}, {args.targets} targets in {TASKS} subtasks, one "
        f"checkpoint ({by_less['gigabytes']:.1f} GB read) | {by_less['seconds']:.1f} | {by_less['peak_gb']:.2f} GB |",
        "",
        "BIDS from influences in memory (synthetic, six tasks with shared directions). LESS from a gradient store in",
        f"half precision whose shards are hard links to one file of {SHARD_ROWS:,} rows: all that `select` does with a",
        "store of that size, but for the disk, whose pages stay in the system's cache.",
    ]
    keep("influence", lines, {"bids": by_bids, "less": by_less})


if __name__ == "__main__":
    main()
