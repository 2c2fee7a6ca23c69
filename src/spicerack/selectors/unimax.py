"""UniMax, reconstructed: uncertainty-aware influence maximization on a learned graph of samples.

After Han et al., WWW 2025 (doi 10.1145/3696410.3714817), of which neither code nor formulas could be reached. Known
is that a self-supervised graph learner gives the edges, an uncertainty-aware influence function the objective, and
greedy the subset. Everything else here is ours:

    U       rank of the mean token loss, in [0, 1]
    edges   ReLU cosine of a small network's output, to the 20 most alike
    p_vu    entry of the squared row-normalized adjacency, the 50 largest of each row
    F(S)  = sum_u w_u (1 - prod_{v in S} (1 - p_vu)) + lam sum_{v in S} U_v,  w_u = (1 - a) + a U_u
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from spicerack.information.contents import content_order
from spicerack.information.graph import edges, reach
from spicerack.information.matrix import BoolArray, FloatArray, IntArray, RowMatrix
from spicerack.information.spread import Spread
from spicerack.information.submodular import lazy_certificate, lazy_picks
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.certifying import allowance
from spicerack.selectors.preparing import read_array
from spicerack.selectors.ranking import narrowed, rank, with_values

COLUMN = "loss_mean"
ARRAY = {"embedding": "embedding", "gradients": "gradient"}
TRACE_DTYPE = np.dtype([("gain", np.float64), ("uncertainty", np.float64), ("score", np.float64)])


class UniMaxOptions(MethodOptions):
    """Options of unimax."""

    features: Literal["embedding", "gradients"] = Field(
        "embedding", description="the mean hidden state, or projected gradients"
    )
    graph: Literal["learned", "knn"] = Field("learned", description="edges of the trained network, or of the features")
    objective: Literal["full", "uncertainty"] = Field("full", description="spread and uncertainty, or the latter alone")
    lam: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight of a pick's own uncertainty, in units of the mean first gain of the spread"
    )
    a: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="how much reaching an uncertain sample counts more")
    neighbors: Annotated[int, Field(ge=1)] = Field(20, description="edges of a sample")
    reached: Annotated[int, Field(ge=1)] = Field(50, description="samples that one reaches at most")
    epochs: Annotated[int, Field(ge=1)] = Field(5, description="walks over the pool to train the network")


class UniMax:
    """Greedy spread over a graph of alike samples, the uncertain ones counting more."""

    name = "unimax"
    summary = "spread over a learned graph of samples plus uncertainty (reconstructed)"
    paper = "doi 10.1145/3696410.3714817"
    needs = Needs(arrays=("embedding",), columns=(COLUMN,), cost="one forward pass")
    Options: type[MethodOptions] = UniMaxOptions

    def needs_with(self, options: UniMaxOptions) -> Needs:
        """The features that are asked for; none for the uncertainty alone."""
        if options.objective == "uncertainty":
            return Needs(gradients=False, arrays=(), columns=(COLUMN,), cost="one forward pass")
        cost = "one gradient pass" if options.features == "gradients" else "one forward pass"
        return Needs(arrays=(ARRAY[options.features],), columns=(COLUMN,), cost=cost)

    def select(self, problem: Problem, options: UniMaxOptions) -> Picks:
        """Pick lazily; certified by the online bound, beside the 1 - 1/e of greedy."""
        loss = problem.column(COLUMN)
        if options.objective == "uncertainty":
            return rank(problem, uncertainty(loss, problem.eligible & np.isfinite(loss)), COLUMN)
        rows, usable = read_array(problem, ARRAY[options.features])
        usable &= with_values(problem, np.isfinite(loss), COLUMN)
        problem = narrowed(problem, usable)
        u = np.nan_to_num(uncertainty(loss, usable))
        matrix = rows.row_matrix("unit", np.float32)
        ends, chances = graph_reach(matrix, usable, options, problem.seed)
        weights = np.where(usable, (1.0 - options.a) + options.a * u, 0.0)
        first = Spread(ends, chances, weights, np.zeros(rows.n)).gains(np.arange(rows.n))
        lam = options.lam * (float(first[usable].mean()) or 1.0)
        objective = Spread(ends, chances, weights, lam * u)
        result = lazy_picks(objective, first + lam * u, problem.room(), problem.eligible)
        scores = result.left.copy()
        scores[result.indices] = result.gains
        trace = np.empty(result.indices.size, dtype=TRACE_DTYPE)
        trace["gain"] = trace["score"] = result.gains
        trace["uncertainty"] = u[result.indices]
        plain = problem.quotas is None and not problem.forced
        certificate = lazy_certificate(
            objective, result, allowance(problem, None), "spread and uncertainty", plain=plain
        )
        scores[~usable] = np.nan
        return Picks(result.indices, scores, trace, certificate, findings={"weight_of_uncertainty": lam})


UNIMAX = UniMax()


def graph_reach(matrix: RowMatrix, usable: BoolArray, options: UniMaxOptions, seed: int) -> tuple[IntArray, FloatArray]:
    """Whom each row reaches and with what probability, both (n, reached); nobody for rows that are not usable.

    The graph is made of the usable rows in the order of their contents, so that it does not depend on how they stand.
    """
    order = content_order(matrix)
    order = order[usable[order]]
    X = np.ascontiguousarray(matrix.working_at(order), dtype=np.float32)
    if options.graph == "learned":
        from spicerack.information.graph_learner import Learning, learn_features

        X = learn_features(X, Learning(anchors=options.neighbors, epochs=options.epochs), seed)
        _, first, which = np.unique(matrix.copies.numbers(order), return_index=True, return_inverse=True)
        X = X[first[which]]  # copies stay copies, whatever rounding did to them
    columns, values = reach(*edges(X, options.neighbors), options.reached)
    ends, chances = np.zeros((matrix.n, options.reached), dtype=np.int64), np.zeros((matrix.n, options.reached))
    ends[order], chances[order] = order[columns], values
    return ends, chances


def uncertainty(loss: FloatArray, among: BoolArray) -> FloatArray:
    """Rank of each loss among the rows in the mask over the largest rank, in [0, 1]; equal losses share the mean, (n,).

    NaN outside the mask.
    """
    found = np.full(loss.size, np.nan)
    known = loss[among]
    ordered = np.sort(known)
    low, high = np.searchsorted(ordered, known, "left"), np.searchsorted(ordered, known, "right") - 1
    found[among] = (low + high) / 2.0 / max(1, known.size - 1)
    return found
