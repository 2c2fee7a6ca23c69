"""The selection engine beside what a user would run instead: seconds and information, interleaved in one run.

    .venv/bin/python benchmarks/selection.py [--cases small,medium,large,wide] [--rounds 2] [--store PATH]

Every case has rows, a budget and a penalty; each round runs every contender once, in turn, and reads G as often as the
plain loop must: the memory bound. All contenders get the same rows and the same alpha (alpha * median |g|^2 = 1);
`information` is log det(I + alpha F) of what they picked, in float64. Peers that have no penalty run without one; those
that are slow run up to 10,000 rows, once where that takes long, and the table says why not beyond. All cases take about
twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import selection_peers as peers
import torch
from harness import keep, machine
from selection_rows import KINDS, Kind, Mixture

from spicerack.information import Conflict, FullFisher, Penalty, Room, RowMatrix, greedy, search

ENGINE, PLAIN, READS = "this engine", "plain exact loop", "s reads of G"
SLOW = {
    "apricot, lazy": ("apricot", peers.apricot("lazy")),
    "submodlib, naive": ("submodlib", peers.submodlib("NaiveGreedy")),
    "submodlib, lazy": ("submodlib", peers.submodlib("LazyGreedy")),
    "SPICE's released loop, pools of 128": (None, peers.released(128)),
    "SPICE's released loop, one pool": (None, peers.released(None)),
}
BEYOND = {
    "apricot": "a slogdet in Python for every candidate: days",
    "submodlib": "a dense kernel of n x n doubles: {gb:,.0f} GB",
    "SPICE's": "n s steps of a Python loop: hours",
}
LONG = 10.0
"""Seconds from which a slow contender runs once."""

PENALIZED = {ENGINE, PLAIN, "BLAS loop, float32", *(name for name in SLOW if name.startswith("SPICE"))}


@dataclass(frozen=True)
class Case:
    """Rows of a kind (or of a store), and what is asked of them."""

    kind: Kind | Path
    n: int
    k: int
    count: int
    penalty: float
    contenders: tuple[str, ...]

    @property
    def title(self) -> str:
        name = self.kind if isinstance(self.kind, str) else f"store {self.kind.name}"
        return f"{name}, n = {self.n:,}, k = {self.k:,}, s = {self.count:,}, penalty {self.penalty}"


def cases(sizes: list[str], store: Path | None) -> list[Case]:
    """The cases of each size named."""
    ours, dense = (ENGINE, PLAIN), (ENGINE, PLAIN, "BLAS loop, float32", "fast greedy MAP")
    found: list[Case] = []
    for penalty in (0.0, 0.1):
        if "small" in sizes:
            found.append(Case("heavy", 1_000, 512, 100, penalty, (*dense, *SLOW)))
        if "medium" in sizes:
            all_of = {("heavy", 0.1): (*dense, *SLOW)}
            found += [Case(kind, 10_000, 512, 500, penalty, all_of.get((kind, penalty), dense)) for kind in KINDS]
        if "wide" in sizes:
            found.append(Case("heavy", 10_000, 2_048, 500, penalty, dense))
        if "large" in sizes:
            all_of = {"heavy": (*dense, *SLOW)}
            found += [Case(kind, 100_000, 512, 2_000, penalty, all_of.get(kind, ours)) for kind in KINDS]
        if store is not None:
            G, _ = rows_of(Case(store, 0, 0, 0, penalty, ()))
            found.append(Case(store, len(G), G.shape[1], max(1, len(G) // 10), penalty, dense))
    return found


def rows_of(case: Case) -> tuple[np.ndarray, float]:
    """G and alpha."""
    if isinstance(case.kind, Path):
        from spicerack.selectors.rows import Rows

        rows = Rows(case.kind)
        G = rows.matrix("plain", np.float32)[rows.included]
    else:
        G = Mixture(case.k, case.kind).matrix(case.n)
    return G, float(1.0 / np.median(np.einsum("ij,ij->i", G, G, dtype=np.float64)))


def ours(loop: Callable[..., Any]) -> peers.Peer:
    def run(G: np.ndarray, alpha: float, penalty: float, count: int) -> np.ndarray:
        matrix, eligible = RowMatrix(G), np.ones(len(G), dtype=bool)
        state, room = FullFisher(matrix, alpha), Room(eligible, count=count)
        return loop(state, Conflict(matrix), penalty=Penalty(penalty), room=room, eligible=eligible).indices

    return run


ALL: dict[str, tuple[str | None, peers.Peer]] = {
    ENGINE: (None, ours(search)),
    PLAIN: (None, ours(greedy)),
    "BLAS loop, float32": (None, peers.blas_loop),
    "fast greedy MAP": (None, peers.fast_map),
    **SLOW,
}


def reads(G: np.ndarray, count: int) -> float:
    """Seconds of `count` reads of G at the rate that all cores reach: the median of five, each summing all of it."""
    tensor, seconds = torch.from_numpy(G), []
    for _ in range(6):
        started = time.perf_counter()
        tensor.sum()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * count


def information(G: np.ndarray, alpha: float, picks: np.ndarray) -> float:
    X = np.sqrt(alpha) * G[picks].astype(np.float64)
    gram = X @ X.T if len(X) < X.shape[1] else X.T @ X
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram)[1])


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Every contender's seconds and information; the engine's picks are compared with the plain loop's."""
    G, alpha = rows_of(case)
    seconds: dict[str, list[float]] = {READS: []}
    picks: dict[str, np.ndarray] = {}
    absent: dict[str, str] = {}
    for _ in range(rounds):
        seconds[READS].append(reads(G, case.count))
        for name in case.contenders:
            module, run = ALL[name]
            if name in absent or (name in SLOW and max(seconds.get(name, [0.0])) > LONG):
                continue
            if name in SLOW and case.n > 10_000:
                reason = next(why for peer, why in BEYOND.items() if name.startswith(peer))
                absent[name] = "not run: " + reason.format(gb=8 * case.n**2 / 2**30)
                continue
            if module is not None and (reason := peers.missing(module)) is not None:
                absent[name] = reason
                continue
            started = time.perf_counter()
            picks[name] = run(G, alpha, case.penalty if name in PENALIZED else 0.0, case.count)
            seconds.setdefault(name, []).append(time.perf_counter() - started)
    return {
        "case": case.title,
        "seconds": seconds,
        "information": {name: information(G, alpha, rows) for name, rows in picks.items()},
        "absent": absent,
        "identical": bool(np.array_equal(picks[ENGINE], picks[PLAIN])) if PLAIN in picks else None,
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """The table of one case: medians over rounds, ratios of medians."""
    middle = {name: statistics.median(values) for name, values in result["seconds"].items()}
    lines = [
        f"### {result['case']}",
        "",
        "| what | seconds | times the engine's | information |",
        "|---|---|---|---|",
    ]
    for name, value in middle.items():
        held = result["information"].get(name)
        shown = "" if held is None else f"{held:.3f}"
        lines.append(f"| {name} | {value:.3f} | {value / middle[ENGINE]:.2f} | {shown} |")
    lines += [f"| {name} | {reason} | | |" for name, reason in result["absent"].items()]
    if result["identical"] is not None:
        lines.append(f"\nPicks of the engine and of the plain loop: {'identical' if result['identical'] else 'DIFFER'}")
    return [*lines, ""]


def main() -> None:
    """Run the cases, keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="small,medium,large,wide", help="sizes, separated by commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--store", type=Path, help="also a tenth of this gradient store, plain rows")
    parser.add_argument("--name", default="selection", help="of the files under benchmarks/results")
    given = parser.parse_args()
    chosen = cases([word.strip() for word in given.cases.split(",")], given.store)
    lines = ["# Selection: seconds and information", ""]
    lines += [machine("numpy", "torch", "apricot-select", "submodlib-py"), ""]
    lines += [f"- {kind}: {about}" for kind, about in KINDS.items()] + [""]
    results = []
    for case in chosen:
        results.append(measure(case, given.rounds if case.n * case.count < 10**8 else max(1, given.rounds - 1)))
        print("\n".join(lines_of(results[-1])), flush=True)
        lines += lines_of(results[-1])
    keep(given.name, lines, results)


if __name__ == "__main__":
    main()
