"""What every method picks from a pool of several capabilities, and what that costs, on a real model.

    .venv/bin/python benchmarks/targeted.py DATA --model MODEL [--rows 2000] [--work runs/targeted] [--prompts FILE]
        [--name NAME] [--budget 0.1] [--fraction 0.1] [--epochs 2] [--methods 'less,in2core,in2core, plain rows']

DATA holds pool.jsonl and target.jsonl, rows with `capability`; the pool's also `noise`, 1 for a wrong response, which
is used for scoring alone. Each capability is the only target once, and all are the target together. What is made
on the way (warm-up, stores) stays in the work folder, and the same command goes on from there. `--methods` are some of
the targeted ones, with the passes that they need alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
from harness import keep, machine

import spicerack
from spicerack import pipeline
from spicerack.config import RunConfig, with_options
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.features.options import FeatureConfig
from spicerack.store.files import write_json
from spicerack.store.layout import read_manifest
from spicerack.store.reader import GradientStore
from spicerack.training.finetune import load_for_training
from spicerack.training.options import WarmupConfig
from spicerack.training.warmup import warmup

COMMON = {"max_length": 512, "source_column": "capability"}
WARMUP = {"lora_r": 16, "lora_alpha": 64, "learning_rate": 2e-4}
TRAINED = {"parameters": "lora", "dimension": 4096}
BLOCKS = {"parameters": "lora", "layout": "blocks", "sketch": 4}
FEATURES = "embedding,embedding_weighted,ifd,states"

ANY = "any"  # store of the pool: its rows are not read
Methods = dict[str, tuple[str, str, dict[str, Any]]]
Stores = dict[str, GradientStore]
TARGETED: Methods = {
    "random": ("random", ANY, {}),
    "less": ("less", "trained", {}),
    "less, plain rows": ("less", "trained", {"pool_rows": "plain"}),
    "bids": ("bids", "trained", {}),
    "bids, plain rows": ("bids", "trained", {"pool_rows": "plain"}),
    "in2core": ("in2core", "blocks", {}),
    "in2core, plain rows": ("in2core", "blocks", {"rows": "plain"}),
    "rds": ("rds", "base", {}),
    "tsds": ("tsds", "base", {}),
    "spice, transductive": ("spice", "base", {"objective": "transductive", "rows": "unit"}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "spice": ("spice", {}),
    "spice, unit rows": ("spice", {"rows": "unit"}),
    "spice, transductive": ("spice", {"objective": "transductive", "rows": "unit"}),
    "fisher": ("fisher", {}),
    "fisher, last hidden": ("fisher", {"features": "last_hidden"}),
    "dpp": ("dpp", {}),
    "unimax": ("unimax", {}),
    "ifd": ("ifd", {}),
    "selectit": ("selectit", {}),
    "k_center": ("k_center", {}),
    "loss": ("loss", {}),
    "grad_norm": ("grad_norm", {}),
    "length": ("length", {}),
    "random": ("random", {}),
}
PASSES = {
    "less": ("warm-up", "trained"),
    "bids": ("warm-up", "trained"),
    "in2core": ("warm-up", "blocks"),
    "rds": ("features",),
    "tsds": ("features",),
    "unimax": ("features",),
    "ifd": ("features",),
    "selectit": ("ratings",),
    "fisher, last hidden": ("features",),
    "loss": ("features",),
    "length": (),
    "random": (),
}
"""What a method needs to have been run over pool and target; every other method needs the plain gradients, `base`."""


class Bench:
    """The work folder: data, warm-up, stores, and what each pass cost."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model, self.dtype, self.prompts = options.model, options.dtype, options.prompts
        self.budget = options.budget
        self.warmup = WARMUP | {"fraction": options.fraction, "num_train_epochs": options.epochs}
        data, work = options.data, options.work
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        pool = _read(data / "pool.jsonl")
        chosen = sorted(random.Random(0).sample(range(len(pool)), min(options.rows, len(pool))))
        self.rows = [pool[i] for i in chosen]
        self.pool = _write(work / "pool.jsonl", self.rows)
        target = _read(data / "target.jsonl")
        self.capabilities = sorted({row["capability"] for row in target})
        self.targets = {
            name: _write(work / f"target-{name}.jsonl", [row for row in target if row["capability"] == name])
            for name in self.capabilities
        }
        self.labels = np.array([row["capability"] for row in self.rows])
        self.noise = np.array([row["noise"] for row in self.rows])
        self.costs_file = work / "costs.json"
        self.costs: dict[str, dict[str, float]] = (
            json.loads(self.costs_file.read_text()) if self.costs_file.is_file() else {}
        )

    def note(self, name: str, seconds: float, flops: float) -> None:
        """Add to what a pass cost, over all the runs that it took."""
        before = self.costs.get(name, {"seconds": 0.0, "flops": 0.0})
        self.costs[name] = {"seconds": before["seconds"] + seconds, "flops": before["flops"] + flops}
        write_json(self.costs_file, self.costs)

    def config(self, **options: Any) -> RunConfig:
        """Of a pass."""
        return with_options(RunConfig(), {"model_name_or_path": self.model, "dtype": self.dtype, **COMMON, **options})

    def warm_up(self) -> None:
        """Train the adapters whose checkpoints less, bids and in2core read."""
        folder, started = self.work / "warmup", time.monotonic()
        if (folder / "warmup.json").is_file():
            return
        config = self.config(pool=str(self.pool))
        rows = load_pool(str(self.pool), config.data)
        loaded, recipe = load_for_training(config, WarmupConfig(gradient_accumulation_steps=2, **self.warmup))
        done = warmup(rows, Labeler(loaded.tokenizer, config.labels), loaded, recipe, folder)
        tokens = done.manifest["tokens"]
        self.note(
            "warm-up", time.monotonic() - started, 6.0 * sum(p.numel() for p in loaded.model.parameters()) * tokens
        )

    def gradients(self, name: str, data: Path, folder: Path, **options: Any) -> GradientStore:
        """Gradients of a file; those that are finished are read."""
        if (read_manifest(folder) or {}).get("complete"):
            return GradientStore.open(folder)
        planned = pipeline.plan_pass(self.config(pool=str(data), **options), progress=_say(folder.name))
        store = planned.run(folder)
        if planned.cost is not None:
            self.note(name, planned.cost.seconds, planned.cost.flops)
        return store

    def features(self, name: str, data: Path, folder: Path, compute: str) -> None:
        """Features of a file."""
        options = FeatureConfig(compute=compute, rating_prompts=str(self.prompts) if self.prompts else None)
        planned = pipeline.plan_features(self.config(pool=str(data)), options, progress=_say(folder.name))
        planned.run(folder)
        if planned.cost is not None:
            self.note(name, planned.cost.seconds, planned.cost.flops)

    def prepare(self, kind: str, data: Path, folder: Path, *, target: bool) -> GradientStore:
        """The store of one kind for the pool or a target."""
        checkpoints = str(self.work / "warmup")
        if kind == "base":
            self.features("features", data, folder / "features", FEATURES)
            return self.gradients("base", data, folder)
        if kind == "trained":
            rows = {"adam_rows": False} if target else {}
            return self.gradients("trained", data, folder, checkpoints=checkpoints, **TRAINED, **rows)
        last = json.loads((self.work / "warmup" / "warmup.json").read_text())["checkpoints"][-1]
        return self.gradients(
            "blocks", data, folder, adapter_name_or_path=str(self.work / "warmup" / last["folder"]), **BLOCKS
        )


def main() -> None:
    """Make what is missing, select, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("runs/targeted"))
    parser.add_argument("--prompts", type=Path, help="rating prompts of selectit; default: its five")
    parser.add_argument("--rated", type=int, help="rate so many rows only, for what it costs: each is read five times")
    parser.add_argument("--name", default="targeted", help="of the files under benchmarks/results")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the pool that is picked")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the pool that the warm-up trains on")
    parser.add_argument("--epochs", type=float, default=2.0, help="of the warm-up, a checkpoint each")
    parser.add_argument("--methods", help="targeted ones, without those that need no target; default: everything")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    methods = {
        name: TARGETED[name] for name in (re.split(",(?! )", arguments.methods) if arguments.methods else TARGETED)
    }
    kinds = {kind for _, kind, _ in methods.values() if kind != ANY} | (set() if arguments.methods else {"base"})
    if kinds & {"trained", "blocks"}:
        bench.warm_up()
    pools = {kind: bench.prepare(kind, bench.pool, bench.work / kind, target=False) for kind in kinds}
    targets = {
        kind: {
            name: bench.prepare(kind, path, bench.work / f"{kind}-targets" / name, target=True)
            for name, path in bench.targets.items()
        }
        for kind in kinds
    }
    pools[ANY] = pools[min(kinds)]
    one = _one_target(bench, methods, pools, targets)
    every = _all_targets(bench, methods, pools, targets)
    rest, rated = {}, len(bench.rows)
    if not arguments.methods:
        rated = min(arguments.rated or rated, rated)
        part = _write(bench.work / "rated.jsonl", bench.rows[:: len(bench.rows) // rated][:rated])
        bench.features("ratings", part, bench.work / "ratings", "selectit")
        rest = _without_target(bench, pools, ratings=rated == len(bench.rows))
    lines = _report(bench, one, every, rest, rated)
    keep(arguments.name, lines, {"one target": one, "all targets": every, "no target": rest, "passes": bench.costs})


def _one_target(bench: Bench, methods: Methods, pools: Stores, targets: dict[str, Stores]) -> Any:
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for label, (method, kind, options) in methods.items():
        results[label] = {}
        for name in bench.capabilities:
            target = None if method == "random" else targets[kind][name]
            picked, seconds = _timed(lambda: spicerack.select(pools[kind], method, bench.budget, target, **options))  # noqa: B023
            results[label][name] = {
                "share": float((bench.labels[picked.indices] == name).mean()),
                **_mix(bench, picked.indices),
                "seconds": seconds,
            }
    return results


def _all_targets(bench: Bench, methods: Methods, pools: Stores, targets: dict[str, Stores]) -> Any:
    results: dict[str, dict[str, Any]] = {}
    for label, (method, kind, options) in methods.items():
        target = None if method == "random" else dict(targets[kind])
        picked, seconds = _timed(lambda: spicerack.select(pools[kind], method, bench.budget, target, **options))  # noqa: B023
        results[label] = _mix(bench, picked.indices) | {"seconds": seconds}
    return results


def _without_target(bench: Bench, pools: Stores, *, ratings: bool) -> Any:
    results: dict[str, dict[str, Any]] = {}
    rated = GradientStore.open(bench.work / "ratings").column("selectit") if ratings else None
    for label, (method, options) in OTHERS.items():
        if method == "selectit" and rated is None:
            continue
        extra = {"columns": {"selectit": rated}} if method == "selectit" else {}
        picked, seconds = _timed(lambda: spicerack.select(pools["base"], method, bench.budget, **options, **extra))  # noqa: B023
        results[label] = _mix(bench, picked.indices) | {"seconds": seconds}
    return results


def _mix(bench: Bench, indices: np.ndarray) -> dict[str, Any]:
    shares = np.array([(bench.labels[indices] == name).mean() for name in bench.capabilities])
    positive = shares[shares > 0]
    return {
        "mix": dict(zip(bench.capabilities, shares.tolist(), strict=True)),
        "entropy": float(abs((positive * np.log2(positive)).sum())),
        "noise": float(bench.noise[indices].mean()),
        "picked": int(indices.size),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _report(bench: Bench, one: Any, every: Any, rest: Any, rated: int) -> list[str]:
    names = bench.capabilities
    pool = _mix(bench, np.arange(len(bench.rows)))
    lines = [
        f"{len(bench.rows)} rows, {bench.budget:.0%} picked, {Path(bench.model).name}; warm-up: {bench.warmup}.",
        machine("spicerack", "torch", "transformers", "numpy"),
        "",
        "## One capability as the target: share of the picks that are of it (wrong responses among the picks)",
        "",
        "A star: another capability has a larger share of the picks.",
        "",
        "| method | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        "| share of the pool | "
        + " | ".join(f"{pool['mix'][name]:.2f} ({pool['noise']:.3f})" for name in names)
        + " |",
    ]
    for label, found in one.items():
        stars = {name: "*" * (max(found[name]["mix"].values()) > found[name]["share"]) for name in names}
        cells = (f"{found[name]['share']:.2f}{stars[name]} ({found[name]['noise']:.3f})" for name in names)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += _enriched(one, pool["mix"])
    tables = {"All six as the target together": every} | ({"Without a target": rest} if rest else {})
    for title, results in tables.items():
        lines += ["", f"## {title}: the mix of the picks", ""]
        lines += [
            "| method | " + " | ".join(names) + " | entropy, of at most " + f"{math.log2(len(names)):.2f} bit | wrong |"
        ]
        lines += ["|---" * (len(names) + 3) + "|"]
        for label, found in {"the pool": pool, **results}.items():
            cells = " | ".join(f"{found['mix'][name]:.2f}" for name in names)
            lines.append(f"| {label} | {cells} | {found['entropy']:.2f} | {found['noise']:.3f} |")
    return [*lines, *_costs(bench, every, rest, rated)] if rest else lines


def _costs(bench: Bench, every: Any, rest: Any, rated: int) -> list[str]:
    lines = ["", "## What it costs on this pool and its targets", ""]
    lines += ["| method | passes | seconds of the passes | operations | seconds to select |", "|---|---|---|---|---|"]
    for label, found in {**rest, **{label: every[label] for label in every if label not in rest}}.items():
        needed = PASSES.get(label.split(",")[0] if label not in PASSES else label, ("base",))
        seconds = sum(bench.costs[name]["seconds"] for name in needed)
        flops = sum(bench.costs[name]["flops"] for name in needed)
        passes = ", ".join(needed) or "none"
        lines.append(f"| {label} | {passes} | {seconds:,.0f} | {flops:.2e} | {found['seconds']:.2f} |")
    if "selectit" not in rest:
        share, cost = len(bench.rows) / rated, bench.costs["ratings"]
        lines.append(
            f"| selectit | ratings of {rated} rows, scaled to all | {share * cost['seconds']:,.0f} | "
            f"{share * cost['flops']:.2e} | - |"
        )
    return lines


def _enriched(one: Any, pool: dict[str, float]) -> list[str]:
    """How much larger the target's capability is among the picks than in the pool."""
    lines = ["", "## One capability as the target: its share of the picks over its share of the pool", ""]
    lines += ["A star: another capability is enriched more.", ""]
    lines += ["| method | " + " | ".join(pool) + " |", "|---" * (len(pool) + 1) + "|"]
    for label, found in one.items():
        cells = []
        for name in pool:
            ratios = {other: share / pool[other] for other, share in found[name]["mix"].items()}
            cells.append(f"{ratios[name]:.1f}{'*' * (max(ratios.values()) > ratios[name])}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _say(name: str) -> Callable[[str, int, int, int], None]:
    last = [0.0]

    def say(stage: str, rows: int, tokens: int, total: int) -> None:
        if time.monotonic() - last[0] > 30:
            last[0] = time.monotonic()
            print(f"{name}: {stage} {rows} rows, {tokens} of {total} tokens", flush=True)

    return say


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
