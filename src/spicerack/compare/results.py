"""What a comparison found: cells put together to a summary of every method at every budget, and their overlaps.

It is what `results.json` holds, and what the page is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from spicerack.compare.intervals import Bootstrap, Losses
from spicerack.compare.outcomes import Outcome
from spicerack.selectors.budget import order_by_size

RESULTS_FILE = "results.json"
CONTROL = "random"


def summarize(
    outcomes: Sequence[Outcome], pool: Mapping[str, Any], bootstrap: Bootstrap, *, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        outcomes: the cells, in the order of the plan.
        pool: facts of all its rows.
        bootstrap: of the intervals.
        about: settings, costs and choices, put in as they are.
    """
    series: dict[tuple[str, str | None], list[Outcome]] = {}
    for outcome in outcomes:
        series.setdefault(outcome.cell.series, []).append(outcome)
    series = _in_order(series, pool["samples"])
    losses = {key: _losses(members) for key, members in series.items()}
    controls = {
        budget: losses[label, budget]
        for (label, budget), members in series.items()
        if members[0].cell.method.name == CONTROL and not members[0].cell.method.options
    }
    summary = []
    for (label, budget), members in series.items():
        own, control = losses[label, budget], controls.get(budget)
        summary.append({**_series(members, own, bootstrap), "versus_random": _against(own, control, bootstrap)})
    return {
        **about,
        "pool": dict(pool),
        "cells": [{**outcome.result, "selection": dict(outcome.selection)} for outcome in outcomes],
        "summary": summary,
        "overlap": overlaps(series),
    }


def _in_order(
    series: Mapping[tuple[str, str | None], list[Outcome]], rows: int
) -> dict[tuple[str, str | None], list[Outcome]]:
    """From the smallest budget, methods as they come; the controls last."""
    kinds = order_by_size({budget for _, budget in series if budget is not None}, rows)
    order = [*(budget for kind in kinds for budget in kind), None]
    return {key: series[key] for budget in order for key in series if key[1] == budget}


def overlaps(series: Mapping[tuple[str, str | None], Sequence[Outcome]]) -> dict[str, dict[str, Any]]:
    """For every budget the mean of the Jaccard index of two methods' picks, over the seeds that both have; of a method
    with itself over pairs of its own seeds.
    """
    found: dict[str, dict[str, Any]] = {}
    for budget in dict.fromkeys(budget for _, budget in series if budget is not None):
        labels = [label for label, other in series if other == budget]
        picks = [{outcome.cell.seed: outcome.picks for outcome in series[label, budget]} for label in labels]
        matrix = [
            [_mean_jaccard(picks[i], picks[j], same=i == j) for j in range(len(labels))] for i in range(len(labels))
        ]
        found[budget] = {"labels": labels, "jaccard": matrix}
    return found


def _against(own: Losses, control: Losses | None, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """The difference from random with its interval, and the fewest seeds that either has."""
    if control is None or control is own:
        return None
    return {**asdict(bootstrap.difference(own, control)), "seeds": min(len(own.values), len(control.values))}


def _losses(members: Sequence[Outcome]) -> Losses:
    """Every seed's losses beside each other; the rows and their groups are the same in all cells."""
    values = np.stack([outcome.losses for outcome in members])
    if members[0].groups is None:
        return Losses(values, [np.arange(values.shape[1])])
    groups = np.asarray(members[0].groups, dtype=object)
    return Losses(values, [np.flatnonzero(groups == name) for name in sorted(set(groups.tolist()))])


def _series(members: Sequence[Outcome], losses: Losses, bootstrap: Bootstrap) -> dict[str, Any]:
    cell = members[0].cell
    picked = [outcome.selection for outcome in members]
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
        "selection_seconds": _mean([one["seconds"] for one in picked]),
        "training_seconds": _mean([training["seconds"] for training in trainings]),
        "training_tokens": _mean([training["tokens"] for training in trainings]),
        "steps": _mean([training["steps"] for training in trainings]),
    }


def _groups(members: Sequence[Outcome]) -> list[str]:
    return sorted(members[0].result["groups"])


def _mean(values: Sequence[float | None]) -> float | None:
    present = [float(value) for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _mean_jaccard(first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray], *, same: bool) -> float | None:
    if same:
        pairs = list(combinations(first.values(), 2))
    else:
        pairs = [(picks, second[seed]) for seed, picks in first.items() if seed in second]
    return _mean([len(np.intersect1d(a, b)) / len(np.union1d(a, b)) for a, b in pairs])
