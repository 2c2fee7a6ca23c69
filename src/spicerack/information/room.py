"""What may still be picked: a budget in rows or tokens, least and most rows of each group, rows that must come first.

Every selector asks the same `Room`, so budgets and quotas mean the same for all of them. A row that is closed never
opens again: what is left over the reserves only shrinks. So a bound over the open rows stays one as the room fills.
With a budget in rows the sets that a room allows are those of a matroid (a partition matroid, truncated), in which
greedy keeps half of the optimum of a monotone submodular function (Fisher, Nemhauser and Wolsey 1978).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spicerack.errors import BudgetError
from spicerack.information.matrix import BoolArray, IntArray


@dataclass(frozen=True)
class Quotas:
    """Least and most rows of each group.

    Attributes:
        names: of the groups, (g,).
        group: number of each row's group, (n,), -1 for none.
        least: (g,), >= 0.
        most: (g,), >= least.
    """

    names: tuple[str, ...]
    group: IntArray
    least: IntArray
    most: IntArray

    def among(self, rows: IntArray) -> Quotas:
        """The same quotas, rows numbered as in `rows`."""
        return Quotas(self.names, self.group[rows], self.least, self.most)


class Room:
    """The rows that may be taken next; `open` shrinks with every `take`, `eligible` stays the number of rows at first.

    Args:
        eligible: rows that may be picked at all, (n,).
        count: rows to pick, or None.
        capacity: tokens that the picks may hold together, or None. At least one of the two is given.
        tokens: of each row, (n,); needed by a capacity.
        quotas: least and most of each group.
        forced: rows that a selector takes first, in this order.
        strict: refuse quotas that cannot be met; else the room is exhausted early.

    Raises:
        BudgetError: quotas or forced rows that the budget cannot hold.
    """

    def __init__(
        self,
        eligible: BoolArray,
        *,
        count: int | None = None,
        capacity: int | None = None,
        tokens: IntArray | None = None,
        quotas: Quotas | None = None,
        forced: Sequence[int] = (),
        strict: bool = True,
    ) -> None:
        self.open: BoolArray = eligible.copy()
        self.count, self.capacity, self.forced = count, capacity, tuple(int(i) for i in forced)
        self.eligible = int(np.count_nonzero(eligible))
        self.quotas = quotas
        self.taken: list[int] = []
        self.spent = 0
        self._tokens = tokens if capacity is not None else None
        self._free: BoolArray = eligible.copy()
        self._closed = np.zeros(0, dtype=bool)
        if quotas is not None:
            self._closed = np.zeros(len(quotas.names), dtype=bool)
            self._taken_of = np.zeros(len(quotas.names), dtype=np.int64)
            if strict:
                _check_quotas(quotas, eligible, count)
        self._narrow()

    @property
    def full(self) -> bool:
        """Whether nothing may be taken any more."""
        return not self.open.any()

    @property
    def plain(self) -> bool:
        """Whether the budget is a number of rows and nothing else."""
        return self._tokens is None and self.quotas is None

    def keep(self, rows: BoolArray) -> None:
        """Close every row that is not in the mask `rows`, (n,)."""
        self.open &= rows

    def take(self, i: int) -> None:
        """Take row i, which must be open."""
        if not self.open[i]:
            raise BudgetError(f"row {i} cannot be taken: the budget or its group's quota is exhausted")
        self.taken.append(int(i))
        self.open[i] = self._free[i] = False
        if self._tokens is not None:
            self.spent += int(self._tokens[i])
        if self.quotas is not None and self.quotas.group[i] >= 0:
            self._taken_of[self.quotas.group[i]] += 1
        self._narrow()

    def take_forced(self) -> None:
        """Take the forced rows.

        Raises:
            BudgetError: one that the budget or a quota has no room for.
        """
        for i in self.forced:
            if not self.open[i]:
                raise BudgetError(
                    f"row {i} is forced in, but the budget or its group's quota has no room for it: "
                    f"{len(self.taken)} of {len(self.forced)} forced rows fit"
                )
            self.take(i)

    def take_in_order(self, order: IntArray) -> IntArray:
        """Take the forced rows, then `order` as far as it is open. Returns what was taken, in order, int64."""
        self.take_forced()
        if self.plain and self.count is not None:
            rest = order[self.open[order]][: self.count - len(self.taken)]
            self.taken.extend(rest.tolist())
            self.open[rest] = self._free[rest] = False
            self._narrow()
        else:
            for i in order.tolist():
                if self.open[i]:
                    self.take(i)
        return np.array(self.taken, dtype=np.int64)

    def _narrow(self) -> None:
        """Close what no longer fits."""
        if self.count is not None and len(self.taken) >= self.count:
            self.open[:] = False
            return
        if self.quotas is not None:
            self._narrow_groups(self.quotas)
        if self._tokens is not None:
            self._narrow_tokens(self._tokens)

    def _narrow_groups(self, quotas: Quotas) -> None:
        owed = np.maximum(quotas.least - self._taken_of, 0)
        shut = self._taken_of >= quotas.most
        tight = self.count is not None and self.count - len(self.taken) <= int(owed.sum())
        if tight:
            shut |= owed == 0
            self.open &= quotas.group >= 0
        for g in np.flatnonzero(shut & ~self._closed):
            self.open &= quotas.group != g
        self._closed |= shut

    def _narrow_tokens(self, tokens: IntArray) -> None:
        """A row fits if its tokens leave the cheapest way to meet the quotas still owed."""
        assert self.capacity is not None
        left = self.capacity - self.spent
        if self.quotas is None:
            self.open &= tokens <= left
            return
        owed = np.maximum(self.quotas.least - self._taken_of, 0)
        credit = np.zeros(len(owed) + 1, dtype=np.int64)  # the last entry serves the rows of no group
        reserve = 0
        for g in np.flatnonzero(owed):
            members = tokens[self._free & (self.quotas.group == g)]
            cheapest = np.partition(members, owed[g] - 1)[: owed[g]]
            reserve += int(cheapest.sum())
            credit[g] = int(cheapest.max())
        if reserve > left:
            raise BudgetError(
                f"the least rows of the quotas need {reserve} tokens more, and {left} of {self.capacity} are left"
            )
        self.open &= tokens <= left - reserve + credit[self.quotas.group]


def _check_quotas(quotas: Quotas, eligible: BoolArray, count: int | None) -> None:
    held = np.bincount(quotas.group[eligible & (quotas.group >= 0)], minlength=len(quotas.names))
    for name, least, most, there in zip(quotas.names, quotas.least, quotas.most, held, strict=True):
        if most < least:
            raise BudgetError(f"quota of {name!r}: at most {most} is below at least {least}")
        if there < least:
            raise BudgetError(f"quota of {name!r}: at least {least}, but only {there} of its rows can be picked")
    if count is None:
        return
    if int(quotas.least.sum()) > count:
        raise BudgetError(f"the quotas ask for at least {int(quotas.least.sum())} rows, the budget is {count}")
    free = int(np.count_nonzero(eligible & (quotas.group < 0)))
    reach = int(np.minimum(quotas.most, held).sum()) + free
    if reach < count:
        raise BudgetError(f"the quotas let {reach} rows in, the budget is {count}; raise a quota or lower the budget")
