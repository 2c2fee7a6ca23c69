"""SPICE's online schedule: select with a proxy that learns from what it selects (arXiv 2601.23155).

The shuffled pool is walked once in candidate pools of 120. In each, gradients are taken under the proxy's weights of
now, and 12 samples are picked by the greedy of the global schedule, which starts afresh for every candidate pool. After
every T = 10 candidate pools the proxy makes one training step on what was picked since the last, and that buffer is
cleared. The proxy is any model: a small one of the family of the model to be trained is what the paper uses.

A walk can be interrupted: `walk.jsonl` has a line for every finished candidate pool. When it is gone on with, the
training steps are made again from it, which takes no gradients; the picks are those of an undisturbed walk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from spicerack.config import Section
from spicerack.errors import ConfigurationError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.decomposition import TRACE_DTYPE
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import RowMatrix
from spicerack.information.moments import median_alpha
from spicerack.information.room import Room
from spicerack.information.schedule import PartRoom
from spicerack.information.search import search
from spicerack.store.forms import RowForm, bring, lengths_in
from spicerack.training.options import ProxyOptions

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded
    from spicerack.training.proxy import Proxy

WALK_FILE = "walk.jsonl"
ONLINE_TRACE_DTYPE = np.dtype(
    [
        *((name, np.float64) for name in (*(TRACE_DTYPE.names or ()), "alpha")),
        *((name, np.int64) for name in ("pool", "proxy_steps")),
    ]
)
"""Columns of `TRACE_DTYPE`, alpha of the candidate pool, its number, and the training steps before it."""

Samples = Callable[[int], "Encoded"]
PoolDone = Callable[[int, int], None]


class PoolOptions(Section):
    """How candidate pools are made, and picked from."""

    pool_size: Annotated[int, Field(ge=1)] = Field(120, description="samples of a candidate pool")
    pool_picks: Annotated[int, Field(ge=1)] = Field(12, description="samples picked of each candidate pool")
    penalty: Annotated[float, Field(ge=0)] = Field(0.1, description="lambda: weight of the conflict")
    alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="weight of a row; auto: alpha * median |g|^2 = 1 in every candidate pool"
    )
    rows: RowForm = Field("plain", description="rows as they are, at length 1, or at the square root of their length")
    stop_ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="omega: a candidate pool ends before a gain of at most omega times its first pick's"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the order of the samples, the adapters and dropout")


class OnlineOptions(PoolOptions, ProxyOptions):
    """Options of the online schedule: of the candidate pools, and of the proxy, at a constant learning rate."""

    schedule: Literal["online"] = Field("online", description="candidate pools, the proxy trained between them")
    train_every: Annotated[int, Field(ge=1)] = Field(10, description="T: candidate pools between two training steps")


@dataclass(frozen=True)
class Walk:
    """What a walk picked.

    Attributes:
        indices: pool rows in the order picked, (s,) int64.
        trace: a row a pick, columns of `ONLINE_TRACE_DTYPE`.
        scores: (n,) float64, each in its own candidate pool: of a pick when it was picked, of another given the picks;
            NaN where the walk did not come.
        not_finite: rows whose gradient was not, which cannot be picked.
        losses: the proxy's loss at each of its steps.
        short: whether the candidate pools ended before the budget did.
    """

    indices: np.ndarray
    trace: np.ndarray
    scores: np.ndarray
    not_finite: tuple[int, ...]
    losses: tuple[float, ...]
    short: bool = False


@dataclass(frozen=True)
class PoolPicks:
    """What one candidate pool gave: places in it in the order picked, their trace, everyone's score, its alpha."""

    places: np.ndarray
    trace: np.ndarray
    scores: np.ndarray
    alpha: float


def pick_from(rows: np.ndarray, options: PoolOptions, room: Room) -> PoolPicks:
    """The greedy of the global schedule on one candidate pool, its state starting afresh.

    Args:
        rows: gradients (m, k), finite.
        options: alpha, penalty, form of the rows, early stop.
        room: what may be picked of them.
    """
    G = rows.astype(np.float64)
    if options.rows != "plain":
        lengths = np.linalg.norm(G, axis=1)
        bring(G, lengths, lengths_in(options.rows, lengths))
    matrix, everyone = RowMatrix(G), np.ones(len(G), dtype=bool)
    alpha = median_alpha(matrix, everyone)[0] if options.alpha == "auto" else float(options.alpha)
    result = search(
        FullFisher(matrix, alpha),
        Conflict(matrix),
        penalty=Penalty(options.penalty),
        room=room,
        eligible=everyone,
        stop_ratio=options.stop_ratio,
    )
    return PoolPicks(result.indices, result.trace, result.scores, alpha)


def candidate_pools(eligible: np.ndarray, options: PoolOptions) -> list[np.ndarray]:
    """The eligible rows, shuffled by the seed, in candidate pools, each ascending: those of the schedule `pools`."""
    order = np.random.Generator(np.random.PCG64(options.seed)).permutation(np.flatnonzero(eligible))
    return [np.sort(order[start : start + options.pool_size]) for start in range(0, len(order), options.pool_size)]


def walk(
    samples: Samples,
    proxy: Proxy,
    options: OnlineOptions,
    room: Room,
    *,
    folder: Path | None = None,
    done: PoolDone | None = None,
) -> Walk:
    """Walk the pool once.

    Args:
        samples: gives the tokens and labels of a pool row.
        proxy: gives gradients and is trained.
        options: of the schedule.
        room: what may be picked of the pool, none taken yet.
        folder: where `walk.jsonl` is kept, to go on after an interruption; None: nowhere.
        done: called with the number of candidate pools done, and of all.

    Raises:
        ConfigurationError: the candidate pools give fewer rows than the budget asks for.
    """
    pools = candidate_pools(room.open, options)
    check_reach(room, pools, options)
    journal = Journal(None if folder is None else folder / WALK_FILE)
    state = _State(len(room.open), proxy, samples, options)
    for number, members in enumerate(pools):
        if room.full:
            break
        entry = journal.read(number)
        if entry is None:
            entry = _visit(members, samples, proxy, options, room)
            journal.add(entry)
        else:
            for i in entry["picks"]:
                room.take(i)
        state.absorb(number, entry)
        if done is not None:
            done(number + 1, len(pools))
    return replace(state.result(), short=not room.full and options.stop_ratio is None)


def _visit(members: np.ndarray, samples: Samples, proxy: Proxy, options: OnlineOptions, room: Room) -> dict[str, Any]:
    """One candidate pool: its line in the journal."""
    rows = proxy.measure([samples(int(i)) for i in members]).rows
    finite = np.isfinite(rows).all(axis=1)
    kept = members[finite]
    entry: dict[str, Any] = {"members": kept.tolist(), "not_finite": members[~finite].tolist(), "picks": []}
    if not len(kept):
        return {**entry, "trace": {}, "scores": [], "alpha": 1.0}
    picks = pick_from(rows[finite], options, PartRoom(room, kept, options.pool_picks))
    trace = {name: picks.trace[name].tolist() for name in TRACE_DTYPE.names or ()}
    places = kept[picks.places].tolist()
    return {**entry, "picks": places, "trace": trace, "scores": picks.scores.tolist(), "alpha": picks.alpha}


class _State:
    """The walk so far, and the buffer since the proxy's last step."""

    def __init__(self, n: int, proxy: Proxy, samples: Samples, options: OnlineOptions) -> None:
        self.proxy, self.samples, self.options = proxy, samples, options
        self.scores = np.full(n, np.nan)
        self._picks: list[int] = []
        self._traces: list[np.ndarray] = []
        self._buffer: list[int] = []
        self._not_finite: list[int] = []
        self._losses: list[float] = []

    def absorb(self, number: int, entry: dict[str, Any]) -> None:
        """Take in a candidate pool's picks, and train where it is the T-th since the last step."""
        picks = entry["picks"]
        table = np.zeros(len(picks), dtype=ONLINE_TRACE_DTYPE)
        for name in TRACE_DTYPE.names or ():
            table[name] = entry["trace"].get(name, [])
        table["alpha"], table["pool"], table["proxy_steps"] = entry["alpha"], number, self.proxy.steps
        self.scores[entry["members"]] = entry["scores"]
        self._picks += picks
        self._traces.append(table)
        self._buffer += picks
        self._not_finite += entry["not_finite"]
        if (number + 1) % self.options.train_every == 0 and self._buffer:
            self._losses.append(self.proxy.step([self.samples(i) for i in self._buffer]))
            self._buffer = []

    def result(self) -> Walk:
        return Walk(
            np.array(self._picks, dtype=np.int64),
            np.concatenate([np.zeros(0, dtype=ONLINE_TRACE_DTYPE), *self._traces]),
            self.scores,
            tuple(self._not_finite),
            tuple(self._losses),
        )


class Journal:
    """A line for every finished candidate pool; a last line that was cut by an interruption is dropped."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        if path is None or not path.is_file():
            return
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._entries = [json.loads(line) for line in whole.splitlines()]
        with open(path, "r+b") as file:
            file.truncate(len(whole))

    def read(self, number: int) -> dict[str, Any] | None:
        """The line of a candidate pool, if it is finished."""
        return self._entries[number] if number < len(self._entries) else None

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line; a score that is no number stays one."""
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write((json.dumps(entry) + "\n").encode())
                file.flush()


def check_reach(room: Room, pools: Sequence[np.ndarray], options: OnlineOptions) -> None:
    """Find out before the walk whether its picks can fill a budget in rows; with one in tokens nobody knows yet.

    Raises:
        ConfigurationError: they cannot; says which `pool_picks` would.
    """
    reach = sum(min(options.pool_picks, len(members)) for members in pools)
    if room.count is None or options.stop_ratio is not None or reach >= room.count:
        return
    enough = next(
        (p for p in range(1, options.pool_size + 1) if sum(min(p, len(m)) for m in pools) >= room.count),
        options.pool_size,
    )
    raise ConfigurationError(
        f"schedule='online' with pool_picks={options.pool_picks} of pool_size={options.pool_size} reaches {reach} "
        f"rows, the budget is {room.count}; use pool_picks={enough}, or a budget of at most {reach} rows"
    )
