"""The plain loop's picks for the log-det, without reading every row at every pick.

Stale values bound scores (`ground.py`). A round refreshes the rows that may win one of its picks, moves the most
promising into a pool, and picks inside the pool (`pools.py`) for as long as its best stands clear of the bounds of
everything outside. What the picks did to everyone else is applied later, in blocks, as one matrix product, and only to
rows whose bound still matters.

Near ties are settled in float64 by the rule that the plain loop follows (`ties.py`), so the picks are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.contest import best_of_all, largest_gain
from spicerack.information.greedy import GreedyResult, Run, Watch
from spicerack.information.ground import Ground
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray
from spicerack.information.pools import ETA_GROWTH, NARROWEST, Depth, Limits, Pool, choose, lowest
from spicerack.information.room import Room
from spicerack.information.ties import floor, smallest_best

DEPTHS = (Depth(rows=8192, picks=256), Depth(rows=1024, picks=64), Depth(rows=128, picks=16))
"""Of the pool of a round and of the pools in it. They change the time a run takes, never its picks."""

CROWD = 8192
"""Contenders for one pick above which the plain loop makes it."""

LATEST = 64
"""Picks that tell how fast the best score falls."""


@dataclass
class Outlook:
    """How far a round looks ahead, learned from the rounds before. It changes the time a run takes, never its picks.

    Attributes:
        depths: of the pools.
        picks: that a round prepares for.
        drifts: allowance for the turn of the direction, by depth.
    """

    depths: tuple[Depth, ...]
    picks: float = field(init=False)
    drifts: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        self.picks = self.depths[0].picks
        self.drifts = dict.fromkeys(range(len(self.depths)), 0.02)

    def lowest_score(self, run: Run, weight: float) -> float:
        """What the best score will have fallen to after those picks, or as many as there were, if it goes on so."""
        latest = min(run.step - 1, LATEST)
        last = run.score(-1, weight)
        fall = max(0.0, run.score(-1 - latest, weight) - last) / max(latest, 1)
        return last - min(self.picks, run.step) * fall

    def learn(self, pool: Pool, made: int) -> None:
        """Look no further than a full pool lasted; allow for twice the turn that there was."""
        full = pool.rows.size >= self.depths[0].rows
        self.picks = min(max(1.25 * made, 16.0) if full else 2.0 * self.picks, self.depths[0].picks)
        turned = float(np.linalg.norm(pool.run.conflict.direction()[0] - pool.limits[0].start))
        self.drifts[0] = min(self.drifts[0], max(2.0 * turned, NARROWEST))


def deferred_greedy(
    state: FullFisher,
    conflict: Conflict,
    *,
    penalty: Penalty,
    room: Room,
    eligible: BoolArray,
    stop_ratio: float | None = None,
    watch: Watch | None = None,
    depths: tuple[Depth, ...] = DEPTHS,
    crowd: int = CROWD,
) -> GreedyResult:
    """Pick greedily by `gain - penalty * conflict` until the room is full: the picks of `greedy`, deferred.

    Memory beside the row matrix is O(n + depths[0].rows * k + s * k). Arguments as for `greedy.Run`.
    """
    run = Run(state, conflict, penalty=penalty, room=room, eligible=eligible, stop_ratio=stop_ratio, watch=watch)
    ground = Ground(state, conflict, penalized=penalty.weight > 0.0)
    outlook = Outlook(depths)
    run.take_forced(ground.push)
    while run.going:
        if run.watch is not None:
            run.watch(run.step, run.state, run.alive)
        if run.step == 0:
            run.take(*_first(run), ground.push)
            continue
        weight = _refresh(run, ground, outlook)
        pool = _pool(run, ground, weight, crowd, outlook)
        if pool is None:
            _plain_step(run, ground)
        else:
            begun = run.step
            pool.play()
            ground.write(pool.rows, pool.values)
            outlook.learn(pool, run.step - begun)
    ground.refresh(np.arange(ground.matrix.n))
    return run.result()


def _first(run: Run) -> tuple[int, float]:
    """The first pick: gains are those of the empty set, exact, and there is no conflict."""
    rows = np.flatnonzero(run.room.open)
    gains = run.state.base()[rows]
    weight = run.penalty.of(float(gains.max()))
    return int(rows[smallest_best(gains, gains, run.state.tolerance, weight)]), weight


def _refresh(run: Run, ground: Ground, outlook: Outlook) -> float:
    """Refresh rows until no stale one can win. Returns the weight of the conflict."""
    weight = run.penalty.weight
    if run.penalty.relative:
        _refresh_best(run, ground, 0.0, outlook)  # the largest gain says what the weight is
        rows = np.flatnonzero(ground.fresh() & run.room.open)
        gains, slack = ground.gains(rows, ground.read(rows))
        near = rows[gains + slack >= floor(gains, slack, run.state.tolerance, 0.0)]
        weight = run.penalty.of(largest_gain(run.state, near))
    if weight or not run.penalty.relative:
        _refresh_best(run, ground, weight, outlook)
    return weight


def _refresh_best(run: Run, ground: Ground, weight: float, outlook: Outlook) -> None:
    """Refresh the rows that may win a pick of the round, then until no stale bound reaches what fresh rows are sure of.

    The first part is what lets a round last: the bound of everything outside falls well below the best.
    """
    open_ = run.room.open
    keys = ground.keys(open_, weight, drift=outlook.drifts[0])
    least = min(outlook.lowest_score(run, weight), float(keys.max()))
    stale = np.flatnonzero((keys >= least) & ~ground.fresh())
    ahead = 2 * outlook.depths[0].rows
    while True:
        ground.refresh(stale)
        fresh = ground.fresh() & open_
        rows = np.flatnonzero(fresh)
        least = floor(*ground.scores(rows, ground.read(rows), weight), run.state.tolerance, weight)
        keys = ground.keys(open_ & ~fresh, weight)
        stale = np.flatnonzero(keys >= least)
        if stale.size == 0:
            return
        if stale.size > ahead:
            stale = np.sort(stale[np.argpartition(-keys[stale], ahead - 1)[:ahead]])
        ahead *= 2


def _pool(run: Run, ground: Ground, weight: float, crowd: int, outlook: Outlook) -> Pool | None:
    """The pool of a round, or None where too many rows contend."""
    fresh = ground.fresh() & run.room.open
    rows = np.flatnonzero(fresh)
    scores, slack = ground.scores(rows, ground.read(rows), weight)
    least = floor(scores, slack, run.state.tolerance, weight)
    must = rows[scores + slack >= least]
    if run.penalty.relative:
        gains, error = ground.gains(rows, ground.read(rows))
        must = np.union1d(must, rows[gains + error >= floor(gains, error, run.state.tolerance, 0.0)])
    if must.size > crowd:
        return None
    direction, scaled = run.conflict.direction()
    floor_weight, eta = lowest(run, weight), ETA_GROWTH * scaled

    def keys(drift: float) -> FloatArray:
        return ground.keys(run.room.open, floor_weight, drift=drift, eta=eta)

    drifts, depths = outlook.drifts, outlook.depths
    chosen, outside, drifts[0] = choose(keys, fresh, must, depths[0].rows, least, drifts[0])
    rest = run.room.open.copy()
    rest[chosen] = False
    gain = float(ground.bound[rest].max()) if run.penalty.relative and rest.any() else -np.inf
    limits = Limits(outside, gain, direction, drifts[0], eta, floor_weight)
    X = ground.matrix.pass_rows(chosen)
    return Pool(run, ground, chosen, X, ground.read(chosen), (limits,), depths, drifts)


def _plain_step(run: Run, ground: Ground) -> None:
    """A pick by the plain loop: so many rows contend that all must be looked at."""
    ground.refresh(np.arange(ground.matrix.n))
    before = run.refreshed_at, run.sharpened_at
    i, weight = best_of_all(run)
    if before != (run.refreshed_at, run.sharpened_at):
        ground.settle_all()
    run.take(i, weight, ground.push)
