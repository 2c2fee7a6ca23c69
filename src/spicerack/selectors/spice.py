"""SPICE: information minus conflict, greedily (arXiv 2601.23155, ICLR 2026).

    score_x(S) = gain_x(S) - penalty * conflict_x(S)

The information is the log-det of the Fisher matrix (objective "volume", the paper's), its diagonal forms, or the
posterior variance of target directions (objective "transductive", ours). Early stop is the paper's SPICE+.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from spicerack.errors import ConfigurationError
from spicerack.information.room import Room
from spicerack.information.schedule import check_reach
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.certifying import certificate_of, penalty_report
from spicerack.selectors.devices import DEVICE_DESCRIPTION, DeviceName, check_device
from spicerack.selectors.preparing import WEIGHTED
from spicerack.selectors.spice_task import Task
from spicerack.store.forms import RowForm


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
    penalty_unit: Literal["auto", "information", "gain"] = Field(
        "auto",
        description="of lambda: information, the paper's absolute one, or the largest gain on offer (scale-free); "
        "auto: information for volume, gain for transductive",
    )
    center: bool = Field(False, description="subtract the pool's mean row before conflict is measured")
    alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="weight of a row; auto: alpha * median |g|^2 = 1"
    )
    rows: RowForm = Field("plain", description="rows as they are, at length 1, or at the square root of their length")
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
        resolved = {"alpha": task.alpha, "device": task.device, "penalty_unit": task.penalty_unit}
        return Picks(result.indices, result.scores, result.trace, certificate, resolved, findings)


SPICE = Spice()
