"""What a greedy loop asks of an information objective."""

from __future__ import annotations

from typing import Protocol

from spicerack.information.conflict import Conflict
from spicerack.information.matrix import FloatArray, IntArray, RowMatrix


class InformationState(Protocol):
    """Information of a growing set S of picks: the marginal gain of every row, and how to absorb a pick.

    `gains()` comes from passes in the working precision; the exact gain of row i lies within `slack()[i]` of it.
    `exact_gains` settles what the slack leaves open. Excluded rows are the caller's business.
    """

    matrix: RowMatrix
    value: float
    """Information of the picks so far: the sum of their marginal gains."""

    def gains(self) -> FloatArray:
        """Marginal gain of every row given the picks, (n,)."""
        ...

    def slack(self, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Bound on the rounding error of each of `gains()[rows]`, (r,)."""
        ...

    def slack_bound(self) -> tuple[FloatArray, float, float]:
        """A vector (n,) that is there, a slope and a level: `slope * vector + level` is no less than `slack()`."""
        ...

    def base(self) -> FloatArray:
        """Gain of every row given the empty set, (n,), exact."""
        ...

    def add(self, i: int, rider: Conflict | None = None) -> float:
        """Absorb row i; one pass over all rows. Returns its marginal gain, exact.

        A `rider` is a conflict on the same matrix that has just absorbed i: it may be told its products of this pass.
        """
        ...

    def push(self, i: int) -> float:
        """Absorb row i without a pass: `gains()` stay those of before until `refresh`. Returns its gain."""
        ...

    def refresh(self) -> None:
        """Compute all gains afresh, in the precision of the passes or better."""
        ...

    def absorb(self, rows: IntArray) -> None:
        """Absorb many rows in the order given, then compute all gains once, exactly."""
        ...

    def exact_gains(self, rows: IntArray) -> FloatArray:
        """Gains of a few rows, (r,), from exact rows in float64."""
        ...

    def sharpen(self) -> None:
        """Switch the passes to exact rows in float64 and compute all gains afresh."""
        ...

    @property
    def tolerance(self) -> float:
        """Relative difference up to which two exact gains are equal."""
        ...
