"""What is compared: methods with their options, budgets, seeds, and the cells that they make."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spicerack.config import read_value
from spicerack.errors import ConfigurationError

FULL, BASE = "full", "none"
CONTROLS = {FULL: "every row of the pool", BASE: "no row: the model as it is"}
WITH_TARGET = "target"  # the option that hands the target to a method that can do without
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
OPTION = re.compile(r"[\w-]+=(?!\w+:[\w-]+=)")  # and no label=method:option= of the next one
SPEC = re.compile(r"(?:(?P<label>[^=:,]+)=)?(?P<name>[^=:,]+)(?P<colon>:)?(?P<options>.*)", re.DOTALL)


@dataclass(frozen=True)
class Method:
    """A column of the comparison.

    Attributes:
        label: what it is called in folders and tables.
        name: a name of `spicerack.methods()`, or `full`, or `none`.
        options: of the method, or of `spicerack.select` (quotas, groups, exclude, ...).
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not LABEL.fullmatch(self.label):
            raise ConfigurationError(
                f"the label {self.label!r} cannot name a folder; expected letters, digits and . _ + -, as in "
                "label=method:option=value"
            )

    @property
    def is_control(self) -> bool:
        """Whether nothing is selected."""
        return self.name in CONTROLS


@dataclass(frozen=True)
class Budget:
    """A budget as it was given, and the folder's name for what it means here: rows-200, tokens-20000."""

    given: str
    value: Any
    folder: str


@dataclass(frozen=True)
class Cell:
    """One training and its measurement; `budget` is None for controls."""

    method: Method
    budget: Budget | None
    seed: int

    @property
    def series(self) -> tuple[str, str | None]:
        """Label and budget as it was given, which the seeds of a series share."""
        return self.method.label, self.budget.given if self.budget else None

    @property
    def folder(self) -> Path:
        """Below the comparison's own."""
        return Path("cells") / self.method.label / (self.budget.folder if self.budget else "all") / f"seed-{self.seed}"

    def __str__(self) -> str:
        budget = f" {self.budget.given}" if self.budget else ""
        return f"{self.method.label}{budget}, seed {self.seed}"


def parse_methods(texts: str | Iterable[str]) -> tuple[Method, ...]:
    """Read methods as the command line gives them.

    `spice,random` are two methods; `spice:rows=unit,penalty=0.2` is one with options (values are YAML);
    `a=spice:rows=unit` is one with a label. What follows a method with options and looks like `name=value` is an option
    of it.

    Raises:
        ConfigurationError: a text that is no method, or two of one label.
    """
    found: list[Method] = []
    for text in [texts] if isinstance(texts, str) else texts:
        for spec in _specs(text):
            found.append(_method(spec))
    if not found:
        raise ConfigurationError("no method is named; give some, as in spice,random (see `spicerack methods`)")
    twice = [label for label, count in Counter(method.label for method in found).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"two methods are called {twice[0]!r}; give one another label, as in other={twice[0]}:option=value"
        )
    return tuple(found)


def make_cells(methods: Sequence[Method], budgets: Sequence[Budget], seeds: Sequence[int]) -> list[Cell]:
    """Every cell, seed by seed, so that an early look has all methods; `none` has one, for nothing is drawn."""
    cells = []
    for seed in seeds:
        for method in methods:
            if method.name == BASE:
                cells += [Cell(method, None, seed)] if seed == seeds[0] else []
            elif method.is_control:
                cells.append(Cell(method, None, seed))
            else:
                cells += [Cell(method, budget, seed) for budget in budgets]
    return cells


def _specs(text: str) -> list[str]:
    """Pieces between commas, options put back behind their method."""
    specs: list[str] = []
    for piece in _pieces(text):
        if specs and ":" in specs[-1] and OPTION.match(piece):
            specs[-1] += "," + piece
        elif piece:
            specs.append(piece)
    return specs


def _pieces(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    pieces, start, depth, quote = [], 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            pieces.append(text[start:place])
            start = place + 1
    return [piece.strip() for piece in [*pieces, text[start:]]]


def _method(spec: str) -> Method:
    match = SPEC.fullmatch(spec)
    if match is None or (match["options"] and not match["colon"]):
        raise ConfigurationError(f"cannot read the method {spec!r}; expected method, or label=method:option=value,...")
    options: dict[str, Any] = {}
    for piece in filter(None, _pieces(match["options"])):
        name, equals, value = piece.partition("=")
        if not equals:
            raise ConfigurationError(f"cannot read {piece!r} in the method {spec!r}; expected option=value")
        option = name.strip().replace("-", "_")
        options[option] = read_value(value, option)
    name = match["name"].strip()
    return Method((match["label"] or _label(name, options)).strip(), name, options)


def _label(name: str, options: Mapping[str, Any]) -> str:
    """`spice:rows=unit,penalty=0.2` is spice-unit-penalty0.2: words speak for themselves, other values do not."""
    parts = [
        value if isinstance(value, str) else f"{option}{'' if value is True else value}"
        for option, value in options.items()
    ]
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join([name, *parts]))
