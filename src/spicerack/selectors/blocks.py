"""Which blocks of weights a method reads, and their columns side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spicerack.errors import UnknownNameError
from spicerack.information.matrix import FloatArray

Layers = Literal["first", "last", "stride", "all"]


@dataclass(frozen=True)
class Blocks:
    """Some of the blocks of a store's columns (`GradientStore.segments`).

    Attributes:
        segments: all of them.
        chosen: numbers of those that are read, ascending.
    """

    segments: tuple[Any, ...]
    chosen: tuple[int, ...]

    @classmethod
    def of(cls, segments: Sequence[Any], layers: Layers | Sequence[str], share: float) -> Blocks:
        """Choose blocks.

        Args:
            segments: of the store, in the order of the weights.
            layers: the first, the last, or evenly spread ones, `share` of them; all; or names, each one or more whole
                parts of a block's name between dots: "layers.3", "q_proj".
            share: in (0, 1]; at least one block is read.

        Raises:
            UnknownNameError: a name that no block has.
        """
        count = len(segments)
        some = max(1, round(share * count))
        if layers == "all":
            chosen = range(count)
        elif layers == "first":
            chosen = range(some)
        elif layers == "last":
            chosen = range(count - some, count)
        elif layers == "stride":
            return cls(tuple(segments), tuple(np.linspace(0, count - 1, some).round().astype(int).tolist()))
        else:
            return cls(tuple(segments), _named(segments, layers))
        return cls(tuple(segments), tuple(chosen))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the chosen blocks."""
        return tuple(self.segments[i].name for i in self.chosen)

    @property
    def count_in_all(self) -> int:
        """Blocks of the store."""
        return len(self.segments)

    @property
    def all_of_them(self) -> bool:
        """Whether none is left out."""
        return len(self.chosen) == len(self.segments)

    def whole(self) -> Blocks:
        """All blocks."""
        return Blocks(self.segments, tuple(range(len(self.segments))))

    @property
    def places(self) -> tuple[slice, ...]:
        """Columns of each chosen block among those that `take` gives."""
        ends = np.cumsum([self.segments[i].stop - self.segments[i].start for i in self.chosen]).tolist()
        return tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))

    def take(self, rows: FloatArray) -> FloatArray:
        """The chosen blocks' columns of rows (r, k), side by side."""
        if self.all_of_them:
            return rows
        return np.concatenate([rows[:, self.segments[i].start : self.segments[i].stop] for i in self.chosen], axis=1)


def _named(segments: Sequence[Any], names: Sequence[str]) -> tuple[int, ...]:
    found: set[int] = set()
    for name in names:
        members = {i for i, segment in enumerate(segments) if f".{name}." in f".{segment.name}."}
        if not members:
            raise UnknownNameError("layer", name, [segment.name for segment in segments])
        found |= members
    return tuple(sorted(found))
