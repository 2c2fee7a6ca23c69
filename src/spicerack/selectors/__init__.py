"""Selection methods on one footing: rows in, a `Selection` out."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from spicerack.config import Choice
from spicerack.errors import ConfigurationError, GradientError
from spicerack.information.matrix import BoolArray, IntArray
from spicerack.selectors.base import (
    EXCLUDED_DTYPE,
    MethodOptions,
    Needs,
    Picks,
    Problem,
    Selection,
    Selector,
    read_options,
)
from spicerack.selectors.budget import BudgetLike, ResolvedBudget, TokenBudget, parse_budget, resolve
from spicerack.selectors.registry import MethodInfo, get_selector, methods
from spicerack.selectors.rows import Rows

__all__ = [
    "Choice",
    "MethodInfo",
    "MethodOptions",
    "Needs",
    "Picks",
    "Problem",
    "ResolvedBudget",
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
    target_groups: Sequence[Any] | None = None,
    seed: int = 0,
    tokens: Any = None,
    **method_options: Any,
) -> Selection:
    """Pick the rows of a pool worth training on.

    Args:
        gradients: a `GradientStore`, the path of one, or an array or tensor (n, k).
        method: a name of `methods()`.
        budget: int: rows; float in (0, 1]: share of the rows that can be picked; `TokenBudget`; or text such as
            "10%", "500", "20k tokens".
        target: rows of what the model should do, like `gradients`, (m, k).
        target_groups: a label per target row, (m,), for methods that read them.
        seed: >= 0, of everything random.
        tokens: tokens per row, (n,), for a token budget over an array; default: the store's.
        method_options: the method's own options.

    Returns:
        The selection; its manifest holds every option and automatic choice.

    Raises:
        UnknownNameError: a method or option that does not exist.
        BudgetError: a budget that cannot be met.
        ConfigurationError: an option out of range, or a combination that means nothing.
        GradientError: rows that cannot be selected from.
        StoreError: a path without a finished store.
    """
    selector = get_selector(method)
    options = read_options(selector, method_options)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigurationError(f"seed={seed!r}, expected a whole number of at least 0")
    rows = Rows(gradients)
    goal, groups = _read_target(selector, rows, target, target_groups)
    eligible = rows.included
    if not eligible.any():
        raise GradientError(f"none of the {rows.n} rows can be picked: {_reasons(rows)}")
    counts = _read_tokens(rows, tokens, eligible, budget)
    problem = Problem(
        rows=rows,
        budget=resolve(budget, eligible, counts),
        eligible=eligible,
        tokens=counts,
        target=goal,
        target_groups=groups,
        seed=int(seed),
    )
    picks = selector.select(problem, options)
    excluded = np.array(rows.excluded, dtype=EXCLUDED_DTYPE).view(np.recarray)
    manifest = _manifest(selector, options, problem, picks)
    return Selection(picks.indices, picks.scores, picks.trace, picks.certificate, excluded, manifest)


def _read_target(
    selector: Selector, rows: Rows, target: Any, target_groups: Sequence[Any] | None
) -> tuple[Rows | None, tuple[str, ...] | None]:
    needs = selector.needs
    if target is None:
        if needs.target == "required":
            raise ConfigurationError(f"method {selector.name!r} needs a target: the rows of what the model should do")
        if target_groups is not None:
            raise ConfigurationError("target_groups labels the rows of a target, and there is no target")
        return None, None
    if needs.target == "no":
        raise ConfigurationError(f"method {selector.name!r} reads no target; leave it out")
    if target_groups is not None and not needs.target_groups:
        raise ConfigurationError(f"method {selector.name!r} reads no target_groups; leave them out")
    goal = Rows(target, what="target")
    if goal.k != rows.k:
        raise GradientError(f"target rows have {goal.k} dimensions, the gradients {rows.k}; project both alike")
    if not goal.included.any():
        raise GradientError(f"none of the {goal.n} target rows can be used: {_reasons(goal)}")
    if target_groups is None:
        return goal, None
    if len(target_groups) != goal.n:
        raise ConfigurationError(f"target_groups has {len(target_groups)} labels for {goal.n} target rows")
    return goal, tuple(str(group) for group in target_groups)


def _read_tokens(rows: Rows, tokens: Any, eligible: BoolArray, budget: BudgetLike) -> IntArray | None:
    """Token counts, where the budget counts tokens."""
    if not isinstance(parse_budget(budget), TokenBudget):
        return None
    counts = rows.tokens() if tokens is None else np.asarray(tokens)
    if counts.shape != (rows.n,) or counts.dtype.kind not in "iu":
        raise ConfigurationError(
            f"tokens has shape {counts.shape} and dtype {counts.dtype}, expected {rows.n} integers"
        )
    if (counts[eligible] < 0).any():
        raise ConfigurationError(
            f"row {int(np.flatnonzero(eligible & (counts < 0))[0])} has a negative number of tokens"
        )
    return counts.astype(np.int64)


def _manifest(selector: Selector, options: MethodOptions, problem: Problem, picks: Picks) -> dict[str, Any]:
    reasons = Counter(reason for _, reason in problem.rows.excluded)
    return {
        "method": selector.name,
        "budget": problem.budget.to_dict(),
        "seed": problem.seed,
        "options": {**options.model_dump(), **picks.resolved},
        "choices": [choice._asdict() for choice in problem.choices],
        "gradients": problem.rows.description(),
        "target": None if problem.target is None else problem.target.description(),
        "excluded_counts": dict(reasons),
        "versions": {
            "spicerack": version("spicerack"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _reasons(rows: Rows) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reason for _, reason in rows.excluded).items())
