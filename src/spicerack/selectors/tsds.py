"""TSDS: samples drawn from the optimal transport of the target to the pool (arXiv 2410.11303, NeurIPS 2024).

Embeddings at unit length stand for samples. Every target sample's mass goes to the pool samples nearest to it, spread
the wider the less that costs, and near-duplicates share the mass of one (`information/transport.py`). The picks are
drawn from that mass, without replacement; the paper draws with replacement, which trains on copies.

Hidden states of a language model share a large common direction that makes all of them look alike; by default the
pool's mean is taken off first, which the sentence embeddings of the paper do not need.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spicerack.information.contents import deal
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.neighbors import best_products, nearest
from spicerack.information.transport import densities, mass_of_rows, transport
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.preparing import WEIGHTED, read_array
from spicerack.selectors.ranking import TRACE_DTYPE, narrowed

DECIMALS = 5


class TsdsOptions(MethodOptions):
    """Options of tsds."""

    alpha: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="weight of the distance to the target; 1 - alpha: of the spread"
    )
    scale: Annotated[float, Field(gt=0)] = Field(5.0, description="C: scale of distances")
    bandwidth: Annotated[float, Field(ge=0)] = Field(
        0.3, description="sigma: rows nearer than this count as near-duplicates; 0: none do"
    )
    neighbors: Annotated[int, Field(ge=1)] = Field(5000, description="most pool samples that a target sample reaches")
    center: bool = Field(True, description="take the pool's mean off the embeddings first")
    draw: Literal["sample", "top"] = Field("sample", description="draw from the mass, or take the largest")


class Tsds:
    """Draws from the target's mass, transported to the pool."""

    name = "tsds"
    summary = "drawn from the optimal transport of the target to the pool, near-duplicates sharing"
    paper = "arXiv 2410.11303"
    needs = Needs(target="required", arrays=(WEIGHTED,), cost="one forward pass")
    Options: type[MethodOptions] = TsdsOptions

    def select(self, problem: Problem, options: TsdsOptions) -> Picks:
        """Draw; the score of a row is its mass. Rows without mass come last, the nearest to the target first."""
        rows, usable = read_array(problem, WEIGHTED)
        assert problem.target is not None  # the target is required
        target = problem.target.array(WEIGHTED)
        mean = rows.matrix()[usable].mean(axis=0, dtype=np.float64) if options.center else np.zeros(rows.k)
        X = _unit(rows.matrix()[usable] - mean)
        goal = _unit(target.take(np.flatnonzero(target.included)) - mean)
        mass, size = _masses(X, goal, options)
        scores = np.full(rows.n, np.nan)
        scores[usable] = mass
        order = _order(X, goal, mass, problem.seed if options.draw == "sample" else None)
        indices = narrowed(problem, usable).room().take_in_order(np.flatnonzero(usable)[order])
        without = int(np.count_nonzero(scores[indices] == 0.0))
        if without:
            reason = "picks that the target sends no mass to: the budget reaches beyond what it spreads over"
            problem.choose("without mass", without, f"{reason}; they are the nearest of the rest")
        trace = np.empty(indices.size, dtype=TRACE_DTYPE)
        trace["score"] = scores[indices]
        findings = {"spread": size, "rows_with_mass": int(np.count_nonzero(mass)), "picks_without_mass": without}
        return Picks(indices, scores, trace, findings=findings)


TSDS = Tsds()


def _unit(X: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return (X / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)


def _masses(
    X: npt.NDArray[np.float32], goal: npt.NDArray[np.float32], options: TsdsOptions
) -> tuple[FloatArray, float]:
    """The mass of every row, (u,), and the spread S."""
    neighbors, cosines = nearest(goal, X, options.neighbors)
    reached: BoolArray = np.zeros(len(X), dtype=bool)
    reached[neighbors] = True
    density = np.ones(len(X))
    density[reached] = densities(X[reached], options.bandwidth)
    distances = np.sqrt(np.maximum(2.0 - 2.0 * cosines.astype(np.float64), 0.0))
    mass, size = transport(distances, density[neighbors], alpha=options.alpha, scale=options.scale)
    return mass_of_rows(mass, neighbors, len(X)), size


def _order(X: npt.NDArray[np.float32], goal: npt.NDArray[np.float32], mass: FloatArray, seed: int | None) -> IntArray:
    """Rows in the order in which they are picked, (u,).

    The largest of `log mass + Gumbel noise` are a draw without replacement. Without a seed the largest mass comes
    first; equal masses, and rows without any, go by cosine to the target.
    """
    nearness = np.round(best_products(X, goal), DECIMALS)  # what float32 can tell apart
    keys = np.round(mass * mass.size, 3 * DECIMALS)
    if seed is not None:
        noise = deal(RowMatrix(X), np.random.Generator(np.random.PCG64(seed)).gumbel(size=mass.size))
        keys = np.where(mass > 0.0, np.exp(noise) * mass, 0.0)
    return np.lexsort((np.arange(mass.size), -nearness, -keys))
