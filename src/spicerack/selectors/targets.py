"""The target of a selection: rows of what the model should do, their subtasks, and their like at every checkpoint.

A target may be rows in memory, a gradient store, or several of either by name. What its rows are compared with is the
pool's, so both must come from the same model, tracked weights and projection: where stores say, that is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spicerack.errors import ConfigurationError, GradientError, StoreMismatchError
from spicerack.selectors.base import CheckpointRows, Selector
from spicerack.selectors.rows import Rows
from spicerack.store.settings import flatten, shorten

COMPARED = ("model", "tracked", "projection", "reduction")
"""Settings of a store that pool and target must share; those of the labels and batches may differ."""


def read_target(
    selector: Selector, rows: Rows, target: Any, target_groups: Sequence[Any] | str | None
) -> tuple[Rows | None, tuple[str, ...] | None]:
    """Target rows and the group of each: given labels, or names of the targets, or a column of theirs."""
    needs = selector.needs
    require_target(selector, target is not None, target_groups is not None)
    if target is None:
        return None, None
    for value in target.values() if isinstance(target, Mapping) else [target]:
        _refuse_file(value)
    named = (
        {str(name): Rows(value, what=f"target {name!r}") for name, value in target.items()}
        if isinstance(target, Mapping)
        else {"": Rows(target, what="target")}
    )
    if not named:
        raise ConfigurationError("target is an empty mapping; give rows for each name")
    if needs.arrays and "gradient" not in needs.arrays:  # what is compared are features
        rows = rows.array(needs.arrays[0])
        named = {name: part.array(needs.arrays[0]) for name, part in named.items()}
    if needs.arrays:
        for name, part in named.items():
            _check_alike(rows, part, name)
    goal = Rows.joined(named) if isinstance(target, Mapping) else named[""]
    if goal.k != rows.k:
        raise GradientError(f"target rows have {goal.k} dimensions, the gradients {rows.k}; project both alike")
    for name, part in named.items():
        if not part.included.any():
            of = f" of {name!r}" if name else ""
            raise GradientError(f"none of the {part.n} target rows{of} can be used: {reasons(part.excluded)}")
    return goal, _labels(named, goal, target_groups)


def require_target(selector: Selector, given: bool, grouped: bool) -> None:
    """Refuse a target, or groups of its rows, that the method does not read, and the lack of a target that it needs.

    Raises:
        ConfigurationError: either of them; says which option to add or leave out.
    """
    if not given and selector.needs.target == "required":
        raise ConfigurationError(
            f"method {selector.name!r} needs a target, rows of what the model should do: give target= (--target)"
        )
    if given and selector.needs.target == "no":
        raise ConfigurationError(f"method {selector.name!r} reads no target; leave it out")
    if grouped and not given:
        raise ConfigurationError("target_groups (--subtask-column) labels the rows of a target, and there is no target")
    if grouped and not selector.needs.target_groups:
        raise ConfigurationError(
            f"method {selector.name!r} reads no target_groups (--subtask-column): it has no use for subtasks; leave "
            "them out"
        )


def read_checkpoints(rows: Rows, target: Rows | None) -> tuple[CheckpointRows, ...]:
    """Every checkpoint's rows of the pool and of the target; the target's store must hold the same checkpoints."""
    members = [] if rows.store is None else list(rows.store.checkpoints)
    if len(members) < 2:
        held = () if target is None or target.store is None else target.store.checkpoints
        if members and len(held) > 1:
            names = ", ".join(checkpoint.name for checkpoint in held)
            raise ConfigurationError(
                f"the pool's store is of one checkpoint, the target's of {names}; take the gradients of pool and "
                "target at the same checkpoints"
            )
        return (CheckpointRows(members[0].name if members else "checkpoint-0", 1.0, rows, target),)
    found = []
    for member in members:
        goal = None if target is None else target.of_checkpoint(member.name)
        own = rows if member is members[-1] else Rows(member.store)
        found.append(CheckpointRows(member.name, float(member.weight), own, goal))
    return tuple(found)


def reasons(excluded: Sequence[tuple[int, str]]) -> str:
    """Why rows are excluded, counted."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reason for _, reason in excluded).items())


def _labels(named: Mapping[str, Rows], goal: Rows, target_groups: Sequence[Any] | str | None) -> tuple[str, ...] | None:
    if target_groups is None:
        return None if "" in named else tuple(name for name, rows in named.items() for _ in range(rows.n))
    if not isinstance(target_groups, str):
        if len(target_groups) != goal.n:
            raise ConfigurationError(f"target_groups has {len(target_groups)} labels for {goal.n} target rows")
        return tuple(str(group) for group in target_groups)
    labels: list[str] = []
    for name, rows in named.items():
        values = [str(value) for value in rows.label(target_groups)]
        labels += [f"{name}/{value}" if name else value for value in values]
    return tuple(labels)


def _refuse_file(target: Any) -> None:
    if isinstance(target, (str, Path)) and Path(target).is_file():
        raise ConfigurationError(
            f"target {target} is a data file; take its gradients with the pool's model and projection first "
            "(spicerack.collect_gradients), or let spicerack.run take both"
        )


def _check_alike(rows: Rows, target: Rows, name: str) -> None:
    """Refuse a target's store whose rows mean something else than the pool's, naming every setting with both values."""
    if rows.store is None or target.store is None:
        return
    ours, theirs = (
        flatten({key: value for key in COMPARED if (value := side.settings.get(key)) is not None})
        for side in (rows, target)
    )
    differing = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    if differing:
        values = "; ".join(f"{key} is {shorten(theirs[key])}, the pool's {shorten(ours[key])}" for key in differing)
        of = f"target {name!r}" if name else "the target"
        raise StoreMismatchError(
            f"{of} ({target.store.path}) was made with other settings: {values}; make it with the pool's"
        )
