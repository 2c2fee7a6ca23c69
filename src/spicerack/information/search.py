"""Which loop makes a greedy run's picks: the choice changes the time it takes, never the picks.

And two searches that give up exactness for less work, each to be judged by its certificate: stochastic greedy
(Mirzasoleiman et al. 2015), which looks at a random sample of rows for every pick, and greedy over partitions in two
rounds (GreeDi, Mirzasoleiman et al. 2013), which picks from the parts and then from what the parts picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.deferred import deferred_greedy
from spicerack.information.diagonal import DiagonalState
from spicerack.information.greedy import GreedyResult, Run, Watch, greedy
from spicerack.information.lazy import lazy_greedy
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, IntArray, RowMatrix
from spicerack.information.room import Quotas, Room
from spicerack.information.state import InformationState
from spicerack.information.ties import smallest_best

PLAIN_BELOW = 1 << 22
"""Entries of a row matrix up to which the plain loop is fastest: a pass costs less than the engine's books."""


def search(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    stop_ratio: float | None = None,
    watch: Watch | None = None,
) -> GreedyResult:
    """The exact greedy run, by the loop that suits state and size. Arguments as for `greedy.Run`."""
    loop: Callable[..., GreedyResult] = greedy
    if state.matrix.n * state.matrix.k > PLAIN_BELOW:
        if isinstance(state, FullFisher):
            loop = deferred_greedy
        elif isinstance(state, DiagonalState):
            loop = lazy_greedy
    return loop(state, conflict, penalty=penalty, room=room, eligible=eligible, stop_ratio=stop_ratio, watch=watch)


def stochastic_greedy(
    state: InformationState,
    conflict: Conflict,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    count: int,
    loss: float,
    seed: int,
    stop_ratio: float | None = None,
) -> GreedyResult:
    """Each pick is the best of `(n / count) log(1 / loss)` open rows drawn at random.

    In expectation it keeps `1 - 1/e - loss` of the optimum of a monotone submodular function within `count` rows.

    Args:
        state: without picks; absorbs them without passes over all rows but a last one.
        conflict: as for `greedy.Run`, like the other arguments not named here.
        penalty: lambda.
        room: what may be picked.
        eligible: rows that may be picked at all, (n,).
        count: rows that are about to be picked.
        loss: in (0, 1).
        seed: of the draws.
        stop_ratio: as for `greedy.Run`.
    """
    run = Run(state, conflict, penalty=penalty, room=room, eligible=eligible, stop_ratio=stop_ratio)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = max(1, math.ceil(np.count_nonzero(eligible) / count * math.log(1.0 / loss)))
    run.take_forced(state.push)
    while run.going:
        rows = np.flatnonzero(room.open)
        rows = np.sort(rng.choice(rows, min(drawn, rows.size), replace=False))
        gains = state.exact_gains(rows)
        weight = penalty.of(float(gains.max()))
        scores = gains - weight * conflict.exact(rows) if weight else gains
        i = int(rows[smallest_best(scores, gains, state.tolerance, weight)])
        if not run.take(i, weight, state.push):
            break
    state.refresh()
    return run.result()


def partition_rows(eligible: BoolArray, parts: int, seed: int) -> list[IntArray]:
    """The eligible rows, shuffled by seed, in so many parts of nearly equal size, each ascending."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(np.flatnonzero(eligible))
    return [np.sort(part) for part in np.array_split(order, min(parts, order.size))]


def partition_greedy(
    make_state: Callable[[RowMatrix], InformationState],
    matrix: RowMatrix,
    center: np.ndarray | None,
    *,
    penalty: Penalty,
    make_room: Callable[[IntArray], Room],
    eligible: BoolArray,
    parts: int,
    seed: int,
) -> IntArray:
    """The rows that greedy picks from each part, all together, ascending: the pool of the second round.

    Args:
        make_state: an information state without picks over a part's rows.
        matrix: all rows.
        center: of the conflict.
        penalty: lambda.
        make_room: what may be picked of these rows, numbered as in them.
        eligible: rows that may be picked at all, (n,).
        parts: at least 1.
        seed: of the shuffle.
    """
    found = []
    for rows in partition_rows(eligible, parts, seed):
        part = matrix.among(rows)
        result = search(
            make_state(part),
            Conflict(part, center),
            penalty=penalty,
            room=make_room(rows),
            eligible=np.ones(rows.size, dtype=bool),
        )
        found.append(rows[result.indices])
    return np.sort(np.concatenate(found))


def room_among(room: Room, rows: IntArray, tokens: IntArray | None, quotas: Quotas | None) -> Room:
    """The same room over some of the rows only: a part owes of each group what it has, as far as that is asked for.

    So all parts together find the least rows of each group. Under a budget in tokens, where the rows of one part may be
    too long for that, a part owes none: see `cheapest_owed`.
    """
    relaxed = None
    if quotas is not None:
        inner = quotas.among(rows)
        held = np.bincount(inner.group[inner.group >= 0], minlength=len(inner.names))
        owed = np.zeros_like(inner.least) if room.count is None else np.minimum(inner.least, held)
        relaxed = Quotas(inner.names, inner.group, owed, inner.most)
    count = None if room.count is None else min(room.count, rows.size)
    return Room(
        np.ones(rows.size, dtype=bool),
        count=count,
        capacity=room.capacity,
        tokens=None if tokens is None else tokens[rows],
        quotas=relaxed,
        strict=False,
    )


def cheapest_owed(quotas: Quotas, eligible: BoolArray, tokens: IntArray) -> IntArray:
    """The least rows of each group that cost fewest tokens: a second round that has these can meet the quotas."""
    found = [np.zeros(0, dtype=np.int64)]
    for g in np.flatnonzero(quotas.least):
        members = np.flatnonzero(eligible & (quotas.group == g))
        found.append(members[np.argsort(tokens[members], kind="stable")[: quotas.least[g]]])
    return np.concatenate(found)
