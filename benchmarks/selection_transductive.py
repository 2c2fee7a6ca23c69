"""The transductive loop beside the memory bound: one read of G a pick, at the rate that all cores reach.

    .venv/bin/python benchmarks/selection_transductive.py [--rows 100000] [--dimension 512] [--picks 100] [--rounds 5]

Before every pick of the exact loop a sum over G is timed, so that both meet the machine in the same state; a round is a
run, and the first one sets things up. A float64 plain loop picks the same rows (tests/truth/test_transductive.py). Rows
in half precision are what a store holds, and what the passes read of one; the bound stays that of float32.
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


def reads_and_picks(
    matrix: RowMatrix, tensor: torch.Tensor, moment: np.ndarray, alpha: float, weight: float, count: int
) -> tuple[float, float]:
    """Median seconds of a sum over the tensor and of a pick, one after the other `count` times."""
    eligible = np.ones(matrix.n, dtype=bool)
    stamps = []

    def watch(*_: object) -> None:
        stamps.append(time.perf_counter())
        tensor.sum()
        stamps.append(time.perf_counter())

    state, room = Transductive(matrix, moment, alpha), Room(eligible, count=count + 1)
    greedy(state, Conflict(matrix), penalty=Penalty(weight), room=room, eligible=eligible, watch=watch)
    spans = np.diff(stamps)  # a read, a pick, a read, ...
    return float(np.median(spans[2::2])), float(np.median(spans[1::2]))


def stored(G: np.ndarray) -> RowMatrix:
    """The rows as a store holds them: at unit length in float16, their lengths beside them."""
    lengths = np.linalg.norm(G.astype(np.float64), axis=1)
    half = (G / lengths[:, None]).astype(np.float16)
    return RowMatrix(half, lambda rows: half[rows] * lengths[rows, None], lengths=lengths)


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
        f"n = {given.rows:,}, k = {given.dimension}, rows in memory; medians of {given.rounds} runs.",
        "",
    ]
    lines += ["| rows | held in | penalty | a read in float32, ms | a pick, ms | share of the bound (least to most) |"]
    lines += ["|---|---|---|---|---|---|"]
    raw = []
    for kind in KINDS:
        G = Mixture(given.dimension, kind).matrix(given.rows)
        matrix, tensor = RowMatrix(G), torch.from_numpy(G)
        alpha = float(1.0 / np.median(matrix.squared_norms))
        C = second_moment(matrix) / given.rows
        matrices = {"float32": matrix, "float16": stored(G)}
        for penalty in (0.0, 0.1):
            for held, rows in matrices.items():
                rounds = [
                    reads_and_picks(rows, tensor, C, alpha, penalty, given.picks) for _ in range(given.rounds + 1)
                ]
                reads, picks = zip(*rounds[1:], strict=True)
                shares = sorted(read / pick for read, pick in rounds[1:])
                share = f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
                read, pick = 1e3 * statistics.median(reads), 1e3 * statistics.median(picks)
                lines.append(f"| {kind} | {held} | {penalty} | {read:.2f} | {pick:.2f} | {share} |")
                raw.append({"rows": kind, "held": held, "penalty": penalty, "read": reads, "pick": picks})
                print(lines[-1], flush=True)
    keep("selection_transductive", lines, raw)


if __name__ == "__main__":
    main()
