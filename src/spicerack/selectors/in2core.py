"""In2Core: samples whose training lowers the target's loss, by DataInf on a part of the weights (arXiv 2408.03560).

The score is minus the influence on the mean target gradient: positive for *proponents*. Only proponents are picked. The
weights are taken block by block where the store keeps their columns apart (`GradientStore.segments`).

The paper reads gradients as they are. Under a mean over tokens their length says how short a response is, and short
responses win whatever the target; so rows have unit length by default (docs/decisions/0006-in2core-unit-rows.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from spicerack.errors import BudgetError, ConfigurationError
from spicerack.information.datainf import Curvature, Hessian
from spicerack.information.influence import Block
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.information.overlap import spearman
from spicerack.information.room import Room
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.blocks import Blocks, Layers
from spicerack.selectors.budget import ResolvedBudget
from spicerack.selectors.ranking import narrowed
from spicerack.selectors.rows import free_memory

TRACE_DTYPE = np.dtype([("score", np.float64), ("influence", np.float64)])
WORST = 10
"""Target rows named as the worst covered, at most; and at most a tenth of them."""


class In2CoreOptions(MethodOptions):
    """Options of In2Core."""

    rows: Literal["plain", "unit"] = Field(
        "unit", description="pool and target rows scaled to unit length, or as they are (the paper's)"
    )
    hessian: Hessian = Field("datainf", description="how the damped second moments of the gradients are inverted")
    layers: Layers | tuple[str, ...] = Field(
        "first", description="blocks of weights that are read: a share of them, or names (layers.3, q_proj), or all"
    )
    layer_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the blocks that layers=first, last and stride read"
    )
    damping: Annotated[float, Field(gt=0)] = Field(
        0.1, description="lambda of a block: this times the mean square of a number in its rows"
    )
    reading: Literal["pool", "proponents"] = Field(
        "pool",
        description="the budget is a share of the pool (no more than there are proponents), or of the proponents",
    )
    proponents_only: bool = Field(True, description="rather pick fewer than samples that raise the target's loss")
    pilot: Annotated[int, Field(ge=0)] = Field(
        500, description="rows on which the blocks that are read are compared with all; 0: no comparison"
    )
    coverage: Annotated[int, Field(ge=1)] = Field(
        10, description="best proponents whose mean influence is a target row's coverage"
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Names separated by commas, as the command line has them."""
        if isinstance(value, str) and value not in ("first", "last", "stride", "all"):
            return tuple(name.strip() for name in value.split(","))
        return value


class In2Core:
    """The strongest proponents."""

    name = "in2core"
    summary = "influence on the target's loss, by DataInf on a part of the weights"
    paper = "arXiv 2408.03560"
    needs = Needs(target="required", cost="adapters trained, one gradient pass with --layout blocks")
    Options: type[MethodOptions] = In2CoreOptions

    def select(self, problem: Problem, options: In2CoreOptions) -> Picks:
        """Rank by minus the influence; ties go to the first row."""
        blocks = Blocks.of(problem.rows.segments, options.layers, options.layer_share)
        if blocks.count_in_all == 1:
            problem.choose(
                "layers", "all", "the rows' columns mix all weights: one block; --layout blocks keeps them apart"
            )
        targets, V = _target_gradients(problem, options)
        if options.hessian == "exact":
            _check_memory(blocks)
        scores, coverage = _score(problem, options, blocks, V)
        indices = _pick(problem, options, scores)
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["score"], trace["influence"] = scores[indices], -scores[indices]
        worst = np.argsort(coverage, kind="stable")[: min(WORST, -(-targets.size // 10))]
        findings = {
            "blocks": list(blocks.names),
            "blocks_in_all": blocks.count_in_all,
            "proponents": int(np.count_nonzero(scores > 0)),
            "coverage": {"target_rows": targets.tolist(), "mean_influence": (-coverage).tolist()},
            "worst_covered": targets[worst].tolist(),
            **_pilot(problem, options, blocks, V),
        }
        return Picks(indices, scores, trace, findings=findings)


IN2CORE = In2Core()


def _target_gradients(problem: Problem, options: In2CoreOptions) -> tuple[IntArray, FloatArray]:
    """Numbers of the target rows that are usable (u,), and their gradients (u, k)."""
    assert problem.target is not None  # read_target() saw to it
    targets = np.flatnonzero(problem.target.included)
    if targets.size < problem.target.n:
        reason = f"of {problem.target.n}; the others have no trained tokens or no finite gradient"
        problem.choose("target rows", int(targets.size), reason)
    return targets, problem.target.take(targets, options.rows)


def _score(problem: Problem, options: In2CoreOptions, blocks: Blocks, V: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Minus the influence on the mean target gradient, (n,), NaN if not eligible; and every target's coverage, (u,)."""

    def stream() -> Iterable[Block]:
        return ((part, blocks.take(rows)) for part, rows in problem.rows.stream(options.rows, np.float64))

    curvature = _curvature(options, blocks, stream, problem.eligible)
    directions = curvature.directions(blocks.take(np.concatenate([V.mean(axis=0, keepdims=True), V])))
    scores = np.empty(problem.rows.n)
    depth = min(options.coverage, int(np.count_nonzero(problem.eligible)))
    best = np.full((len(V), depth), -np.inf)
    for part, influence in curvature.influences(directions):
        scores[part] = -influence[0]
        offered = np.where(problem.eligible[part], -influence[1:], -np.inf)
        best = np.partition(np.concatenate([best, offered], axis=1), -depth, axis=1)[:, -depth:]
    return np.where(problem.eligible, scores, np.nan), best.mean(axis=1)


def _curvature(
    options: In2CoreOptions, blocks: Blocks, stream: Callable[[], Iterable[Block]], counted: BoolArray
) -> Curvature:
    return Curvature.measure(stream, counted, blocks.places, damping=options.damping, hessian=options.hessian)


def _pick(problem: Problem, options: In2CoreOptions, scores: FloatArray) -> IntArray:
    """The best, as the budget is read."""
    forced, proponents = np.array(problem.forced, dtype=np.int64), int(np.count_nonzero(scores > 0))
    if options.reading == "proponents":
        count = _share_of(problem, proponents)
        problem.choose("picks", count, f"{problem.budget.share:.3g} of the {proponents} proponents")
        problem = replace(problem, budget=ResolvedBudget(max(count, forced.size), share=problem.budget.share))
    room = _room(problem, options, scores > 0)
    order = np.setdiff1d(np.flatnonzero(problem.eligible), forced)
    order = order[np.argsort(-scores[order], kind="stable")]
    if options.proponents_only:
        order = order[scores[order] > 0]
    indices = room.take_in_order(order)
    if options.reading == "pool" and not room.full:
        asked = ", ".join(f"{value} {unit}" for unit, value in problem.budget.to_dict().items())
        reason = f"there are {proponents} proponents, the budget holds more ({asked}); proponents_only=False fills it"
        problem.choose("picks", int(indices.size), reason)
    return indices


def _room(problem: Problem, options: In2CoreOptions, proponents: BoolArray) -> Room:
    """What may be picked.

    Raises:
        BudgetError: quotas that cannot be met, where only proponents are picked or the budget is a share of them.
    """
    if problem.quotas is None:
        return problem.room()
    hint = "; the budget is a share of the proponents (reading='pool': of the pool)" * (options.reading == "proponents")
    if options.proponents_only:
        problem = narrowed(problem, problem.eligible & proponents)
        hint += "; only proponents are picked (proponents_only=False picks others too)"
    try:
        return problem.room()
    except BudgetError as error:
        raise BudgetError(f"{error}{hint}") from error


def _share_of(problem: Problem, proponents: int) -> int:
    """The budget as a number of proponents."""
    share = problem.budget.share
    if share is None:
        raise ConfigurationError(
            f"reading='proponents' takes a share as the budget (0.5 or '50%'), not {problem.budget.to_dict()}"
        )
    return min(proponents, max(1, round(share * proponents)))


def _pilot(problem: Problem, options: In2CoreOptions, blocks: Blocks, V: FloatArray) -> dict[str, Any]:
    """On random rows: how the blocks that are read rank them, beside all blocks."""
    rows = np.flatnonzero(problem.eligible)
    if blocks.all_of_them or options.pilot == 0 or rows.size < 2:
        return {}
    draw = np.random.Generator(np.random.PCG64(problem.seed)).permutation(rows.size)[: options.pilot]
    G, mean = problem.rows.take(np.sort(rows[draw]), options.rows), V.mean(axis=0, keepdims=True)
    some, every = (_pilot_scores(options, part, G, mean) for part in (blocks, blocks.whole()))
    share = problem.budget.share or (problem.budget.count or rows.size / 2) / rows.size
    top = max(1, round(share * len(G)))
    first, second = (np.argsort(-scores, kind="stable")[:top] for scores in (some, every))
    both = np.intersect1d(first, second).size
    correlation = spearman(some, every)
    said = "undefined" if correlation is None else f"{correlation:.2f}"
    reason = f"on {len(G)} rows they rank as all do: rank correlation {said}, {both} of the best {top} in common"
    problem.choose("layers", f"{len(blocks.names)} of {blocks.count_in_all} blocks", reason)
    return {"pilot": {"rows": len(G), "rank_correlation": correlation, "top": top, "top_overlap": both / top}}


def _pilot_scores(options: In2CoreOptions, blocks: Blocks, G: FloatArray, mean: FloatArray) -> FloatArray:
    own = blocks.take(G)
    every = np.ones(len(own), dtype=bool)
    curvature = _curvature(options, blocks, lambda: [(slice(0, len(own)), own)], every)
    directions = curvature.directions(blocks.take(mean))
    return np.concatenate([-influence[0] for _, influence in curvature.influences(directions)])


def _check_memory(blocks: Blocks) -> None:
    """The exact Hessian holds a square matrix for each block."""
    needed, free = sum(8 * (place.stop - place.start) ** 2 for place in blocks.places), free_memory()
    if 3 * needed > free:
        raise ConfigurationError(
            f"hessian='exact' holds the second moments of every block, {needed / 2**30:.1f} GB and as much again to "
            f"solve with, and {free / 2**30:.1f} GB are free; use hessian='datainf', or fewer layers"
        )
