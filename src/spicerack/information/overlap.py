"""What two selections have in common, and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spicerack.information.matrix import FloatArray, IntArray


@dataclass(frozen=True)
class SourceOverlap:
    """What two selections take of one source, and share."""

    source: str
    first: int
    second: int
    common: int
    jaccard: float


@dataclass(frozen=True)
class Overlap:
    """Two selections of one pool.

    Attributes:
        first, second, common: numbers of rows.
        jaccard: common / (first + second - common).
        by_chance: the Jaccard that two independent random sets of these sizes have on average, nearly.
        rank_correlation: Spearman correlation of the two orders over the common rows; None below two rows.
        sources: the same counts for each source.
    """

    first: int
    second: int
    common: int
    jaccard: float
    by_chance: float
    rank_correlation: float | None
    sources: tuple[SourceOverlap, ...]


def overlap(first: IntArray, second: IntArray, sources: Sequence[str]) -> Overlap:
    """What two selections of one pool have in common.

    Args:
        first: rows in the order picked.
        second: the other's.
        sources: of every pool row, (n,).
    """
    _, at_first, at_second = np.intersect1d(first, second, return_indices=True)
    common = first[at_first]
    names = np.asarray(sources, dtype=object)
    parts = []
    for name in sorted({*names[first].tolist(), *names[second].tolist()}):
        a, b, both = (int((names[rows] == name).sum()) for rows in (first, second, common))
        parts.append(SourceOverlap(str(name), a, b, both, _jaccard(a, b, both)))
    return Overlap(
        first=first.size,
        second=second.size,
        common=common.size,
        jaccard=_jaccard(first.size, second.size, common.size),
        by_chance=_jaccard(first.size, second.size, first.size * second.size / len(names)),
        rank_correlation=spearman(at_first.astype(np.float64), at_second.astype(np.float64)),
        sources=tuple(parts),
    )


def spearman(a: FloatArray, b: FloatArray) -> float | None:
    """Pearson correlation of the ranks, ties at their mean rank; None below two values or where one is constant."""
    if a.size < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / length, -1.0, 1.0)) if length > 0.0 else None


def _jaccard(first: int, second: int, common: float) -> float:
    either = first + second - common
    return common / either if either else 1.0


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], dtype=np.float64)
