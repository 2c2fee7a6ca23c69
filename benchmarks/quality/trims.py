"""How many wrong responses a trim leaves: among all rows that stay, and among the picks.

    python benchmarks/quality/trims.py --work runs/quality [--regimes as-is,wrong-40] [--by loss_mean,mismatch]
        [--trims 0,0.25,0.5,above:0.9] [--name quality_trims]

Reads the stores that benchmarks/quality/run.py made; nothing is trained. AUC: how often a wrong response ranks above a
right one by the column, within its cluster of gradients and over the whole pool.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import keep, machine
from quality.tables import header

from spicerack import GradientStore, select
from spicerack.selectors.grouping import read_groups
from spicerack.selectors.rows import Rows
from spicerack.selectors.trim import GROUPS


def main() -> None:
    """One table: a regime a row, a trim a column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder of run.py's stores")
    parser.add_argument("--regimes", default="as-is,wrong-40,redundant,imbalanced,long-tailed")
    parser.add_argument("--by", default="loss_mean", help="columns of the stores or their features")
    parser.add_argument("--name", default="quality_trims", help="of the files under benchmarks/results")
    parser.add_argument("--trims", default="0,0.15,0.25,0.35,0.5,0.6,0.7", help="shares, or above:VALUE")
    parser.add_argument("--budget", type=float, default=0.1)
    given = parser.parse_args()
    trims = given.trims.split(",")
    lines = ["# Wrong responses after a trim", "", machine("numpy", "torch"), ""]
    lines += [
        f"Never picked is a share of every cluster of gradients ({GROUPS}), its rows of the highest values, or every",
        "row above a value. In a cell: wrong among the rows that stay / among the picks, "
        f"{given.budget:.0%} of the pool by transductive",
        "information on unit rows; of a bound also the share of the rows that it leaves out.",
        "",
    ]
    cuts = [f"trim {trim}".replace("trim above:", "above ") for trim in trims]
    lines += header(["pool", "by", "AUC in clusters", "AUC over all", *cuts])
    raw: dict[str, dict[str, object]] = {}
    for regime in given.regimes.split(","):
        rows = (given.work / regime / "pool.jsonl").read_text("utf-8").splitlines()
        wrong = np.array([bool(json.loads(row)["noise"]) for row in rows])
        store = GradientStore.open(given.work / regime / "compare" / "gradients")
        for by in given.by.split(","):
            found = [shares(store, wrong, trim, by, round(given.budget * len(rows))) for trim in trims]
            within, overall = quality_of(store, by, wrong)
            trimmed = dict(zip(trims, found, strict=True))
            raw.setdefault(regime, {})[by] = {"auc": [within, overall], "trims": trimmed}
            cells = [
                f"{kept:.1%} / {picked:.1%}" + (f" ({out:.0%} out)" if trim.startswith("above:") else "")
                for trim, (kept, picked, out) in zip(trims, found, strict=True)
            ]
            lines.append(f"| {regime} | {by} | {within:.2f} | {overall:.2f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    keep(given.name, lines, raw)


def shares(store: GradientStore, wrong: np.ndarray, trim: str, by: str, count: int) -> tuple[float, float, float]:
    """Of wrong responses, among the rows that a trim leaves and among the picks; of all rows, those left out."""
    bound = trim.partition("above:")[2]
    cut: dict[str, Any] = {"trim_above": float(bound)} if bound else {"trim": float(trim)}
    trimming = cut | {"trim_by": by} if bound or float(trim) else {}
    left = select(store, "random", 1.0, **trimming)
    options = {"objective": "transductive", "rows": "unit", "certify": False, "compare_penalty": False}
    picks = select(store, "spice", count, **trimming, **options)
    out = 1.0 - len(left.indices) / len(wrong)
    return float(wrong[left.indices].mean()), float(wrong[picks.indices].mean()), out


def quality_of(store: GradientStore, by: str, wrong: np.ndarray) -> tuple[float, float]:
    """AUC of a column as a sign of a wrong response: of its rank in its cluster, and of itself."""
    values = store.column(by)
    names = np.array([str(name) for name in read_groups(Rows(store), GROUPS)])
    rank = np.empty(len(values))
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        rank[members] = (values[members].argsort().argsort() + 0.5) / members.size
    return auc(rank, wrong), auc(values, wrong)


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half."""
    above = score[positive][:, None] - score[~positive]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


if __name__ == "__main__":
    main()
