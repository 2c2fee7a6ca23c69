"""Clusters of directions: spherical k-means (Dhillon and Modha 2001), begun by k-means++ (Arthur, Vassilvitskii 2007).

Centers are found on a sample of the rows, and every row goes to the center of the largest cosine: one pass over all
rows however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.matrix import BoolArray, IntArray

SAMPLE = 4096
ROUNDS = 30

Blocks = Callable[[], Iterator[tuple[slice, npt.NDArray[Any]]]]


def cluster_directions(blocks: Blocks, usable: BoolArray, count: int, *, seed: int = 0) -> IntArray:
    """The cluster of each row, (n,), from 0; -1 for rows that are not usable.

    Args:
        blocks: gives all rows (n, k) at unit length, a block at a time, each time it is called.
        usable: rows that have a direction, (n,); at least one.
        count: clusters, >= 1; fewer where there are fewer distinct rows.
        seed: of the sample and the first centers.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    centers = spherical_kmeans(sample_rows(blocks, usable, SAMPLE, rng), count, rng)
    labels = np.full(usable.size, -1, dtype=np.int64)
    for part, rows in blocks():
        labels[part] = _nearest(rows, centers)
    labels[~usable] = -1
    return labels


def spherical_kmeans(X: npt.NDArray[Any], count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Centers (c, k) of unit length, c <= count, for rows (m, k) of unit length; an empty cluster is dropped."""
    centers = _first_centers(X, count, rng)
    labels = np.full(len(X), -1)
    for _ in range(ROUNDS):
        before, labels = labels, _nearest(X, centers)
        if np.array_equal(before, labels):
            break
        sums = np.zeros_like(centers)
        np.add.at(sums, labels, X)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        kept = np.flatnonzero(lengths[:, 0] > 1e-12)
        centers = sums[kept] / lengths[kept]
    return centers


def _first_centers(X: npt.NDArray[Any], count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """K-means++: each center drawn with a probability that grows with the squared distance to those there."""
    chosen = [int(rng.integers(len(X)))]
    distance = np.full(len(X), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.maximum(0.0, 2.0 - 2.0 * (X @ X[chosen[-1]]).astype(np.float64)))
        distance[distance < 1e-6] = 0.0  # a copy of a center
        if not distance.any():
            break
        chosen.append(int(rng.choice(len(X), p=distance / distance.sum())))
    return X[chosen]


def _nearest(rows: npt.NDArray[Any], centers: npt.NDArray[Any]) -> IntArray:
    return np.asarray((rows @ centers.T).argmax(axis=1), dtype=np.int64)


def sample_rows(blocks: Blocks, usable: BoolArray, most: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """The usable rows, or `most` of them drawn at random, ascending, in memory."""
    places = np.flatnonzero(usable)
    if places.size > most:
        places = np.sort(rng.choice(places, most, replace=False))
    parts = []
    for part, rows in blocks():
        here = places[(places >= part.start) & (places < part.stop)] - part.start
        parts.append(rows[here].copy())
    return np.concatenate(parts)


def worst_of_groups(losses: npt.NDArray[Any], labels: IntArray, eligible: BoolArray, share: float) -> IntArray:
    """Rows of the highest losses in their own groups, ascending.

    Of each group it is `share_of` its eligible rows. Of equal losses the later row goes first. A loss
    that is not finite counts as the highest.

    Args:
        losses: (n,).
        labels: group of each row, (n,).
        eligible: rows that count, (n,).
        share: in [0, 1).
    """
    finite = np.where(np.isfinite(losses), losses, np.inf)
    worst: list[IntArray] = []
    for label in np.unique(labels[eligible]):
        members = np.flatnonzero(eligible & (labels == label))
        order = members[np.argsort(finite[members], kind="stable")]
        worst.append(order[members.size - share_of(members.size, share) :])
    return np.sort(np.concatenate(worst)) if worst else np.zeros(0, dtype=np.int64)


def share_of(count: int, share: float) -> int:
    """A share of so many, rounded down; what float64 loses is not: 0.29 of 100 is 29, though the product is below."""
    return math.floor(round(share * count, 9))
