"""Fisher: greedy log-det information, without SPICE's penalty. On gradients, or as FisherSFT (arXiv 2505.14826).

FisherSFT linearizes the model at its last layer, where information is `log det(I + alpha sum_i sum_t x_it x_it^T)` over
the hidden states that a sample's trained tokens are predicted from. The store keeps each sample's leading directions
of these states; `states_energy` in its table says how much of them that is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from spicerack.errors import ConfigurationError
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.decomposition import trace_table
from spicerack.information.grouped import GroupedFisher
from spicerack.information.logdet import FullFisher
from spicerack.information.search import search
from spicerack.information.submodular import lazy_certificate, lazy_picks
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.certifying import allowance, certificate_of, prefix_bounds
from spicerack.selectors.devices import DEVICE_DESCRIPTION, DeviceName, check_device
from spicerack.selectors.preparing import held_rows, read_array, resolve_alpha
from spicerack.selectors.ranking import narrowed
from spicerack.store.forms import RowForm

STATES = "states"


class FisherOptions(MethodOptions):
    """Options of fisher."""

    features: Literal["gradients", "last_hidden"] = Field(
        "gradients", description="rows: projected gradients, or FisherSFT's hidden states of the trained tokens"
    )
    alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="weight of a sample; auto: alpha times the median squared length is 1"
    )
    rows: RowForm = Field("plain", description="rows as they are, at length 1, or at the square root of their length")
    certify: bool = Field(True, description="bound how far the set is from the best")
    precision: Literal["float32", "float64"] = Field("float32", description="dtype of the passes; picks do not change")
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="larger working copies of the rows are streamed from the store; None: half of free memory"
    )
    device: DeviceName = Field("auto", description=DEVICE_DESCRIPTION)

    @model_validator(mode="after")
    def _combinations(self) -> FisherOptions:
        wide = "precision='float64'" if self.precision == "float64" else None
        other = f"features={self.features!r}" if self.features != "gradients" else None
        check_device(self.device, "over gradients", wide or other)
        return self

    @property
    def penalty(self) -> float:
        """There is none."""
        return 0.0

    @property
    def penalty_unit(self) -> str:
        """Of a penalty of zero."""
        return "information"

    @property
    def compare_penalty(self) -> bool:
        """There is nothing to compare."""
        return False

    @property
    def stop_ratio(self) -> float | None:
        """It never stops early."""
        return None


class Fisher:
    """Greedy by marginal information alone."""

    name = "fisher"
    summary = "marginal Fisher information alone, of gradients or of the last hidden states"
    paper = "arXiv 2505.14826"
    needs = Needs()
    Options: type[MethodOptions] = FisherOptions

    def needs_with(self, options: FisherOptions) -> Needs:
        """States instead of gradients."""
        return self.needs if options.features == "gradients" else Needs(arrays=(STATES,), cost="one forward pass")

    def select(self, problem: Problem, options: FisherOptions) -> Picks:
        """Pick by the log-det of rows, or of samples of several rows each."""
        return _by_rows(problem, options) if options.features == "gradients" else _by_samples(problem, options)


FISHER = Fisher()


def _by_rows(problem: Problem, options: FisherOptions) -> Picks:
    dtype = np.float32 if options.precision == "float32" else np.float64
    matrix = held_rows(problem, problem.rows, options.rows, dtype, memory_gb=options.memory_gb, device=options.device)
    where = matrix.device
    alpha = resolve_alpha(problem, options.alpha, matrix)
    state = FullFisher(matrix, alpha)
    prefixes = prefix_bounds(problem, options, state)
    result = search(
        state,
        Conflict(matrix),
        penalty=Penalty(0.0),
        room=problem.room(),
        eligible=problem.eligible,
        watch=prefixes.watch if prefixes else None,
    )
    certificate = certificate_of(problem, options, state, result, prefixes, True)
    return Picks(result.indices, result.scores, result.trace, certificate, {"alpha": alpha, "device": where})


def _by_samples(problem: Problem, options: FisherOptions) -> Picks:
    rows, usable = read_array(problem, STATES)
    problem = narrowed(problem, usable)
    matrix = held_rows(problem, rows, options.rows, memory_gb=options.memory_gb)
    alpha = resolve_alpha(problem, options.alpha, matrix)
    objective = GroupedFisher(matrix, _width(rows), alpha)
    base = objective.base()
    result = lazy_picks(objective, base, problem.room(), problem.eligible)
    scores = result.left.copy()
    scores[result.indices] = result.gains
    scores[~usable] = np.nan
    trace = trace_table(result.gains, base[result.indices], np.zeros(result.indices.size), 0.0)
    certificate = None
    if options.certify:
        plain = problem.quotas is None and not problem.forced
        certificate = lazy_certificate(objective, result, allowance(problem, None), "information", plain=plain)
    return Picks(result.indices, scores, trace, certificate, {"alpha": alpha})


def _width(rows: Any) -> int:
    """Entries of a hidden state: what the store says; an array holds one state a row."""
    if rows.store is None:
        return int(rows.k)
    holder = rows.store.holder(STATES)
    width = int(holder.settings.get("hidden_size", 0))
    if width < 1 or rows.k % width:
        raise ConfigurationError(
            f"{holder.path} does not say how wide its hidden states are; make it with `spicerack features`"
        )
    return width
