"""The transductive loop beside the memory bound: one read of G a pick, at the rate that all cores reach.

    .venv/bin/python benchmarks/selection_transductive.py [--rows 100000] [--dimension 512] [--picks 100] [--rounds 5]

Every round times a sum over G and a run of the exact loop, in turn; the time of a pick is the difference of a long run
and one of a single pick. A float64 plain loop picks the same rows (tests/truth/test_transductive.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch
from harness import keep, machine
from selection_rows import KINDS, Mixture

from spicerack.information import Conflict, Penalty, Room, RowMatrix, greedy, second_moment
from spicerack.information.transductive import Transductive


def seconds_of(matrix: RowMatrix, C: np.ndarray, alpha: float, penalty: float, count: int) -> float:
    """Of the exact loop, the state's making not counted."""
    eligible = np.ones(matrix.n, dtype=bool)
    state = Transductive(matrix, C, alpha)
    started = time.perf_counter()
    greedy(state, Conflict(matrix), penalty=Penalty(penalty), room=Room(eligible, count=count), eligible=eligible)
    return time.perf_counter() - started


def main() -> None:
    """Measure each kind with and without a penalty, keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--picks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    lines = ["# The transductive loop beside the memory bound", "", machine("numpy", "torch"), ""]
    lines += [
        f"n = {given.rows:,}, k = {given.dimension}, float32 rows in memory; medians of {given.rounds} rounds.",
        "",
    ]
    lines += ["| rows | penalty | a read of G, ms | a pick, ms | share of the bound (least to most) |"]
    lines += ["|---|---|---|---|---|"]
    raw = []
    for kind in KINDS:
        G = Mixture(given.dimension, kind).matrix(given.rows)
        matrix, tensor = RowMatrix(G), torch.from_numpy(G)
        alpha = float(1.0 / np.median(matrix.squared_norms))
        C = second_moment(matrix) / given.rows
        for penalty in (0.0, 0.1):
            reads, picks = [], []
            for _ in range(given.rounds + 1):  # the first sets things up
                started = time.perf_counter()
                for _ in range(10):
                    tensor.sum()
                reads.append((time.perf_counter() - started) / 10)
                short = seconds_of(matrix, C, alpha, penalty, 1)
                picks.append((seconds_of(matrix, C, alpha, penalty, given.picks + 1) - short) / given.picks)
            shares = sorted(read / pick for read, pick in zip(reads[1:], picks[1:], strict=True))
            read, pick = statistics.median(reads[1:]), statistics.median(picks[1:])
            share = f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
            lines.append(f"| {kind} | {penalty} | {1e3 * read:.2f} | {1e3 * pick:.2f} | {share} |")
            raw.append({"rows": kind, "penalty": penalty, "read": reads[1:], "pick": picks[1:]})
            print(lines[-1], flush=True)
    keep("selection_transductive", lines, raw)


if __name__ == "__main__":
    main()
