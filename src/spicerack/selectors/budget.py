"""How much may be picked: a number of rows, a share of the rows, or a number of tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from spicerack.errors import BudgetError
from spicerack.information.matrix import BoolArray, IntArray

LEGAL = "expected a number of rows (500), a share in (0, 1] (0.1 or '10%'), or tokens ('20000 tokens', '20k tokens')"

_TOKENS = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([km]?)\s*tokens?", re.IGNORECASE)
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class TokenBudget:
    """A budget of tokens: the picks together hold at most `tokens`, an int >= 1."""

    tokens: int

    def __post_init__(self) -> None:
        if not _is_whole(self.tokens) or self.tokens < 1:
            raise BudgetError(
                f"a token budget of {self.tokens!r} is not possible; expected a whole number of at least 1"
            )


BudgetLike = int | float | str | TokenBudget


@dataclass(frozen=True)
class ResolvedBudget:
    """A budget in units that a selector counts: exactly one of `count` (rows) and `tokens` is set.

    A count that was given as a share of the rows keeps the `share`.
    """

    count: int | None = None
    tokens: int | None = None
    share: float | None = None

    def to_dict(self) -> dict[str, int]:
        """What the manifest records."""
        return {"count": self.count} if self.count is not None else {"tokens": self.tokens or 0}


def parse_budget(budget: BudgetLike) -> int | float | TokenBudget:
    """A budget from what the command line, a file or a caller gives.

    Args:
        budget: an int is a number of rows, a float in (0, 1] a share of those that can be picked, before dedup and
            trim; text is either of them, a percentage, or tokens with an optional k or m.

    Raises:
        BudgetError: zero, negative, not a number, a share above 1, or text that is none of these.
    """
    if isinstance(budget, TokenBudget):
        return budget
    if isinstance(budget, str):
        parsed = _from_text(budget)
        if isinstance(parsed, float) and not 0.0 < parsed <= 1.0:
            raise BudgetError(f"budget {budget!r} is no share of the rows; {LEGAL}")
        return parse_budget(parsed)
    if _is_whole(budget):
        if budget < 1:
            raise BudgetError(f"budget {int(budget)} picks nothing; {LEGAL}")
        return int(budget)
    if not isinstance(budget, (float, np.floating)):
        raise BudgetError(f"budget {budget!r} is not a number; {LEGAL}")
    share = float(budget)
    if not (math.isfinite(share) and 0.0 < share <= 1.0):
        raise BudgetError(f"budget {share!r} is not a share in (0, 1]; {LEGAL}")
    return share


def order_by_size(budgets: Collection[str], rows: int) -> list[list[str]]:
    """Budgets as they were given: those in rows, then those in tokens, each from the smallest; a kind of none is left
    out.

    Args:
        budgets: text as for `parse_budget`.
        rows: what shares are of.

    Raises:
        BudgetError: as of `parse_budget`.
    """
    in_rows: dict[str, float] = {}
    in_tokens: dict[str, float] = {}
    for budget in budgets:
        size = parse_budget(budget)
        if isinstance(size, TokenBudget):
            in_tokens[budget] = size.tokens
        else:
            in_rows[budget] = size * rows if isinstance(size, float) else size
    return [sorted(kind, key=lambda name: (kind[name], name)) for kind in (in_rows, in_tokens) if kind]


def resolve(
    budget: BudgetLike, eligible: BoolArray, tokens: IntArray | None, *, before: BoolArray | None = None
) -> ResolvedBudget:
    """The budget in rows or tokens.

    Args:
        budget: as for `parse_budget`. A share counts the rows before dedup and trim: rounded, at least one, at most
            all that are eligible.
        eligible: rows that can be picked, (n,).
        tokens: tokens of each row, (n,); needed by a token budget.
        before: rows that could be picked before dedup and trim, (n,); default: the eligible ones.

    Raises:
        BudgetError: more rows than can be picked, or a token budget that cannot be counted or holds no row.
    """
    parsed = parse_budget(budget)
    rows = int(np.count_nonzero(eligible))
    if isinstance(parsed, TokenBudget):
        if tokens is None:
            raise BudgetError("a token budget needs the tokens of each row: give a gradient store, or tokens=")
        shortest = int(tokens[eligible].min())
        if shortest > parsed.tokens:
            raise BudgetError(f"a budget of {parsed.tokens} tokens holds no row: the shortest has {shortest} tokens")
        return ResolvedBudget(tokens=int(parsed.tokens))
    if isinstance(parsed, float):
        whole = rows if before is None else int(np.count_nonzero(before))
        return ResolvedBudget(count=min(rows, max(1, round(parsed * whole))), share=parsed)
    if parsed > rows:
        raise BudgetError(f"budget {parsed} is above the {rows} rows that can be picked (of {eligible.size})")
    return ResolvedBudget(count=parsed)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _from_text(text: str) -> int | float | TokenBudget:
    stripped = text.strip()
    if match := _TOKENS.fullmatch(stripped):
        number = float(match[1].replace(",", "").replace("_", "")) * _SCALE[match[2].lower()]
        return TokenBudget(math.floor(round(number, 6)))  # 4.1m is a little below 4,100,000 in float64
    try:
        if stripped.endswith("%"):
            return float(stripped[:-1]) / 100.0
        return int(stripped) if re.fullmatch(r"[+-]?[0-9][0-9_]*", stripped) else float(stripped)
    except ValueError:
        raise BudgetError(f"budget {text!r} is not a number; {LEGAL}") from None
