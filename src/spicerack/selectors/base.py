"""What a selector is, what it sees, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from spicerack.config import Choice
from spicerack.errors import ConfigurationError, UnknownNameError
from spicerack.information.certificate import Certificate
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.room import Quotas, Room
from spicerack.selectors.budget import ResolvedBudget
from spicerack.selectors.rows import Rows
from spicerack.selectors.trim import Cut

EXCLUDED_DTYPE = np.dtype([("index", np.int64), ("reason", object)])
"""Columns of `Selection.excluded`."""


class MethodOptions(BaseModel):
    """Base of every method's options: frozen, finite numbers, unknown names forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Needs:
    """What a method reads.

    Attributes:
        gradients: whether it reads the rows at all (else their number is enough).
        target: whether target rows are required, optional or of no use to it.
        target_groups: whether it reads a label per target row.
        arrays: arrays of the store that it reads with its default options.
        columns: columns of the store's table that it reads with its default options.
        checkpoints: whether it reads the last checkpoint of the model, or all that the store holds.
        cost: what a user pays for what it reads, in words.
    """

    gradients: bool = True
    target: Literal["no", "optional", "required"] = "no"
    target_groups: bool = False
    arrays: tuple[str, ...] = ("gradient",)
    columns: tuple[str, ...] = ()
    checkpoints: Literal["last", "all"] = "last"
    cost: str = "one gradient pass"

    @property
    def read_arrays(self) -> tuple[str, ...]:
        """The arrays; without the gradient where the rows are not read at all."""
        return tuple(name for name in self.arrays if self.gradients or name != "gradient")


@dataclass(frozen=True)
class CheckpointRows:
    """One checkpoint of the model: its name, its weight (all sum to 1), the pool's rows (n, k), the target's (m, k)."""

    name: str
    weight: float
    rows: Rows
    target: Rows | None


@dataclass(frozen=True)
class Problem:
    """What a selector sees.

    Attributes:
        rows: the pool's rows (n, k), of the last checkpoint.
        budget: what may be picked.
        eligible: rows that may be picked, (n,); at least one.
        tokens: tokens of each row, (n,), or None.
        target: target rows (m, k), or None.
        target_groups: a label per target row (m,), or None.
        seed: of everything random.
        checkpoints: the model's checkpoints, at least one; the last one's rows are `rows` and `target`.
        columns: columns given by the caller, by name, each (n,).
        quotas: least and most rows of each group, or None.
        forced: rows that come first, in this order.
        excluded: rows that are not eligible, ascending, each with its reason.
        choices: where the selector records its automatic choices.
        cut: the trim that left rows out, or None.
    """

    rows: Rows
    budget: ResolvedBudget
    eligible: BoolArray
    tokens: IntArray | None = None
    target: Rows | None = None
    target_groups: tuple[str, ...] | None = None
    seed: int = 0
    checkpoints: tuple[CheckpointRows, ...] = ()
    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    quotas: Quotas | None = None
    forced: tuple[int, ...] = ()
    excluded: tuple[tuple[int, str], ...] = ()
    choices: list[Choice] = field(default_factory=list)
    cut: Cut | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints:
            only = CheckpointRows("checkpoint-0", 1.0, self.rows, self.target)
            object.__setattr__(self, "checkpoints", (only,))

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Names of the target's subtasks, sorted; `()` where there is no target."""
        return subtask_names(self.target is not None, self.target_groups)

    def standing(self) -> FloatArray:
        """For how many rows of the pool each that may be picked stands, (n,): 1 but for a trim; 0 for the others."""
        return self.eligible.astype(np.float64) if self.cut is None else self.cut.standing(self.eligible)

    def room(self) -> Room:
        """What may be picked: none taken yet, the forced rows listed."""
        return Room(
            self.eligible,
            count=self.budget.count,
            capacity=self.budget.tokens,
            tokens=self.tokens,
            quotas=self.quotas,
            forced=self.forced,
        )

    def column(self, name: str) -> FloatArray:
        """A column of the pool's table, (n,) float64.

        Raises:
            ConfigurationError: neither the caller nor the store has it.
        """
        if name in self.columns:
            return self.columns[name]
        return self.rows.column(name)

    def choose(self, name: str, value: Any, reason: str) -> None:
        """Record an automatic choice; the caller prints it once, the manifest keeps it."""
        self.choices.append(Choice(name, value, reason))


@dataclass(frozen=True)
class Picks:
    """What a selector returns.

    Attributes:
        indices: rows in the order picked, (s,) int64.
        scores: the method's value of every row, higher is better, NaN where it has none, (n,) float64.
        trace: one row a pick, float64 columns that the method names, (s,).
        certificate: how good the set is, where the method has a bound.
        resolved: options whose resolved value differs from what was given ("auto").
        findings: what the method has to report beside its picks, JSON values; kept in the manifest.
    """

    indices: IntArray
    scores: FloatArray
    trace: npt.NDArray[Any]
    certificate: Certificate | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    findings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Selection:
    """The outcome of `spicerack.select`.

    Attributes:
        indices: pool rows in the order picked, (s,) int64.
        scores: the method's value of every row, higher is better, NaN where it has none, (n,) float64.
        trace: one row a pick, read by column: `trace["gain"]` is (s,) float64.
        certificate: how good the set is, or None.
        excluded: rows that could not be picked, columns `index` (int64) and `reason` (str).
        manifest: every option with its resolved value, the automatic choices, fingerprints, versions, seed.
    """

    indices: IntArray
    scores: FloatArray
    trace: npt.NDArray[Any]
    certificate: Certificate | None
    excluded: np.recarray[Any, Any]
    manifest: dict[str, Any]

    def __repr__(self) -> str:
        method, picked, n = self.manifest["method"], self.indices.size, self.scores.size
        share = math.floor(1000 * self.certificate.share) / 1000 if self.certificate else 0.0
        certified = f", share>={share:.3f}" if self.certificate else ""
        return f"Selection(method={method!r}, picked={picked} of {n}, excluded={self.excluded.size}{certified})"


class Selector(Protocol):
    """A selection method. Its module is loaded when its name is asked for.

    A method whose options change what it reads may also have `needs_with(options) -> Needs`; see `needs_of`. What one
    refuses may be known before any pass. `check_target(options, subtasks)` is called with the names of the target's
    subtasks, `()` where there is no target; `check_room(options, room)` with what may be picked, as far as the pool
    tells. Both are called again, or their like, by `select`.
    """

    name: str
    summary: str
    paper: str
    needs: Needs
    Options: type[MethodOptions]

    def select(self, problem: Problem, options: Any) -> Picks:
        """Pick rows; `options` is an instance of `Options`."""
        ...


def subtask_names(given: bool, labels: Iterable[str] | None) -> tuple[str, ...]:
    """Names of a target's subtasks, sorted: of the labels of its rows, or one name where they have none."""
    if not given:
        return ()
    return ("target",) if labels is None else tuple(sorted(set(labels)))


def needs_of(selector: Selector, options: MethodOptions) -> Needs:
    """What a method reads with these options."""
    asked = getattr(selector, "needs_with", None)
    needs: Needs = selector.needs if asked is None else asked(options)
    return needs


def read_options(selector: Selector, given: Mapping[str, Any]) -> MethodOptions:
    """The method's options from what the caller gave.

    Raises:
        UnknownNameError: an option that the method does not have; names the nearest.
        ConfigurationError: values out of range, all of them on one line.
    """
    known = selector.Options.model_fields
    for name in given:
        if name not in known:
            raise UnknownNameError(f"option of method {selector.name!r}:", name, known or ["(it has none)"])
        if isinstance(given[name], bool) and not _takes_bool(known[name].annotation):
            raise ConfigurationError(
                f"method {selector.name!r}: {name}={given[name]}, expected a value that is no truth value; on the "
                f"command line an option without a value is true: --{name.replace('_', '-')} VALUE"
            )
    try:
        return selector.Options(**given)
    except ValidationError as error:
        raise ConfigurationError(f"method {selector.name!r}: {_one_line(error)}") from None


def _takes_bool(annotation: Any) -> bool:
    """Whether true and false are values of a field; else they would be read as 1 and 0."""
    return annotation in (bool, Any) or isinstance(annotation, bool) or any(map(_takes_bool, get_args(annotation)))


def _one_line(error: ValidationError) -> str:
    """Every problem of a pydantic error; the branches of a union stand as one problem, with both ways out."""
    problems: dict[str, tuple[Any, list[str]]] = {}
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        problems.setdefault(name, (detail["input"], []))[1].append(message)
    return "; ".join(
        f"{name}={value!r}, expected {' or '.join(messages)}" if name else " and ".join(messages)
        for name, (value, messages) in problems.items()
    )
