"""SPICE: information minus conflict, greedily (arXiv 2601.23155, ICLR 2026).

    score_x(S) = gain_x(S) - penalty * conflict_x(S)

The information is the log-det of the Fisher matrix (objective "volume", the paper's), its diagonal forms, or the
posterior variance of target directions (objective "transductive", ours). Early stop is the paper's SPICE+.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from spicerack.errors import ConfigurationError, GradientError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.density import densities
from spicerack.information.diagonal import AdaFisherCode, DiagonalFisher
from spicerack.information.greedy import GreedyResult, final_scores
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, RowMatrix
from spicerack.information.moments import mean_row, second_moment
from spicerack.information.room import Room
from spicerack.information.schedule import check_reach, walk_pools
from spicerack.information.search import cheapest_owed, partition_greedy, room_among, search, stochastic_greedy
from spicerack.information.state import InformationState
from spicerack.information.transductive import Transductive
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.certifying import certificate_of, penalty_report, prefix_bounds
from spicerack.selectors.devices import DEVICE_DESCRIPTION, DeviceName, check_device
from spicerack.selectors.preparing import WEIGHTED, held_rows, resolve_alpha


class SpiceOptions(MethodOptions):
    """Options of SPICE."""

    objective: Literal["volume", "transductive"] = Field(
        "volume",
        description="log-det of the Fisher matrix, or variance left in the target's (else the pool's) directions",
    )
    balance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="of the pool as the target: a row weighs as the density of last hidden states there, to the "
        "-balance; 0: every row alike; more: rare kinds of samples count more",
    )
    penalty: Annotated[float, Field(ge=0)] = Field(0.1, description="lambda: weight of the conflict")
    penalty_unit: Literal["information", "gain"] = Field(
        "information", description="of lambda: the paper's absolute one, or the largest gain on offer (scale-free)"
    )
    center: bool = Field(False, description="subtract the pool's mean row before conflict is measured")
    alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="weight of a row; auto: alpha * median |g|^2 = 1"
    )
    rows: Literal["plain", "unit"] = Field("plain", description="rows as they are, or scaled to unit length")
    fisher: Literal["full", "diag", "adafisher-code"] = Field("full", description="form of the Fisher matrix (volume)")
    stop_ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="omega: stop before the first pick whose gain is at most omega times the first pick's"
    )
    schedule: Literal["global", "pools"] = Field("global", description="one greedy, or one per shuffled candidate pool")
    pool_size: Annotated[int, Field(ge=1)] = Field(120, description="rows of a candidate pool")
    pool_picks: Annotated[int, Field(ge=1)] = Field(12, description="rows picked of each candidate pool")
    search: Literal["exact", "stochastic", "partitions"] = Field(
        "exact", description="every pick the best; or the best of a random sample; or of what parts of the pool picked"
    )
    stochastic_loss: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the guarantee that stochastic greedy may lose: sets its sample size"
    )
    partitions: Annotated[int, Field(ge=2)] = Field(8, description="parts of the two-round search")
    certify: bool = Field(True, description="bound how far the set is from the best (volume with full or diag)")
    compare_penalty: Literal["auto"] | bool = Field(
        "auto", description="select without penalty too, to tell what it changed; auto: where that is quick"
    )
    precision: Literal["float32", "float64"] = Field("float32", description="dtype of the passes; picks do not change")
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="larger working copies of the rows are streamed from the store; None: half of free memory"
    )
    device: DeviceName = Field("auto", description=DEVICE_DESCRIPTION)

    @field_validator("schedule", mode="before")
    @classmethod
    def _without_a_model(cls, value: Any) -> Any:
        if value == "online":
            raise ValueError(
                "'global' or 'pools' here: 'online' keeps a model in the loop, which `spicerack run` and "
                "spicerack.training.online have"
            )
        return value

    @model_validator(mode="after")
    def _combinations(self) -> SpiceOptions:
        if self.objective == "transductive" and self.fisher != "full":
            raise ValueError(f"objective='transductive' is defined for fisher='full', not {self.fisher!r}")
        wide = "precision='float64'" if self.precision == "float64" else None
        other = f"fisher={self.fisher!r}" if self.fisher != "full" else None
        check_device(self.device, "of fisher='full'", wide or other)
        if self.balance and self.objective != "transductive":
            raise ValueError(f"balance={self.balance} weighs the target of objective='transductive'; leave it out")
        if self.pool_picks > self.pool_size:
            raise ValueError(f"pool_picks={self.pool_picks} is above pool_size={self.pool_size}")
        if self.schedule == "pools" and self.search != "exact":
            raise ValueError(f"schedule='pools' searches each pool exactly; leave out search={self.search!r}")
        return self


class Spice:
    """Greedy by marginal information minus conflict with the picks so far."""

    name = "spice"
    summary = "marginal Fisher information minus conflict with what is already picked"
    paper = "arXiv 2601.23155"
    needs = Needs(target="optional")
    Options: type[MethodOptions] = SpiceOptions

    def needs_with(self, options: SpiceOptions) -> Needs:
        """Embeddings beside the gradients, where the pool is balanced by them."""
        if not options.balance:
            return self.needs
        cost = "one gradient pass and one forward pass"
        return replace(self.needs, arrays=(*self.needs.arrays, WEIGHTED), cost=cost)

    def check_target(self, options: SpiceOptions, subtasks: Sequence[str]) -> None:
        """Refuse a target that these options have no use for."""
        if subtasks and options.objective == "volume":
            raise ConfigurationError(
                "objective='volume' reads no target: use objective='transductive', or leave the target out"
            )
        if subtasks and options.balance:
            raise ConfigurationError("balance weighs the pool as its own target; leave it out where a target is given")

    def check_room(self, options: SpiceOptions, room: Room) -> None:
        """Refuse a budget, or quotas, that these options cannot meet."""
        if options.stop_ratio is not None and room.quotas is not None and room.quotas.least.any():
            raise ConfigurationError(
                f"stop_ratio={options.stop_ratio:g} may stop before the least rows of the quotas are picked; leave it "
                "out, or give quotas without a least number ('..30%')"
            )
        if options.search == "stochastic" and room.count is None:
            raise ConfigurationError("search='stochastic' draws n / count rows a pick: give a budget in rows")
        if options.schedule == "pools":
            check_reach(room, options.pool_size, options.pool_picks)

    def select(self, problem: Problem, options: SpiceOptions) -> Picks:
        """Pick by the chosen objective, schedule and search."""
        self.check_target(options, problem.subtasks)
        self.check_room(options, problem.room())
        task = Task(problem, options)
        result = task.walk() if options.schedule == "pools" else task.search()
        certificate = certificate_of(problem, options, task.state, result, task.prefixes, task.one_run)
        findings = penalty_report(problem, options, result, task.without_penalty)
        resolved = {"alpha": task.alpha, "device": task.device}
        return Picks(result.indices, result.scores, result.trace, certificate, resolved, findings)


SPICE = Spice()


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
        self.penalty = Penalty(options.penalty, relative=options.penalty_unit == "gain")
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
