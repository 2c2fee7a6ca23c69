"""What a comparison found: cells put together to a summary of every method at every budget, and their overlaps.

results.json       everything: settings, cells, summaries, overlaps, costs; what the page is made of
results.parquet    a row a cell
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.compare.bench import SAMPLES
from spicerack.compare.intervals import Bootstrap, Losses
from spicerack.compare.plan import Cell
from spicerack.errors import DataError
from spicerack.store.files import write_atomically, write_json
from spicerack.store.read_back import read_table

if TYPE_CHECKING:
    from spicerack.compare.selections import Picked
    from spicerack.data.records import Pool
    from spicerack.store.reader import GradientStore

RESULTS_FILE, TABLE_FILE = "results.json", "results.parquet"
CONTROL = "random"
FALSE = ("", "0", "false", "no", "none")


@dataclass(frozen=True)
class Outcome:
    """A finished cell: what it trained on and what it found."""

    cell: Cell
    picked: Picked
    result: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class PoolFacts:
    """What is known of every pool row: source, tokens, trained tokens, and the flag, None where none was named."""

    sources: np.ndarray
    tokens: np.ndarray
    trained_tokens: np.ndarray
    flagged: np.ndarray | None

    @classmethod
    def of(cls, pool: Pool, store: GradientStore, flag_column: str | None) -> PoolFacts:
        """Read them.

        Raises:
            DataError: no row has the flag's column.
        """
        flagged = None if flag_column is None else read_flags(pool, flag_column)
        sources = np.asarray(pool.sources, dtype=object)
        return cls(sources, store.column("tokens"), store.column("trained_tokens"), flagged)

    def of_rows(self, rows: np.ndarray) -> dict[str, Any]:
        """What the table says of some rows."""
        return {
            "samples": len(rows),
            "tokens": int(self.tokens[rows].sum()),
            "trained_tokens": int(self.trained_tokens[rows].sum()),
            "flagged": None if self.flagged is None or not len(rows) else float(self.flagged[rows].mean()),
            "mix": dict(sorted(Counter(map(str, self.sources[rows])).items())),
        }


def read_flags(pool: Pool, column: str) -> np.ndarray:
    """Which rows a column marks, (n,) bool: neither absent, nor zero, nor empty, nor the words false and no.

    Raises:
        DataError: no row has the column.
    """
    values = [pool.source[i].get(column) for i in range(len(pool))]
    if all(value is None for value in values):
        found = ", ".join(map(str, pool.source[0]))
        raise DataError(f"no row of {pool.source.name} has the column {column!r} of --flag-column; found {found}")
    return np.array([value is not None and str(value).strip().lower() not in FALSE for value in values])


def summarize(
    outcomes: Sequence[Outcome], facts: PoolFacts, bootstrap: Bootstrap, *, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        outcomes: the cells, in the order of the plan.
        facts: of the pool's rows.
        bootstrap: of the intervals.
        about: settings, costs and choices, put in as they are.
    """
    everything = facts.of_rows(np.arange(len(facts.sources)))
    series: dict[tuple[str, str | None], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        series.setdefault((cell.method.label, cell.budget.given if cell.budget else None), []).append(outcome)
    losses = {key: _losses(members) for key, members in series.items()}
    controls = {
        budget: losses[label, budget]
        for (label, budget), members in series.items()
        if members[0].cell.method.name == CONTROL and not members[0].cell.method.options
    }
    summary = []
    for (label, budget), members in series.items():
        own, control = losses[label, budget], controls.get(budget)
        against = None if control is None or control is own else asdict(bootstrap.difference(own, control))
        summary.append({**_series(members, own, facts, bootstrap), "versus_random": against})
    return {
        **about,
        "pool": everything,
        "cells": [_cell(outcome, facts) for outcome in outcomes],
        "summary": summary,
        "overlap": overlaps(series),
    }


def overlaps(series: Mapping[tuple[str, str | None], Sequence[Outcome]]) -> dict[str, dict[str, Any]]:
    """For every budget the mean over seeds of the Jaccard index of two methods' picks; a method with itself: over
    pairs of its own seeds.
    """
    found: dict[str, dict[str, Any]] = {}
    for budget in dict.fromkeys(budget for _, budget in series if budget is not None):
        labels = [label for label, other in series if other == budget]
        picks = [[outcome.picked.indices for outcome in series[label, budget]] for label in labels]
        matrix = [
            [_mean_jaccard(picks[i], picks[j], same=i == j) for j in range(len(labels))] for i in range(len(labels))
        ]
        found[budget] = {"labels": labels, "jaccard": matrix}
    return found


def write_results(folder: Path, results: Mapping[str, Any]) -> dict[str, Path]:
    """Write both files."""
    paths = {name: folder / name for name in (RESULTS_FILE, TABLE_FILE)}
    table = pa.Table.from_pylist([_flat(cell) for cell in results["cells"]])
    write_atomically(paths[TABLE_FILE], lambda file: pq.write_table(table, file))
    write_json(paths[RESULTS_FILE], results)
    return paths


def _losses(members: Sequence[Outcome]) -> Losses:
    """Every seed's losses beside each other; the rows and their groups are the same in all cells."""
    remedy = "delete the cell's folder, and compare again: that cell alone is run anew"
    tables = [read_table(outcome.folder / SAMPLES, remedy) for outcome in members]
    values = np.stack([table.column("loss").to_numpy() for table in tables])
    if "group" not in tables[0].column_names:
        return Losses(values, [np.arange(values.shape[1])])
    groups = np.asarray(tables[0].column("group").to_pylist(), dtype=object)
    return Losses(values, [np.flatnonzero(groups == name) for name in sorted(set(groups.tolist()))])


def _series(members: Sequence[Outcome], losses: Losses, facts: PoolFacts, bootstrap: Bootstrap) -> dict[str, Any]:
    cell = members[0].cell
    picked = [facts.of_rows(outcome.picked.indices) for outcome in members]
    trainings = [outcome.result["training"] for outcome in members if outcome.result["training"] is not None]
    groups = {name: _mean([outcome.result["groups"][name] for outcome in members]) for name in _groups(members)}
    sources = sorted({name for one in picked for name in one["mix"]})
    return {
        "label": cell.method.label,
        "method": cell.method.name,
        "budget": cell.budget.given if cell.budget else None,
        "seeds": len(members),
        "loss": asdict(bootstrap.interval(losses)),
        "spread": losses.spread,
        "per_seed": losses.per_seed.tolist(),
        "groups": groups,
        "exact_match": _mean([outcome.result["exact_match"] for outcome in members]),
        "samples": _mean([one["samples"] for one in picked]),
        "tokens": _mean([one["tokens"] for one in picked]),
        "trained_tokens": _mean([one["trained_tokens"] for one in picked]),
        "flagged": _mean([one["flagged"] for one in picked]),
        "mix": {name: _mean([one["mix"].get(name, 0) for one in picked]) for name in sources},
        "selection_seconds": _mean([outcome.picked.seconds for outcome in members]),
        "training_seconds": _mean([training["seconds"] for training in trainings]),
        "training_tokens": _mean([training["tokens"] for training in trainings]),
        "steps": _mean([training["steps"] for training in trainings]),
    }


def _groups(members: Sequence[Outcome]) -> list[str]:
    return sorted(members[0].result["groups"])


def _cell(outcome: Outcome, facts: PoolFacts) -> dict[str, Any]:
    return {
        **outcome.result,
        "selection": {**facts.of_rows(outcome.picked.indices), "seconds": outcome.picked.seconds},
    }


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as a row of the table: groups and training in columns of their own."""
    selection, training = cell["selection"], cell["training"] or {}
    row = {name: cell[name] for name in ("label", "method", "budget", "seed", "loss", "exact_match")}
    row |= {name: selection[name] for name in ("samples", "tokens", "trained_tokens", "flagged")}
    row |= {"selection_seconds": selection["seconds"], "training_seconds": training.get("seconds")}
    row |= {"training_tokens": training.get("tokens"), "steps": training.get("steps")}
    return row | {f"loss of {name}": value for name, value in cell["groups"].items()}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [float(value) for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _mean_jaccard(first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, same: bool) -> float | None:
    if same:
        pairs = [(a, b) for at, a in enumerate(first) for b in first[at + 1 :]]
    else:
        pairs = list(zip(first, second, strict=False))
    return _mean([len(np.intersect1d(a, b)) / len(np.union1d(a, b)) for a, b in pairs])
