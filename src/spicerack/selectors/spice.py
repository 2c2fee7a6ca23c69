"""SPICE: information minus conflict, greedily (arXiv 2601.23155, ICLR 2026).

    score_x(S) = gain_x(S) - penalty * conflict_x(S)

The information is the log-det of the Fisher matrix (objective "volume", the paper's), its diagonal forms, or the
posterior variance of target directions (objective "transductive", ours). Early stop is the paper's SPICE+.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from spicerack.errors import ConfigurationError
from spicerack.information.certificate import Allowance, Certificate, PrefixBounds, certify, greedy_factor
from spicerack.information.conflict import Conflict
from spicerack.information.decomposition import TRACE_DTYPE
from spicerack.information.diagonal import AdaFisherCode, DiagonalFisher
from spicerack.information.greedy import GreedyResult, final_scores, greedy
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import FloatArray, IntArray, RowMatrix, second_moment
from spicerack.information.state import InformationState
from spicerack.information.transductive import Transductive
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.budget import ResolvedBudget

POOL_TRACE_DTYPE = np.dtype([*((name, np.float64) for name in TRACE_DTYPE.names or ()), ("pool", np.int64)])
"""Trace of the schedule "pools": the columns of `TRACE_DTYPE` and the number of the candidate pool."""


class SpiceOptions(MethodOptions):
    """Options of SPICE."""

    objective: Literal["volume", "transductive"] = Field(
        "volume",
        description="log-det of the Fisher matrix, or variance left in the target's (else the pool's) directions",
    )
    penalty: Annotated[float, Field(ge=0)] = Field(0.1, description="lambda: weight of the conflict, in units of gain")
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
    certify: bool = Field(True, description="bound how far the set is from the best (volume with full or diag)")
    precision: Literal["float32", "float64"] = Field("float32", description="dtype of the passes; picks do not change")

    @model_validator(mode="after")
    def _combinations(self) -> SpiceOptions:
        if self.objective == "transductive" and self.fisher != "full":
            raise ValueError(f"objective='transductive' is defined for fisher='full', not {self.fisher!r}")
        if self.pool_picks > self.pool_size:
            raise ValueError(f"pool_picks={self.pool_picks} is above pool_size={self.pool_size}")
        return self


class Spice:
    """Greedy by marginal information minus conflict with the picks so far."""

    name = "spice"
    summary = "marginal Fisher information minus conflict with what is already picked"
    paper = "arXiv 2601.23155"
    needs = Needs(target="optional")
    Options: type[MethodOptions] = SpiceOptions

    def select(self, problem: Problem, options: SpiceOptions) -> Picks:
        """Pick by the chosen objective and schedule."""
        if problem.target is not None and options.objective == "volume":
            raise ConfigurationError(
                "objective='volume' reads no target: use objective='transductive', or leave the target out"
            )
        matrix = problem.rows.row_matrix(options.rows, np.float32 if options.precision == "float32" else np.float64)
        alpha = _resolve_alpha(problem, options, matrix)
        fisher = _Fisher(options, alpha, _target_moment(problem, options, matrix))
        if options.schedule == "global":
            result, certificate = _global(problem, options, fisher, matrix)
            return Picks(result.indices, result.scores, result.trace, certificate, {"alpha": alpha})
        indices, trace = _pools(problem, options, fisher, matrix)
        state, conflict = fisher.state(matrix), Conflict(matrix)
        state.absorb(indices)
        conflict.absorb(indices)
        scores = final_scores(
            state,
            conflict,
            penalty=options.penalty,
            eligible=problem.eligible,
            indices=indices,
            picked=trace["score"],
        )
        stopped = options.stop_ratio is not None
        return Picks(indices, scores, trace, _certificate(problem, options, state, indices, stopped), {"alpha": alpha})


SPICE = Spice()


@dataclass(frozen=True)
class _Fisher:
    """Makes information states without picks."""

    options: SpiceOptions
    alpha: float
    moment: FloatArray | None

    def state(self, matrix: RowMatrix) -> InformationState:
        if self.moment is not None:
            return Transductive(matrix, self.moment, self.alpha)
        if self.options.fisher == "full":
            return FullFisher(matrix, self.alpha)
        if self.options.fisher == "diag":
            return DiagonalFisher(matrix, self.alpha)
        return AdaFisherCode(matrix, self.alpha)


def _resolve_alpha(problem: Problem, options: SpiceOptions, matrix: RowMatrix) -> float:
    """Alpha such that `alpha * median |g|^2 = 1`: norms of real models span orders of magnitude."""
    if options.alpha != "auto":
        return float(options.alpha)
    squared = matrix.squared_norms[problem.eligible]
    median, of = float(np.median(squared)), "eligible rows"
    if median == 0.0 and squared.any():
        median, of = float(np.median(squared[squared > 0.0])), "non-zero rows, most rows being zero"
    if median == 0.0:
        problem.choose("alpha", 1.0, "every row is zero, so any alpha gives the same picks")
        return 1.0
    alpha = 1.0 / median
    problem.choose("alpha", alpha, f"alpha * median |g|^2 = 1 over the {of}")
    return alpha


def _target_moment(problem: Problem, options: SpiceOptions, matrix: RowMatrix) -> FloatArray | None:
    if options.objective != "transductive":
        return None
    if problem.target is None:
        problem.choose("target", "pool", "objective='transductive' without a target: the pool's own rows stand for it")
        return second_moment(matrix, problem.eligible)
    return second_moment(problem.target.row_matrix(options.rows, np.float32), problem.target.included)


def _global(
    problem: Problem, options: SpiceOptions, fisher: _Fisher, matrix: RowMatrix
) -> tuple[GreedyResult, Certificate | None]:
    state = fisher.state(matrix)
    bounded = options.certify and options.stop_ratio is None and isinstance(state, (FullFisher, DiagonalFisher))
    prefixes = PrefixBounds(_allowance(problem, None)) if bounded else None
    result = greedy(
        state,
        Conflict(matrix),
        penalty=options.penalty,
        budget=problem.budget,
        eligible=problem.eligible,
        tokens=problem.tokens,
        stop_ratio=options.stop_ratio,
        watch=prefixes.watch if prefixes else None,
    )
    if result.sharpened_at is not None:
        reason = f"float32 could not tell the best rows apart after {result.sharpened_at} picks"
        problem.choose("precision", "float64", reason)
    stopped = result.stopped == "stop_ratio"
    certificate = _certificate(problem, options, state, result.indices, stopped, prefixes)
    return result, _with_greedy_factor(certificate, problem, options, result)


def _certificate(
    problem: Problem,
    options: SpiceOptions,
    state: InformationState,
    indices: IntArray,
    stopped: bool,
    prefixes: PrefixBounds | None = None,
) -> Certificate | None:
    if not options.certify:
        return None
    if not isinstance(state, (FullFisher, DiagonalFisher)):
        what = options.objective if options.objective == "transductive" else options.fisher
        problem.choose("certificate", None, f"{what!r} is not submodular information: no bound holds")
        return None
    allowance = _allowance(problem, indices if stopped else None)
    certificate = certify(state, indices, eligible=problem.eligible, allowance=allowance, prefixes=prefixes)
    for note in certificate.notes:
        problem.choose("certificate", certificate.method, note)
    return certificate


def _with_greedy_factor(
    certificate: Certificate | None, problem: Problem, options: SpiceOptions, result: GreedyResult
) -> Certificate | None:
    count = _allowance(problem, result.indices if result.stopped == "stop_ratio" else None).count
    if certificate is None or count is None:
        return certificate
    gains, scores = result.trace["gain"], result.trace["score"]
    return replace(certificate, greedy_factor=greedy_factor(gains, scores, penalty=options.penalty, count=count))


def _allowance(problem: Problem, stopped_at: IntArray | None) -> Allowance:
    """The sets a certificate speaks of: those of the budget, or no larger than the set of a run that stopped early."""
    if problem.budget.count is not None:
        return Allowance(count=problem.budget.count if stopped_at is None else int(stopped_at.size))
    assert problem.tokens is not None  # resolve() saw to it
    spent = problem.budget.tokens if stopped_at is None else int(problem.tokens[stopped_at].sum())
    return Allowance(capacity=spent, tokens=problem.tokens)


def _pools(
    problem: Problem, options: SpiceOptions, fisher: _Fisher, matrix: RowMatrix
) -> tuple[IntArray, npt.NDArray[Any]]:
    """Walk the rows, shuffled by seed, in candidate pools; the same greedy in each, its state starting afresh."""
    order = np.random.Generator(np.random.PCG64(problem.seed)).permutation(np.flatnonzero(problem.eligible))
    pools = [order[start : start + options.pool_size] for start in range(0, order.size, options.pool_size)]
    _check_reach(problem, options, [pool.size for pool in pools])
    left = problem.budget
    picked: list[IntArray] = []
    traces: list[npt.NDArray[Any]] = []
    for number, shuffled in enumerate(pools):
        if left.count == 0:
            break
        result = _one_pool(problem, options, fisher, matrix, np.sort(shuffled), left)
        rows = np.sort(shuffled)[result.indices]
        picked.append(rows)
        traces.append(_with_pool(result.trace, number))
        left = _spend(left, rows, problem.tokens)
    indices = np.concatenate(picked).astype(np.int64)
    _check_spent(problem, options, indices, left)
    return indices, np.concatenate(traces)


def _one_pool(
    problem: Problem, options: SpiceOptions, fisher: _Fisher, matrix: RowMatrix, rows: IntArray, left: ResolvedBudget
) -> GreedyResult:
    part = RowMatrix(matrix.G[rows], lambda inner: matrix.rows_at(rows[inner]))
    limit = _PoolBudget(options.pool_picks if left.count is None else min(options.pool_picks, left.count), left.tokens)
    return greedy(
        fisher.state(part),
        Conflict(part),
        penalty=options.penalty,
        budget=limit,
        eligible=np.ones(rows.size, dtype=bool),
        tokens=None if problem.tokens is None else problem.tokens[rows],
        stop_ratio=options.stop_ratio,
    )


@dataclass(frozen=True)
class _PoolBudget:
    """Inside one candidate pool both limits may hold."""

    count: int | None
    tokens: int | None


def _spend(left: ResolvedBudget, rows: IntArray, tokens: IntArray | None) -> ResolvedBudget:
    if left.count is not None:
        return ResolvedBudget(count=left.count - rows.size)
    assert left.tokens is not None
    assert tokens is not None
    return ResolvedBudget(tokens=left.tokens - int(tokens[rows].sum()))


def _with_pool(trace: npt.NDArray[Any], number: int) -> npt.NDArray[Any]:
    table = np.empty(trace.size, dtype=POOL_TRACE_DTYPE)
    for name in TRACE_DTYPE.names or ():
        table[name] = trace[name]
    table["pool"] = number
    return table


def _check_reach(problem: Problem, options: SpiceOptions, sizes: list[int]) -> None:
    count = problem.budget.count
    if count is None or sum(min(options.pool_picks, size) for size in sizes) >= count:
        return
    enough = next(p for p in range(1, options.pool_size + 1) if sum(min(p, size) for size in sizes) >= count)
    raise ConfigurationError(
        f"schedule='pools' with pool_picks={options.pool_picks} of pool_size={options.pool_size} reaches "
        f"{sum(min(options.pool_picks, size) for size in sizes)} rows, the budget is {count}; use pool_picks={enough}"
    )


def _check_spent(problem: Problem, options: SpiceOptions, indices: IntArray, left: ResolvedBudget) -> None:
    """A token budget shows only after the walk whether the pools gave enough."""
    if left.tokens is None or problem.tokens is None or problem.budget.tokens is None or options.stop_ratio is not None:
        return
    rest = problem.eligible.copy()
    rest[indices] = False
    if not (rest & (problem.tokens <= left.tokens)).any():
        return
    spent = problem.budget.tokens - left.tokens
    enough = min(options.pool_size, -(-options.pool_picks * problem.budget.tokens // max(1, spent)))
    raise ConfigurationError(
        f"schedule='pools' with pool_picks={options.pool_picks} of pool_size={options.pool_size} spends {spent} of "
        f"{problem.budget.tokens} tokens; use pool_picks={max(enough, options.pool_picks + 1)} or more"
    )
