"""Near-duplicates: bounds from short rows beside the product of all pairs.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/duplicates.py [--sizes 10000x4096,40000x4096] [--rounds 2]

Rows of 200 kinds that share 50 directions and have noise of their own; a fifth are copies with a little noise.
"all pairs" multiplies every block with all rows kept before, whole. Both find the same copies, which is checked.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import statistics

import numpy as np
from harness import interleave, keep, machine

from spicerack.information import duplicates
from spicerack.information.duplicates import near_duplicates
from spicerack.selectors.rows import Rows

COSINE = 0.9
COPIES = 0.2
BLOCK = 512


def synthetic(n: int, k: int, seed: int = 0) -> np.ndarray:
    """(n, k) float32 of unit length."""
    rng = np.random.default_rng(seed)
    kinds, distinct = rng.standard_normal((200, k), dtype=np.float32), round((1.0 - COPIES) * n)
    X = np.empty((n, k), dtype=np.float32)
    for at in range(0, distinct, 4096):
        size = min(4096, distinct - at)
        own = rng.standard_normal((size, k), dtype=np.float32)
        X[at : at + size] = 0.7 * kinds[rng.integers(0, 200, size)] + 0.5 * kinds[rng.integers(0, 50, size)] + own
    X[distinct:] = X[rng.integers(0, distinct, n - distinct)]
    X[distinct:] += 0.2 * rng.standard_normal((n - distinct, k), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X[rng.permutation(n)]


def all_pairs(X: np.ndarray) -> np.ndarray:
    """(n,) whether a row is near to one that was kept before it."""
    n = len(X)
    out, kept, count = np.zeros(n, dtype=bool), np.empty_like(X), 0
    for at in range(0, n, BLOCK):
        rows = X[at : at + BLOCK]
        near = (rows @ kept[:count].T >= COSINE).any(axis=1) if count else np.zeros(len(rows), dtype=bool)
        within = rows @ rows.T >= COSINE
        for i in np.flatnonzero(~near):
            near[i] = any(within[i, j] and not near[j] for j in range(i))
        out[at : at + BLOCK] = near
        kept[count : count + (~near).sum()] = rows[~near]
        count += int((~near).sum())
    return out


def case(n: int, k: int, rounds: int) -> dict[str, float]:
    X = synthetic(n, k)
    rows = Rows(X)
    rows.matrix("unit")
    found: dict[str, np.ndarray] = {}
    compared = []
    gathered = duplicates._gathered

    def counted(at: duplicates.RowsAt, numbers: np.ndarray) -> np.ndarray:
        compared.append(numbers.size)
        return gathered(at, numbers)

    def bounds() -> None:
        compared.clear()
        near = near_duplicates(
            lambda: rows.stream("unit"), lambda at: rows.working(at, "unit"), n, np.arange(n), COSINE
        )
        found["bounds"] = near >= 0

    def whole() -> None:
        found["all pairs"] = all_pairs(X)

    duplicates._gathered = counted
    try:
        timings = {t.name: t for t in interleave({"bounds": bounds, "all pairs": whole}, rounds, warm_up=0)}
    finally:
        duplicates._gathered = gathered
    assert np.array_equal(found["bounds"], found["all pairs"])
    ratio = timings["bounds"].ratio(timings["all pairs"])
    seconds = {name: statistics.median(timing.seconds) for name, timing in timings.items()}
    return {
        "rows": n,
        "columns": k,
        "copies": int(found["bounds"].sum()),
        "compared whole": sum(compared) / 2 / (n * (n - 1) / 2),
        "seconds": seconds["bounds"],
        "seconds, all pairs": seconds["all pairs"],
        "ratio": ratio[0],
        "least": ratio[1],
        "most": ratio[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000x4096,40000x4096", help="ROWSxCOLUMNS between commas")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    cases = [case(*map(int, size.split("x")), args.rounds) for size in args.sizes.split(",")]
    lines = ["# Near-duplicates", "", f"{machine('spicerack', 'numpy')}. Cosine {COSINE}, {args.rounds} rounds.", ""]
    lines += ["| rows | copies found | pairs compared whole | seconds | times the speed of all pairs (least to most) |"]
    lines += ["|---|---|---|---|---|"]
    for c in cases:
        lines.append(
            f"| {c['rows']:,.0f} x {c['columns']:,.0f} | {c['copies']:,.0f} | {c['compared whole']:.3%} | "
            f"{c['seconds']:.1f} | {c['ratio']:.1f} ({c['least']:.1f} to {c['most']:.1f}) |"
        )
    keep("duplicates", lines, cases)


if __name__ == "__main__":
    main()
