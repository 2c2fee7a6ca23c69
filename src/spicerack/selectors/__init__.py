"""Selection methods on one footing: rows in, a `Selection` out."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.information.room import Quotas, Room
from spicerack.selectors.base import (
    EXCLUDED_DTYPE,
    CheckpointRows,
    MethodOptions,
    Needs,
    Picks,
    Problem,
    Selection,
    Selector,
    needs_of,
    read_options,
)
from spicerack.selectors.budget import BudgetLike, ResolvedBudget, TokenBudget, parse_budget
from spicerack.selectors.quotas import QuotaLike
from spicerack.selectors.reading import BY_CALLER, read_problem
from spicerack.selectors.registry import MethodInfo, get_selector, methods
from spicerack.selectors.rows import Rows
from spicerack.selectors.trim import Trim

__all__ = [
    "CheckpointRows",
    "Choice",
    "MethodInfo",
    "MethodOptions",
    "Needs",
    "Picks",
    "Problem",
    "Quotas",
    "ResolvedBudget",
    "Room",
    "Rows",
    "Selection",
    "Selector",
    "TokenBudget",
    "get_selector",
    "methods",
    "parse_budget",
    "select",
]


def select(
    gradients: Any,
    method: str = "spice",
    budget: BudgetLike = 0.1,
    target: Any = None,
    *,
    target_groups: Sequence[Any] | str | None = None,
    seed: int = 0,
    tokens: Any = None,
    columns: Mapping[str, Any] | None = None,
    quotas: str | Mapping[str, QuotaLike] | None = None,
    groups: Sequence[Any] | str | None = None,
    include: Sequence[int | str] = (),
    exclude: Sequence[int | str] = (),
    dedup: float | None = None,
    trim: float = 0.0,
    trim_above: float | None = None,
    trim_by: str | None = None,
    trim_groups: Sequence[Any] | str | None = None,
    **method_options: Any,
) -> Selection:
    """Pick the rows of a pool worth training on.

    Args:
        gradients: a `GradientStore`, the path of one, or an array or tensor (n, k).
        method: a name of `methods()`.
        budget: int: rows; float in (0, 1]: share of the rows that can be picked, before dedup and trim; `TokenBudget`;
            or text such as "10%", "500", "20k tokens".
        target: rows of what the model should do, like `gradients`, (m, k); or several by name.
        target_groups: a label per target row, (m,), or a column of the target's table, for methods that read subtasks;
            default: the names of the targets.
        seed: >= 0, of everything random.
        tokens: tokens per row, (n,), for a token budget over an array; default: the store's.
        columns: numbers per row, (n,) each, by name, in place of or beside those of the store's table.
        quotas: least and most picks of each group: "proportional", or group -> "10..50", "..30%", 20 or (least, most);
            "*" stands for the groups not named.
        groups: a label per row, (n,), or a column of the store's table; default: its `source`; or "clusters:12", so
            many clusters of the gradients' directions.
        include: rows that are picked first whatever their score, as numbers or sample ids.
        exclude: rows that are never picked, as numbers or sample ids.
        dedup: cosine in [0.5, 1] of gradients from which on two rows are near-duplicates: of such rows one stays, that
            of the lowest value of a trim's column, else the first; the others are never picked, nor counted in the
            pool as its own target (after SemDeDup, Abbas et al. 2023, which compares embeddings).
        trim: share in [0, 1) of each group that is never picked: its rows of the highest loss (the column `loss_mean`).
        trim_above: instead of a share: rows whose value is above this are never picked, whatever their group.
        trim_by: another column of numbers whose highest values are trimmed, as in `mismatch`; rows without one stay.
        trim_groups: as groups: a share is cut of each, and the rows that stay of one stand for all of it in the pool as
            its own target; default "clusters:12".
        method_options: the method's own options.

    Returns:
        The selection; its manifest holds every option and automatic choice.

    Raises:
        UnknownNameError: a method, option, group or sample that does not exist.
        BudgetError: a budget or quotas that cannot be met.
        ConfigurationError: an option out of range, or a combination that means nothing.
        GradientError: rows that cannot be selected from.
        StoreError: a path without a finished store.
    """
    selector = get_selector(method)
    options = read_options(selector, method_options)
    problem = read_problem(
        selector,
        gradients,
        budget,
        target,
        target_groups=target_groups,
        seed=seed,
        tokens=tokens,
        columns=columns,
        quotas=quotas,
        groups=groups,
        include=include,
        exclude=exclude,
        dedup=dedup,
        trim=Trim(trim, trim_above, trim_by, trim_groups),
    )
    for name in needs_of(selector, options).read_arrays:
        problem.rows.array(name)  # a store without it is refused, and no other array stands in for it
    picks = selector.select(problem, options)
    excluded = np.array(list(problem.excluded), dtype=EXCLUDED_DTYPE).view(np.recarray)
    manifest = _manifest(selector, options, problem, picks)
    return Selection(picks.indices, picks.scores, picks.trace, picks.certificate, excluded, manifest)


def _manifest(selector: Selector, options: MethodOptions, problem: Problem, picks: Picks) -> dict[str, Any]:
    reasons = Counter(reason for _, reason in problem.excluded)
    return {
        "method": selector.name,
        "budget": problem.budget.to_dict(),
        "seed": problem.seed,
        "options": {**options.model_dump(), **picks.resolved},
        "findings": dict(picks.findings),
        "choices": [choice._asdict() for choice in problem.choices],
        "gradients": problem.rows.description(),
        "quotas": _quotas(problem),
        "include": list(problem.forced),
        "excluded_by_caller": reasons[BY_CALLER],
        "target": None if problem.target is None else problem.target.description(),
        "excluded_counts": dict(reasons),
        "versions": {
            "spicerack": version("spicerack"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _quotas(problem: Problem) -> dict[str, list[int]] | None:
    """Least and most of each group, as counted."""
    quotas = problem.quotas
    if quotas is None:
        return None
    both = zip(quotas.names, quotas.least.tolist(), quotas.most.tolist(), strict=True)
    return {name: [least, most] for name, least, most in both}
