"""One selection by SPICE: its rows, its information state, and the way it is searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spicerack.errors import GradientError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.density import densities
from spicerack.information.diagonal import AdaFisherCode, DiagonalFisher
from spicerack.information.greedy import GreedyResult, final_scores
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, RowMatrix
from spicerack.information.moments import mean_row, second_moment
from spicerack.information.schedule import walk_pools
from spicerack.information.search import cheapest_owed, partition_greedy, room_among, search, stochastic_greedy
from spicerack.information.state import InformationState
from spicerack.information.transductive import Transductive
from spicerack.selectors.base import Problem
from spicerack.selectors.certifying import prefix_bounds
from spicerack.selectors.preparing import WEIGHTED, held_rows, resolve_alpha

if TYPE_CHECKING:
    from spicerack.selectors.spice import SpiceOptions


class Task:
    """One selection: rows, alpha, center, and the state that ends up holding the picks."""

    def __init__(self, problem: Problem, options: SpiceOptions) -> None:
        self.problem, self.options = problem, options
        dtype = np.float32 if options.precision == "float32" else np.float64
        searched = options.fisher == "full" and options.schedule == "global" and options.search != "stochastic"
        self.matrix = held_rows(
            problem,
            problem.rows,
            options.rows,
            dtype,
            memory_gb=options.memory_gb,
            device=options.device,
            pays=searched,
            halves=options.objective == "transductive",
        )
        self.device = self.matrix.device
        self.alpha = resolve_alpha(problem, options.alpha, self.matrix)
        self.moment = _target_moment(problem, options, self.matrix)
        self.center = mean_row(self.matrix, problem.eligible) if options.center else None
        self.penalty_unit = _penalty_unit(problem, options)
        self.penalty = Penalty(options.penalty, relative=self.penalty_unit == "gain")
        self.state = self.make_state(self.matrix)
        self.prefixes = prefix_bounds(problem, options, self.state)
        self.one_run = options.schedule == "global" and options.search == "exact"

    def make_state(self, matrix: RowMatrix) -> InformationState:
        """An information state without picks."""
        if self.moment is not None:
            return Transductive(matrix, self.moment, self.alpha)
        if self.options.fisher == "full":
            return FullFisher(matrix, self.alpha)
        if self.options.fisher == "diag":
            return DiagonalFisher(matrix, self.alpha)
        return AdaFisherCode(matrix, self.alpha)

    def search(self) -> GreedyResult:
        """One greedy over the whole pool."""
        result = self._search(self.state, self.penalty)
        if result.sharpened_at is not None:
            reason = f"float32 could not tell the best rows apart after {result.sharpened_at} picks"
            self.problem.choose("precision", "float64", reason)
        return result

    def without_penalty(self) -> GreedyResult:
        """The same search with lambda zero."""
        state = self.make_state(self.matrix)
        if self.options.schedule == "pools":
            return self._walk(state, Penalty(0.0))
        return self._search(state, Penalty(0.0), watched=False)

    def walk(self) -> GreedyResult:
        """The schedule "pools"."""
        return self._walk(self.state, self.penalty)

    def _search(self, state: InformationState, penalty: Penalty, *, watched: bool = True) -> GreedyResult:
        problem, options, room = self.problem, self.options, self.problem.room()
        conflict = Conflict(self.matrix, self.center)
        common: dict[str, Any] = {"penalty": penalty, "stop_ratio": options.stop_ratio}
        if options.search == "stochastic":
            assert room.count is not None
            return stochastic_greedy(
                state,
                conflict,
                room=room,
                eligible=problem.eligible,
                count=room.count,
                loss=options.stochastic_loss,
                seed=problem.seed,
                **common,
            )
        if options.search == "partitions":
            room.keep(self._second_round(penalty))
        watch = self.prefixes.watch if self.prefixes and watched and options.search == "exact" else None
        return search(state, conflict, room=room, eligible=problem.eligible, watch=watch, **common)

    def _second_round(self, penalty: Penalty) -> BoolArray:
        problem = self.problem
        rows = partition_greedy(
            self.make_state,
            self.matrix,
            self.center,
            penalty=penalty,
            make_room=lambda part: room_among(problem.room(), part, problem.tokens, problem.quotas),
            eligible=problem.eligible,
            parts=self.options.partitions,
            seed=problem.seed,
        )
        kept = np.zeros(self.matrix.n, dtype=bool)
        kept[rows] = True
        kept[list(problem.forced)] = True
        if problem.quotas is not None and problem.budget.count is None:
            assert problem.tokens is not None
            kept[cheapest_owed(problem.quotas, problem.eligible, problem.tokens)] = True
        return kept

    def _walk(self, state: InformationState, penalty: Penalty) -> GreedyResult:
        problem, options = self.problem, self.options
        indices, trace = walk_pools(
            self.matrix,
            self.make_state,
            self.center,
            penalty=penalty,
            room=problem.room(),
            eligible=problem.eligible,
            pool_size=options.pool_size,
            pool_picks=options.pool_picks,
            stop_ratio=options.stop_ratio,
            seed=problem.seed,
        )
        conflict = Conflict(self.matrix, self.center)
        state.absorb(indices)
        conflict.absorb(indices)
        scores = final_scores(
            state, conflict, penalty=penalty, eligible=problem.eligible, indices=indices, picked=trace["score"]
        )
        stopped: Literal["budget", "stop_ratio"] = "budget" if options.stop_ratio is None else "stop_ratio"
        return GreedyResult(indices, trace, scores, stopped, None)


def _penalty_unit(problem: Problem, options: SpiceOptions) -> Literal["information", "gain"]:
    """The option, or what goes with the objective: a log-det has a scale of its own, variance that of the rows."""
    if options.penalty_unit != "auto":
        return options.penalty_unit
    if options.objective == "volume":
        return "information"
    if options.penalty:
        reason = "gains of objective='transductive' scale with the rows' squared length, an absolute penalty does not"
        problem.choose("penalty_unit", "gain", reason)
    return "gain"


def _target_moment(problem: Problem, options: SpiceOptions, matrix: RowMatrix) -> FloatArray | None:
    if options.objective != "transductive":
        return None
    if problem.target is None:
        reason = "objective='transductive' without a target: the pool's own rows stand for it"
        if problem.cut is not None and problem.cut.rows.size:
            reason += ", those that the trim leaves for the whole of their group"
        problem.choose("target", "pool", reason)
        weights = _balanced(problem, options.balance)
        return second_moment(matrix, weights) / float(weights.sum())
    usable = problem.target.included
    return second_moment(problem.target.row_matrix(options.rows, np.float32), usable) / np.count_nonzero(usable)


def _balanced(problem: Problem, balance: float) -> FloatArray:
    """Weights of the pool's rows as their own target, (n,): what each stands for, times density ^ -balance."""
    standing = problem.standing()
    if not balance:
        return standing
    rows = problem.rows.array(WEIGHTED)
    usable = problem.eligible & rows.included
    if not usable.any():
        raise GradientError(f"none of the rows that may be picked has a value of {WEIGHTED}, which balance reads")
    density = densities(lambda: rows.stream("unit"), usable)
    problem.choose("balance", balance, "samples whose last hidden states have few like them weigh more in the target")
    return np.where(usable, standing * density**-balance, 0.0)
