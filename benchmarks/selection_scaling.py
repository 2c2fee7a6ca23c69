"""Time of a selection as the pool doubles and as the budget doubles: near linear in both.

    .venv/bin/python benchmarks/selection_scaling.py [--rows 200000] [--budget 4000] [--dimension 512] [--rounds 2]

Rows are a mixture of gaussians with heavy-tailed norms, penalty 0.1. The table goes to benchmarks/results, with the
exponent p of time ~ size^p fitted to the last three doublings; with matplotlib installed, so does a plot.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
from harness import RESULTS, keep, machine
from selection_rows import Kind, Mixture

from spicerack.information import Conflict, FullFisher, Penalty, Room, RowMatrix, search

DOUBLINGS = 4
KINDS: tuple[Kind, ...] = ("heavy", "unit")


def seconds(G: np.ndarray, count: int, rounds: int) -> float:
    """Median seconds of a selection."""
    eligible, found = np.ones(len(G), dtype=bool), []
    for _ in range(rounds):
        matrix = RowMatrix(G)
        started = time.perf_counter()
        state = FullFisher(matrix, float(1.0 / np.median(matrix.squared_norms)))
        search(state, Conflict(matrix), penalty=Penalty(0.1), room=Room(eligible, count=count), eligible=eligible)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """For each kind: time over n at a fixed budget, and over s at a fixed pool."""
    series = []
    for kind in KINDS:
        G = Mixture(given.dimension, kind).matrix(given.rows)
        half = given.budget // 2
        sizes = [given.rows >> step for step in range(DOUBLINGS, -1, -1)]
        counts = [given.budget >> step for step in range(DOUBLINGS, -1, -1)]
        seconds(G[: sizes[0]], half, 1)  # imports and compiles what is needed once
        over_n = [seconds(G[:n], half, given.rounds) for n in sizes]
        over_s = [seconds(G[: given.rows // 2], count, given.rounds) for count in counts]
        series.append(_series(kind, "n", sizes, over_n, f"s = {half:,}"))
        series.append(_series(kind, "s", counts, over_s, f"n = {given.rows // 2:,}"))
        print(series[-2:], flush=True)
    return series


def _series(kind: Kind, over: str, sizes: list[int], times: list[float], fixed: str) -> dict[str, Any]:
    slope = np.polyfit(np.log(sizes[-4:]), np.log(times[-4:]), 1)[0]
    return {"rows": kind, "over": over, "sizes": sizes, "seconds": times, "fixed": fixed, "exponent": float(slope)}


def _plot(series: list[dict[str, Any]], name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, over in zip(axes, ("n", "s"), strict=True):
        for line in (line for line in series if line["over"] == over):
            label = f"{line['rows']}, {line['fixed']}: exponent {line['exponent']:.2f}"
            axis.loglog(line["sizes"], line["seconds"], "o-", base=2, label=label)
        axis.set_xlabel("rows in the pool, n" if over == "n" else "rows picked, s")
        axis.set_ylabel("seconds")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)


def main() -> None:
    """Measure, keep the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--budget", type=int, default=4_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--name", default="selection_scaling", help="of the files under benchmarks/results")
    given = parser.parse_args()
    series = measure(given)
    lines = ["# Time of a selection as pool and budget double", "", machine("numpy", "torch"), ""]
    lines += [f"k = {given.dimension}, penalty 0.1, float32 rows in memory.", ""]
    for line in series:
        lines += [f"### {line['rows']} rows, over {line['over']} ({line['fixed']}): time ~ {line['over']}^", ""]
        lines[-2] += f"{line['exponent']:.2f}"
        lines += [f"| {line['over']} | seconds | times the one before |", "|---|---|---|"]
        before = None
        for size, spent in zip(line["sizes"], line["seconds"], strict=True):
            lines.append(f"| {size:,} | {spent:.3f} | {'' if before is None else f'{spent / before:.2f}'} |")
            before = spent
        lines.append("")
    keep(given.name, lines, series)
    if importlib.util.find_spec("matplotlib") is not None:
        _plot(series, given.name)


if __name__ == "__main__":
    main()
