"""Gradients at several checkpoints of a model: a pass each, over one survey of the pool, into a collection of stores.

Each checkpoint's store is made as any other, so an interruption costs no more than a shard, and the same command goes
on with the checkpoint that it stopped at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spicerack.config import Choice, GradientConfig
from spicerack.errors import ConfigurationError
from spicerack.gradients.collect import GradientPass
from spicerack.gradients.cost import Cost
from spicerack.gradients.survey import Progress, Survey
from spicerack.models.optimizer_state import find_optimizer_state

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.models.checkpoints import CheckpointModels, ModelCheckpoint
    from spicerack.models.loading import LoadedModel
    from spicerack.store.reader import GradientStore


class CheckpointPasses:
    """Planned passes over one pool: everything but the work, as `GradientPass` is for one checkpoint."""

    def __init__(
        self,
        pool: Pool,
        labeler: Labeler,
        models: CheckpointModels,
        checkpoints: Sequence[ModelCheckpoint],
        config: GradientConfig,
        *,
        loaded: LoadedModel,
        progress: Progress | None = None,
    ) -> None:
        """Plan the first checkpoint's pass.

        Args:
            pool: the rows.
            labeler: the label rule.
            models: gives the model at each checkpoint.
            checkpoints: in training order, at least one.
            config: what to take of each gradient. Where `adam_rows` is None and all checkpoints have an optimizer's
                state, rows of its form are taken too.
            loaded: the model at the first checkpoint.
            progress: called as the work goes on.

        Raises:
            ConfigurationError: an optimizer's state is named beside the checkpoints' own, or some have none.
            ModelError: what is tracked is not there, or a state does not fit.
        """
        if config.optimizer_state is not None:
            raise ConfigurationError("checkpoints have optimizer states of their own; leave optimizer_state out")
        self.pool, self.labeler, self.config, self.progress = pool, labeler, config, progress
        self.models, self.checkpoints = models, tuple(checkpoints)
        self.cost: Cost | None = None  # of `run`, if it had anything to do
        self._adam = _wants_moments(config, self.checkpoints)
        first = self.checkpoints[0]
        self._at: ModelCheckpoint | None = first
        self.current = GradientPass(pool, labeler, loaded, self._config(first), progress=self._progress(first))
        self.survey: Survey = self.current.survey
        self._choices = self.current.choices

    @property
    def loaded(self) -> LoadedModel:
        """The model at the checkpoint that is worked at."""
        return self.current.loaded

    @property
    def count(self) -> int:
        """Checkpoints that gradients are taken at."""
        return len(self.checkpoints)

    @property
    def resolved(self) -> GradientConfig:
        """The options that repeat these passes, once they have run: with the batch size, where it was found."""
        size = self.current.batch_size
        return size.resolved(self.config) if size else self.config

    @property
    def choices(self) -> list[Choice]:
        """Everything decided for the user, at the first checkpoint."""
        weights = ", ".join(f"{checkpoint.name} {checkpoint.weight:.4g}" for checkpoint in self.checkpoints)
        halved = [c for c in self.current.choices if c.name == "tokens_per_batch" and c not in self._choices]
        return [
            *self._choices,
            *halved,
            Choice("checkpoints", weights, "weights are shares of the mean learning rates"),
        ]

    def run(self, output_dir: str | Path) -> GradientStore:
        """Compute what is missing at every checkpoint, and open the collection.

        Raises:
            StoreMismatchError: the folder holds a store, or a collection made with other checkpoints or settings.
            StoreLockedError: another process is writing it.
            OutputError: the folder cannot be written; finished shards are kept.
        """
        from spicerack.store.collection import Member, begin_collection
        from spicerack.store.reader import GradientStore

        folder = Path(output_dir)
        begin_collection(folder, [Member(checkpoint.name, checkpoint.weight) for checkpoint in self.checkpoints])
        try:
            for checkpoint in self.checkpoints:
                self._move_to(checkpoint)
                self.current.run(folder / checkpoint.name)
                self.cost = _sum(self.cost, self.current.cost)
        finally:
            self.models.release()
            self._at = None
        return GradientStore.open(folder, verify=False)

    def _move_to(self, checkpoint: ModelCheckpoint) -> None:
        """Plan the pass at another checkpoint, in batches of the same size."""
        if checkpoint == self._at:
            return
        plan, batch_size = self.current.plan, self.current.batch_size
        tokens_per_batch = self.config.tokens_per_batch if batch_size is None else batch_size.tokens
        del self.current  # with the model: two whole ones need not fit
        loaded = self.models.load(checkpoint)
        config = self._config(checkpoint).model_copy(update={"tokens_per_batch": tokens_per_batch})
        self.current = GradientPass(
            self.pool, self.labeler, loaded, config, plan=plan, progress=self._progress(checkpoint)
        )
        self._at = checkpoint

    def _config(self, checkpoint: ModelCheckpoint) -> GradientConfig:
        state = str(checkpoint.folder) if self._adam else None
        return self.config.model_copy(update={"checkpoints": None, "optimizer_state": state})

    def _progress(self, checkpoint: ModelCheckpoint) -> Progress | None:
        progress = self.progress
        if progress is None:
            return None

        def say(stage: str, rows: int, tokens: int, total: int) -> None:
            progress(f"{stage} at {checkpoint.name}" if stage == "gradients" else stage, rows, tokens, total)

        return say


def _wants_moments(config: GradientConfig, checkpoints: Sequence[ModelCheckpoint]) -> bool:
    """Whether rows of the optimizer's form are taken: as asked, else where every checkpoint has its state."""
    if config.adam_rows is False:
        return False
    without = [checkpoint.name for checkpoint in checkpoints if find_optimizer_state(checkpoint.folder) is None]
    if without and (config.adam_rows or len(without) < len(checkpoints)):
        raise ConfigurationError(
            f"no optimizer state at {', '.join(without)} of the {len(checkpoints)} checkpoints in "
            f"{checkpoints[0].folder.parent}; save it with each, or leave its rows out (--no-adam-rows)"
        )
    return not without


def _sum(one: Cost | None, other: Cost | None) -> Cost | None:
    """The cost of both, at the peak of the later."""
    if one is None or other is None:
        return one or other
    return Cost(one.tokens + other.tokens, one.seconds + other.seconds, one.flops + other.flops, other.peak_flops)
