"""The walk over candidate pools: SPICE's schedule (arXiv 2601.23155), on a fixed matrix of rows.

The eligible rows that are not forced in, shuffled, are cut into pools; each is searched by the same greedy, its state
starting afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.errors import ConfigurationError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.decomposition import TRACE_DTYPE
from spicerack.information.greedy import Run, plain_steps
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.room import Room
from spicerack.information.state import InformationState

POOL_TRACE_DTYPE = np.dtype([*((name, np.float64) for name in TRACE_DTYPE.names or ()), ("pool", np.int64)])
"""Trace of the walk: the columns of `TRACE_DTYPE` and the number of the candidate pool, -1 for forced rows."""


class PartRoom(Room):
    """The room of one candidate pool: at most `picks` rows, each of which the whole room must have open."""

    def __init__(self, whole: Room, rows: IntArray, picks: int) -> None:
        self._whole, self._rows = whole, rows
        super().__init__(whole.open[rows], count=min(picks, rows.size))

    def take(self, i: int) -> None:
        """Take row i of the pool, in the whole room too."""
        self._whole.take(int(self._rows[i]))
        super().take(i)
        self.open &= self._whole.open[self._rows]


def walk_pools(
    matrix: RowMatrix,
    make_state: Callable[[RowMatrix], InformationState],
    center: FloatArray | None,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    pool_size: int,
    pool_picks: int,
    stop_ratio: float | None,
    seed: int,
) -> tuple[IntArray, npt.NDArray[Any]]:
    """The picks of one walk and their trace; the room's forced rows come first, without a pool.

    Args:
        matrix: all rows (n, k).
        make_state: an information state without picks over a pool's rows.
        center: of the conflict.
        penalty: lambda.
        room: what may be picked, none taken yet.
        eligible: rows that may be picked at all, (n,).
        pool_size: rows of a pool.
        pool_picks: rows picked of each pool at most.
        stop_ratio: omega, per pool.
        seed: of the shuffle.

    Raises:
        ConfigurationError: the pools give less than the budget asks for; says which `pool_picks` would do.
    """
    candidates = eligible.copy()
    candidates[list(room.forced)] = False
    order = np.random.Generator(np.random.PCG64(seed)).permutation(np.flatnonzero(candidates))
    pools = [np.sort(order[start : start + pool_size]) for start in range(0, order.size, pool_size)]
    check_reach(room, pool_size, pool_picks)
    picked, traces = [], []
    if room.forced:
        rows = np.array(room.forced, dtype=np.int64)
        picked.append(rows)
        traces.append(_forced_trace(matrix, make_state, center, penalty, rows))
        room.take_forced()
    for number, rows in enumerate(pools):
        if room.full:
            break
        part = matrix.among(rows)
        run = Run(
            make_state(part),
            Conflict(part, center),
            penalty=penalty,
            room=PartRoom(room, rows, pool_picks),
            eligible=np.ones(rows.size, dtype=bool),
            stop_ratio=stop_ratio,
        )
        plain_steps(run)
        result = run.result()
        picked.append(rows[result.indices])
        traces.append(_with_pool(result.trace, number))
    if stop_ratio is None:
        _check_spent(room, pool_size, pool_picks)
    return np.concatenate(picked).astype(np.int64), np.concatenate(traces)


def _forced_trace(
    matrix: RowMatrix,
    make_state: Callable[[RowMatrix], InformationState],
    center: FloatArray | None,
    penalty: Penalty,
    rows: IntArray,
) -> npt.NDArray[Any]:
    part = matrix.among(rows)
    everything = np.ones(rows.size, dtype=bool)
    room = Room(everything, count=rows.size, forced=range(rows.size))
    run = Run(make_state(part), Conflict(part, center), penalty=penalty, room=room, eligible=everything)
    run.take_forced(run.state.push)
    run.state.refresh()
    return _with_pool(run.result().trace, -1)


def _with_pool(trace: npt.NDArray[Any], number: int) -> npt.NDArray[Any]:
    table = np.empty(trace.size, dtype=POOL_TRACE_DTYPE)
    for name in TRACE_DTYPE.names or ():
        table[name] = trace[name]
    table["pool"] = number
    return table


def check_reach(room: Room, pool_size: int, pool_picks: int) -> None:
    """Find out before the walk whether its pools can fill a budget in rows.

    Raises:
        ConfigurationError: they cannot; says which `pool_picks` would.
    """
    if room.count is None:
        return
    wanted = room.count - len(room.forced)
    whole, rest = divmod(room.eligible - len(room.forced), pool_size)

    def reach_of(picks: int) -> int:
        return whole * min(picks, pool_size) + min(picks, rest)

    reach = reach_of(pool_picks)
    if reach >= wanted:
        return
    enough = next((picks for picks in range(1, pool_size + 1) if reach_of(picks) >= wanted), pool_size)
    raise ConfigurationError(
        f"schedule='pools' with pool_picks={pool_picks} of pool_size={pool_size} reaches {reach} rows, the budget is "
        f"{wanted}; use pool_picks={enough}"
    )


def _check_spent(room: Room, pool_size: int, pool_picks: int) -> None:
    """Tokens and quotas show only after the walk whether the pools gave enough."""
    if room.full:
        return
    asked = f"{room.count} rows" if room.count is not None else f"{room.capacity} tokens"
    given = len(room.taken) if room.count is not None else room.spent
    total = room.count if room.count is not None else room.capacity
    enough = min(pool_size, max(pool_picks + 1, -(-pool_picks * (total or 0) // max(1, given))))
    raise ConfigurationError(
        f"schedule='pools' with pool_picks={pool_picks} of pool_size={pool_size} reaches {given} of {asked}; "
        f"use pool_picks={enough} or more"
    )
