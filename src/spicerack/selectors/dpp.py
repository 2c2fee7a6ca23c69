"""DPP: the set of largest determinant, greedily (MAP of a determinantal point process, Chen et al. 2018).

    L = diag(q) K diag(q);   picks maximize det L_S one after the other, or det(I + L_S) with regularize

K is the cosine of the rows, or a Gaussian of their distance. A cosine kernel over k columns has rank k at most: the
determinant of more rows is zero and tells nothing. When no row adds to it any more, what is picked is set aside and a
new round begins on the rest; that is told. `regularize` never runs dry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from spicerack.errors import ConfigurationError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.determinant import GaussianResiduals, LinearResiduals, Residuals, spread
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, RowMatrix
from spicerack.information.moments import mean_row
from spicerack.information.search import search
from spicerack.information.submodular import LazyMaximum
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.devices import DEVICE_DESCRIPTION, DeviceName, check_device
from spicerack.selectors.preparing import ARRAY, RowsFrom, held_rows, needs_rows, read_array
from spicerack.selectors.ranking import narrowed, with_values
from spicerack.selectors.rows import Rows, free_memory

TRACE_DTYPE = np.dtype([("gain", np.float64), ("round", np.float64), ("score", np.float64)])
EQUAL = 1e-5
"""Relative difference up to which rows are as good to begin with."""

SMALLEST = float(np.finfo(np.float64).tiny)
QUALITY_COLUMNS = {"loss": "loss_mean", "grad_norm": "gradient_norm"}


class DppOptions(MethodOptions):
    """Options of dpp."""

    rows_from: RowsFrom = Field("gradients", description="gradients, or embeddings (the mean hidden state)")
    kernel: Literal["cosine", "rbf"] = Field("cosine", description="K: cosine of the rows, or Gaussian of unit rows")
    bandwidth: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="h of the Gaussian; auto: root of the mean squared distance of the rows"
    )
    quality: str = Field("none", description="q: none, loss, grad_norm, or a column of the table; >= 0")
    regularize: bool = Field(
        False, description="maximize det(I + L) instead of det(L): defined beyond the kernel's rank"
    )
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="for a working copy of the rows, or the factor of the rbf kernel; None: half of free memory"
    )
    device: DeviceName = Field("auto", description=DEVICE_DESCRIPTION)

    @model_validator(mode="after")
    def _combinations(self) -> DppOptions:
        other = f"kernel={self.kernel!r}" if self.kernel != "cosine" else None
        check_device(self.device, "of kernel='cosine'", other or ("regularize" if self.regularize else None))
        return self


class Dpp:
    """Greedy determinant."""

    name = "dpp"
    summary = "the set of largest determinant: quality times diversity"
    paper = "arXiv 1709.05135"
    needs = Needs()
    Options: type[MethodOptions] = DppOptions

    def needs_with(self, options: DppOptions) -> Needs:
        """Of the array and column that are asked for."""
        column = QUALITY_COLUMNS.get(options.quality, options.quality)
        return needs_rows(options.rows_from, () if column == "none" else (column,))

    def select(self, problem: Problem, options: DppOptions) -> Picks:
        """Pick greedily; the score of a row is the log of what it adds to the determinant."""
        rows, usable = read_array(problem, ARRAY[options.rows_from])
        quality = _quality(problem, options)
        usable &= with_values(problem, np.isfinite(quality), options.quality)
        quality = np.where(usable, quality, 0.0)
        problem = narrowed(problem, usable)
        dtype = np.float64 if options.kernel == "rbf" else np.float32  # distances of float32 products are too coarse
        moved = options.kernel == "cosine" and not options.regularize
        matrix = held_rows(
            problem,
            rows,
            "unit",
            dtype,
            memory_gb=options.memory_gb,
            device=options.device,
            pays=moved,
            halves=moved,
        )
        if options.kernel == "cosine" and options.regularize:
            return _regularized(problem, rows, matrix, quality, usable)
        residuals, resolved = _residuals(problem, options, matrix, quality, usable)
        picks = _rounds(problem, residuals, usable, _typical(matrix, usable))
        resolved["device"] = matrix.device
        return Picks(picks.indices, picks.scores, picks.trace, None, resolved, picks.findings)


DPP = Dpp()


def _quality(problem: Problem, options: DppOptions) -> FloatArray:
    """What q is, over its median, (n,)."""
    if options.quality == "none":
        return np.ones(problem.rows.n)
    column = QUALITY_COLUMNS.get(options.quality, options.quality)
    values = problem.column(column)
    known = values[problem.eligible & np.isfinite(values)]
    if (known < 0.0).any():
        raise ConfigurationError(f"quality={options.quality!r}: the column {column} has negative values; expected >= 0")
    median = float(np.median(known)) if known.size else 0.0
    return values / median if median > 0.0 else values


def _residuals(
    problem: Problem, options: DppOptions, matrix: RowMatrix, quality: FloatArray, usable: BoolArray
) -> tuple[Residuals, dict[str, Any]]:
    if options.kernel == "cosine":
        return LinearResiduals(matrix, quality), {}
    bandwidth = spread(matrix, np.flatnonzero(usable)) if options.bandwidth == "auto" else float(options.bandwidth)
    if options.bandwidth == "auto":
        problem.choose("bandwidth", bandwidth, "root of the mean squared distance between two rows at unit length")
    memory = int(options.memory_gb * 2**30) if options.memory_gb is not None else free_memory() // 2
    ridge = 1.0 if options.regularize else 0.0
    gaussian = GaussianResiduals(matrix, quality, bandwidth=bandwidth, ridge=ridge, memory=memory)
    return gaussian, {"bandwidth": bandwidth}


def _rounds(problem: Problem, residuals: Residuals, usable: BoolArray, typical: FloatArray) -> Picks:
    """Pick by d^2; where none is left, in a new round. Where all rows are as good to begin with, by `typical`, (n,)."""
    room, start = problem.room(), residuals.start.copy()
    gains: list[float] = []
    rounds: list[int] = []
    number = 0

    def take(i: int, squared: float) -> None:
        gains.append(float(np.log(max(squared, SMALLEST))))
        rounds.append(number)
        residuals.push(i)
        room.take(i)

    for i in room.forced:
        take(i, float(residuals.of(np.array([i]))[0]))
    while not room.full:
        i, squared = LazyMaximum(residuals.of, residuals.squared).best(room.open)
        offered = start[room.open]
        if squared <= 0.0 and number in rounds and offered.any():
            number += 1
            residuals.reset()
            i, squared = LazyMaximum(residuals.of, residuals.squared).best(room.open)
        if number not in rounds and _equal(offered):
            i = _first_typical(typical, room.open)
        take(i, squared)
    indices = np.array(room.taken, dtype=np.int64)
    if number:
        reason = (
            f"no row adds to the determinant after {rounds.count(0)} picks: each round begins anew on the rest; "
            "regularize=True goes on without rounds"
        )
        problem.choose("rounds", number + 1, reason)
    scores = np.full(usable.size, np.nan)
    rest = np.flatnonzero(usable)
    scores[rest] = np.log(np.maximum(residuals.of(rest), SMALLEST))
    scores[indices] = gains
    return _picks(indices.tolist(), np.array(gains), np.array(rounds, dtype=np.float64), scores)


def _regularized(problem: Problem, rows: Rows, matrix: RowMatrix, quality: FloatArray, usable: BoolArray) -> Picks:
    """`log det(I + L_S)` of the cosine kernel is the log-det information of the rows q x with alpha 1."""
    scaled = RowMatrix(
        None,
        rows_at=lambda part: matrix.rows_at(part) * quality[part, None],
        working_at=lambda part: matrix.working_at(part) * quality[part, None].astype(np.float32),
        shape=rows.shape,
    )
    state, room = FullFisher(scaled, 1.0), problem.room()
    if not room.forced and _equal(quality[room.open]):  # else the first row of the file would begin
        room = replace(problem, forced=(_first_typical(_typical(matrix, usable), room.open),)).room()
    result = search(state, Conflict(scaled), penalty=Penalty(0.0), room=room, eligible=problem.eligible)
    scores = np.where(usable, result.scores, np.nan)
    scores[result.indices] = result.trace["gain"]
    return _picks(result.indices.tolist(), result.trace["gain"], np.zeros(result.indices.size), scores)


def _typical(matrix: RowMatrix, usable: BoolArray) -> FloatArray:
    """How near each row's direction is to the mean of the usable ones, (n,)."""
    return matrix.product(mean_row(matrix, usable))


def _equal(values: FloatArray) -> bool:
    """Whether all are as good to begin with."""
    return bool(values.min() >= values.max() * (1.0 - EQUAL))


def _first_typical(typical: FloatArray, among: BoolArray) -> int:
    """The most typical of some rows; the first of several."""
    near = np.where(among, typical, -np.inf)
    return int(np.flatnonzero(near >= near.max() - EQUAL)[0])


def _picks(indices: list[int], gains: FloatArray, rounds: FloatArray, scores: FloatArray) -> Picks:
    trace = np.empty(len(indices), dtype=TRACE_DTYPE)
    trace["gain"] = trace["score"] = gains
    trace["round"] = rounds
    findings = {"rounds": int(rounds.max(initial=0.0)) + 1}
    return Picks(np.array(indices, dtype=np.int64), scores, trace, findings=findings)
