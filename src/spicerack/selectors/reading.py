"""What a caller of `select` gives, checked and turned into a `Problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spicerack.config import Choice
from spicerack.errors import BudgetError, ConfigurationError, GradientError, UnknownNameError
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.selectors.base import CheckpointRows, Problem, Selector
from spicerack.selectors.budget import BudgetLike, TokenBudget, parse_budget, resolve
from spicerack.selectors.dedup import NEAR_DUPLICATE, check_dedup, find_near_duplicates
from spicerack.selectors.grouping import read_groups
from spicerack.selectors.quotas import PROPORTIONAL, QuotaLike, read_quotas
from spicerack.selectors.rows import Rows
from spicerack.selectors.targets import read_checkpoints, read_target, reasons
from spicerack.selectors.trim import OPTIONS, Cut, Trim

BY_CALLER = "excluded by the caller"
OF_THE_POOL = ("quotas", "groups", "include", "exclude", "dedup", *OPTIONS)
"""What may be picked, whatever the method: options of `select` that the configuration's section has too."""


class Labeled(Protocol):
    """What a choice of rows is checked against: `Rows`, or what is known of them before a pass."""

    n: int

    @property
    def store(self) -> Any:
        """Where ids and sources are from; None where there are none."""

    @property
    def included(self) -> BoolArray:
        """Mask of the rows that may be picked, (n,)."""

    @property
    def excluded(self) -> list[tuple[int, str]]:
        """The others, each with its reason."""

    def label(self, name: str) -> npt.NDArray[Any]:
        """A column as it is, (n,), text included."""

    def tokens(self) -> IntArray:
        """Tokens of each row, (n,)."""


def read_problem(
    selector: Selector,
    gradients: Any,
    budget: BudgetLike,
    target: Any,
    *,
    target_groups: Sequence[Any] | str | None,
    seed: int,
    tokens: Any,
    columns: Mapping[str, Any] | None,
    quotas: str | Mapping[str, QuotaLike] | None,
    groups: Sequence[Any] | str | None,
    include: Sequence[int | str],
    exclude: Sequence[int | str],
    dedup: float | None,
    trim: Trim,
) -> Problem:
    """The problem that `spicerack.select` was given; see there for the arguments and errors."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigurationError(f"seed={seed!r}, expected a whole number of at least 0")
    rows = Rows(gradients)
    goal, labels = read_target(selector, rows, target, target_groups)
    checkpoints = read_checkpoints(rows, goal) if "gradient" in selector.needs.arrays else ()
    earlier = lost_before(checkpoints) if selector.needs.checkpoints == "all" else []
    eligible, forced = read_fixed(rows, include, exclude, unusable=earlier)
    excluded = [*rows.excluded, *earlier]
    left = eligible.copy()
    left[[i for i, _ in excluded]] = True
    excluded += [(int(i), BY_CALLER) for i in np.flatnonzero(~left)]
    check_groups(quotas, groups)
    numbers = read_columns(rows, columns)
    before = eligible.copy()
    reasons_left, told, cut = leave_out(rows, eligible, forced, numbers, dedup, trim)
    excluded += reasons_left
    counts = read_tokens(rows, tokens, eligible, budget)
    resolved = resolve(budget, eligible, counts, before=before)
    asked = None if resolved.share is None else round(resolved.share * np.count_nonzero(before))
    if asked is not None and resolved.count == np.count_nonzero(eligible) < asked:
        told.append(Choice("picked", resolved.count, f"all rows that are left; the budget asks for {asked}"))
    problem = Problem(
        rows=rows,
        budget=resolved,
        eligible=eligible,
        tokens=counts,
        target=goal,
        target_groups=labels,
        seed=int(seed),
        checkpoints=checkpoints,
        columns=numbers,
        quotas=None if quotas is None else read_quotas(quotas, read_groups(rows, groups), eligible, resolved.count),
        forced=tuple(forced),
        excluded=tuple(sorted(excluded)),
        choices=told,
        cut=cut,
    )
    problem.room().take_forced()  # what cannot be met is known before any work
    return problem


def leave_out(
    rows: Rows,
    eligible: BoolArray,
    forced: Sequence[int],
    numbers: Mapping[str, FloatArray],
    dedup: float | None,
    trim: Trim,
) -> tuple[list[tuple[int, str]], list[Choice], Cut]:
    """Take near-duplicates, then what a trim cuts, off the rows that may be picked; a forced row stays.

    Returns:
        The rows that are left out, each with its reason; what is told of it; the cut.

    Raises:
        ConfigurationError: an option out of its range, a column that is not there, or no row is left.
    """
    check_dedup(dedup)
    out: list[tuple[int, str]] = []
    told: list[Choice] = []
    values = (numbers[trim.column] if trim.column in numbers else rows.column(trim.column)) if trim else None
    if dedup is not None:
        copies, choice = find_near_duplicates(rows, dedup, eligible, forced, values)
        eligible[copies] = False
        out += [(int(i), NEAR_DUPLICATE) for i in copies]
        told.append(choice)
    cut = Cut(trim, rows, values, eligible, forced)
    eligible[cut.rows] = False
    if cut.rows.size and not eligible.any():
        name, reason = cut.choices[0].name, cut.choices[0].reason
        copies_too = f", {len(out)} more are near-duplicates" if out else ""
        raise ConfigurationError(f"{name} leaves no row: {reason}{copies_too}; give another {name}")
    return [*out, *((int(i), trim.reason) for i in cut.rows)], [*told, *cut.choices], cut


def lost_before(checkpoints: Sequence[CheckpointRows]) -> list[tuple[int, str]]:
    """Rows that an earlier checkpoint has no use of, though the last one has, each with the first reason."""
    found: dict[int, str] = {}
    for checkpoint in checkpoints[:-1]:
        for i, reason in checkpoint.rows.excluded:
            found.setdefault(i, f"{reason} at {checkpoint.name}")
    last = {i for i, _ in checkpoints[-1].rows.excluded} if checkpoints else set()
    return sorted((i, reason) for i, reason in found.items() if i not in last)


def read_fixed(
    rows: Labeled,
    include: Sequence[int | str],
    exclude: Sequence[int | str],
    *,
    unusable: Sequence[tuple[int, str]] = (),
) -> tuple[BoolArray, list[int]]:
    """Rows that may be picked, (n,), and those that are picked first, in the order given.

    Args:
        rows: the pool's.
        include: as for `select`.
        exclude: as for `select`.
        unusable: rows that cannot be picked beside those of `rows.excluded`, each with its reason.

    Raises:
        GradientError: no row is left.
        BudgetError: a row is forced in that cannot be picked.
    """
    eligible, never = rows.included.copy(), [*rows.excluded, *unusable]
    eligible[[i for i, _ in unusable]] = False
    if not eligible.any():
        raise GradientError(f"none of the {rows.n} rows can be picked: {reasons(never)}")
    forbidden = read_rows(rows, exclude, "exclude")
    eligible[forbidden] = False
    if not eligible.any():
        raise GradientError(f"exclude leaves none of the {rows.n} rows")
    forced = read_rows(rows, include, "include")
    for i in forced:
        if not eligible[i]:
            why = "it is also excluded" if i in forbidden else dict(never)[i]
            raise BudgetError(f"row {i} is forced in, but cannot be picked: {why}")
    return eligible, forced


def check_groups(quotas: Any, groups: Any) -> None:
    """Refuse groups that nothing is done with."""
    if quotas is None and groups is not None:
        raise ConfigurationError(f"groups label the rows for quotas, and there are none; give quotas={PROPORTIONAL!r}")


def read_columns(rows: Rows, columns: Mapping[str, Any] | None) -> dict[str, FloatArray]:
    """Columns given by the caller, each (n,) numbers."""
    read = {}
    for name, values in (columns or {}).items():
        array = np.asarray(values)
        if array.shape != (rows.n,) or array.dtype.kind not in "fiub":
            raise ConfigurationError(
                f"column {name!r} has shape {array.shape} and dtype {array.dtype}, expected {rows.n} numbers"
            )
        read[name] = array.astype(np.float64)
    return read


def read_rows(rows: Labeled, given: Sequence[int | str], what: str) -> list[int]:
    """Row numbers from row numbers or sample ids, each once, in the order given."""
    ids: dict[str, int] | None = None
    found: list[int] = []
    for item in given:
        if isinstance(item, str):
            if rows.store is None:
                raise ConfigurationError(f"{what} names sample {item!r}, and an array has no ids; give row numbers")
            ids = ids if ids is not None else {str(name): i for i, name in enumerate(rows.label("id"))}
            if item not in ids:
                raise UnknownNameError(f"{what}: sample", item, list(ids))
            found.append(ids[item])
        elif isinstance(item, bool) or not isinstance(item, (int, np.integer)) or not 0 <= item < rows.n:
            raise ConfigurationError(f"{what} names row {item!r}; expected a row number from 0 to {rows.n - 1}")
        else:
            found.append(int(item))
    return list(dict.fromkeys(found))


def read_tokens(rows: Labeled, tokens: Any, eligible: BoolArray, budget: BudgetLike) -> IntArray | None:
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
