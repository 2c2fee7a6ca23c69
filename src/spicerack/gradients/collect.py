"""The gradient pass over a pool: survey the labels, then shard after shard into the store.

A survey tokenizes the pool once for its counts, so that totals, truncations and empty rows are known before the first
gradient. Then every missing shard is tokenized (ahead, in a thread), cut into batches of similar length,
differentiated, and written (in another thread). A shard depends on its rows and the settings alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spicerack.config import GradientConfig
from spicerack.errors import ConfigurationError, ModelError
from spicerack.gradients.cost import Cost, count_flops, measure_peak
from spicerack.gradients.description import choices_of, settings_of
from spicerack.gradients.survey import Progress, Survey, survey
from spicerack.models.attention import choose_attention
from spicerack.store.filling import Results, fill_shards

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded, Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.backoff import Backoff
    from spicerack.gradients.batch import BatchGradients
    from spicerack.gradients.batch_size import BatchSize
    from spicerack.gradients.capture import GradientCapture
    from spicerack.gradients.optimizers import Moments
    from spicerack.gradients.projection import Projection
    from spicerack.models.loading import LoadedModel
    from spicerack.models.optimizer_state import OptimizerState
    from spicerack.models.parameters import TrackedParameter
    from spicerack.store.layout import Shard
    from spicerack.store.reader import GradientStore
    from spicerack.store.writer import StoreWriter


@dataclass(frozen=True)
class Plan:
    """What passes over one pool at several checkpoints of a model share."""

    survey: Survey
    parameters: tuple[TrackedParameter, ...]
    projection: Projection


class GradientPass:
    """A planned pass: everything but the work. `run` does what the store does not have yet."""

    def __init__(
        self,
        pool: Pool,
        labeler: Labeler,
        loaded: LoadedModel,
        config: GradientConfig,
        *,
        plan: Plan | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Survey the pool and lay out the projection.

        Args:
            pool: the rows.
            labeler: the label rule.
            loaded: the model, on its device.
            config: what to take of each gradient.
            plan: of a pass over the same pool at another checkpoint of the model.
            progress: called as the work goes on.

        Raises:
            DataError: a sample that the model cannot read.
            ModelError: no tracked parameter, others than in `plan`, or an optimizer's state that does not fit.
            ConfigurationError: `adam_rows` without an optimizer's state, or `packing` with a model that it leaks in.
        """
        from spicerack.gradients.leaks import choose_packing, why_masked
        from spicerack.gradients.reached import check_reached
        from spicerack.models.limits import check_fits
        from spicerack.models.parameters import tracked_parameters

        self.pool, self.labeler, self.loaded, self.config = pool, labeler, loaded, config
        self.progress = progress
        self.cost: Cost | None = None  # of `run`, if it had anything to do
        self.survey = plan.survey if plan else survey(pool, labeler, progress)
        check_fits(loaded.model, self.survey.tokens, self.survey.largest_id, pool.where)
        self.attention = choose_attention(loaded)
        self.packing, packing = choose_packing(loaded, config.packing)
        self.masked = self.packing or why_masked(loaded.model) is not None
        self.parameters = tracked_parameters(loaded.model, config.parameters)
        if plan is not None and plan.parameters != self.parameters:
            raise ModelError(
                f"parameters={config.parameters} tracks {len(self.parameters)} weights at one checkpoint and "
                f"{len(plan.parameters)} others at another; checkpoints of one training have the same"
            )
        if plan is None:
            check_reached(loaded.model, self.parameters)
        self.projection = plan.projection if plan else self._lay_out()
        self.batch_size: BatchSize | None = None  # of `run`
        self.optimizer, self.moments = self._read_moments()
        attention = None if self.attention is None else self.attention.choice
        self.choices = choices_of(self, [choice for choice in (attention, packing) if choice])

    @property
    def current(self) -> GradientPass:
        """Itself: the pass at the one checkpoint there is."""
        return self

    @property
    def count(self) -> int:
        """Checkpoints that gradients are taken at."""
        return 1

    @property
    def resolved(self) -> GradientConfig:
        """The options that repeat this pass, once it has run: with the batch size, where it was found."""
        return self.batch_size.resolved(self.config) if self.batch_size else self.config

    @property
    def plan(self) -> Plan:
        """What a pass at another checkpoint can go by."""
        return Plan(self.survey, self.parameters, self.projection)

    def _lay_out(self) -> Projection:
        from spicerack.gradients.projection import Projection

        return Projection(
            self.parameters,
            dimension=self.config.dimension,
            sketch=self.config.sketch,
            layout=self.config.layout,
            seed=self.config.projection_seed,
            device=self.loaded.device,
            dtype=self.loaded.model.dtype,
        )

    def _read_moments(self) -> tuple[OptimizerState | None, Moments | None]:
        """The optimizer's state of the tracked weights, where rows of its form are wanted."""
        from spicerack.gradients.optimizers import moments_of
        from spicerack.models.optimizer_state import read_optimizer_state

        config = self.config
        if config.adam_rows and config.optimizer_state is None:
            raise ConfigurationError(
                "adam_rows needs the state of the optimizer that trained the model; give optimizer_state, or the "
                "folder of a warm-up as checkpoints"
            )
        if config.adam_rows is False or config.optimizer_state is None:
            return None, None
        state = read_optimizer_state(config.optimizer_state, self.loaded.model, [p.name for p in self.parameters])
        return state, moments_of(state, eps_form=config.adam_eps, device=self.loaded.device)

    @property
    def arrays(self) -> dict[str, int]:
        """Columns of every array of the store: the gradient, and the optimizer's form under the optimizer's name."""
        names = ["gradient", *([self.optimizer.kind] if self.optimizer else [])]
        return dict.fromkeys(names, self.projection.dimension)

    def run(self, output_dir: str | Path) -> GradientStore:
        """Compute the missing shards and finish the store.

        Raises:
            StoreMismatchError: the folder holds a store made with other settings.
            StoreLockedError: another process is writing it.
            OutputError: the folder cannot be written; finished shards are kept.
        """
        from spicerack.gradients.batch_size import BatchSize
        from spicerack.store.layout import recorded_settings
        from spicerack.store.writer import StoreWriter

        self.batch_size = BatchSize(self, recorded_settings(Path(output_dir)))
        with StoreWriter.create_or_resume(
            output_dir,
            settings=settings_of(self, self.batch_size.tokens),
            n=len(self.pool),
            arrays=self.arrays,
            shard_rows=self.config.shard_rows,
            dtype=self.config.storage_dtype,
            segments=self.projection.segments,
        ) as writer:
            self._fill(writer, self.batch_size)
            return writer.finish()

    def _fill(self, writer: StoreWriter, batch_size: BatchSize) -> None:
        missing = writer.missing()
        if not missing:
            return
        done = {"rows": 0, "tokens": 0}
        started = time.perf_counter()
        total = self.survey.tokens_of(missing)
        with self.capture() as capture:
            runner = self.runner(capture)

            def compute(shard: Shard, encoded: Sequence[Encoded]) -> Results:
                return self._shard(runner, shard, encoded, batch_size.tokens, done, total)

            fill_shards(writer, missing, read=self._encode, compute=compute)
            seconds = time.perf_counter() - started
            flops = self._flops_per_token(runner) * done["tokens"]
        if runner.limit is not None:
            batch_size.lower(runner.limit)
        self.cost = Cost(done["tokens"], seconds, flops, measure_peak(self.loaded.device, self.loaded.model.dtype))

    def capture(self) -> GradientCapture:
        """What takes the gradients, to be entered."""
        from spicerack.gradients.capture import GradientCapture

        exact = self.config.gradient_norm == "exact"
        return GradientCapture(
            self.loaded.model,
            self.projection,
            exact_norms=exact,
            moments=self.moments,
            packing=self.packing,
            attention=self.attention,
        )

    def _encode(self, shard: Shard) -> list[Encoded]:
        return [self._encode_row(i) for i in range(shard.start, shard.stop)]

    def _encode_row(self, i: int) -> Encoded:
        return self.labeler.encode(self.pool.sample(i), where=self.pool.where(i))

    def _shard(
        self,
        runner: Backoff,
        shard: Shard,
        encoded: Sequence[Encoded],
        tokens_per_batch: int,
        done: dict[str, int],
        total: int,
    ) -> Results:
        """The arrays (rows, k) of a shard and the columns of its table."""
        from spicerack.data.batching import plan_batches

        arrays = {name: np.zeros((len(encoded), k), dtype=np.float32) for name, k in self.arrays.items()}
        loss_sum = np.zeros(len(encoded), dtype=np.float32)
        norm = np.zeros(len(encoded), dtype=np.float32)
        part = slice(shard.start, shard.stop)
        trained = self.survey.trained_tokens[part]
        lengths = np.where(trained > 0, self.survey.tokens[part], 0)  # a row without a loss takes no part
        plan = plan_batches(lengths, tokens_per_batch, packed=self.packing)
        for members in reversed(plan):  # the longest first: memory shows early
            result = runner.run_with_backoff([encoded[i] for i in members])
            for array, rows in zip(arrays.values(), (result.rows, result.directions), strict=False):
                if rows is not None:
                    array[members] = rows.cpu().numpy()
            loss_sum[members] = result.loss_sum.cpu().numpy()
            norm[members] = result.gradient_norm.cpu().numpy()
            done["rows"] += len(members)
            done["tokens"] += int(lengths[members].sum())
            if self.progress:
                self.progress("gradients", done["rows"], done["tokens"], total)
        table = {
            **self.survey.table(self.pool, shard),
            "loss_mean": np.where(trained > 0, loss_sum / np.maximum(trained, 1), np.nan).astype(np.float32),
            "loss_sum": np.where(trained > 0, loss_sum, np.nan).astype(np.float32),
            "gradient_norm": norm,
        }
        return arrays, table

    def _flops_per_token(self, runner: Backoff) -> float:
        """Counted on one sample of middling length, apart from the work: the counter changes which kernels run."""
        middle = self.survey.middle()
        flops = count_flops(lambda: runner.run_with_backoff([self._encode_row(middle)]))
        return flops / float(self.survey.tokens[middle])

    def sample_batches(self, count: int) -> list[list[Encoded]]:
        """`count` batches of the plan, from the shortest to the longest, to time."""
        from spicerack.data.batching import spread_batches
        from spicerack.gradients.batch_size import BatchSize

        lengths = np.where(self.survey.trained_tokens > 0, self.survey.tokens, 0)
        chosen = spread_batches(lengths, BatchSize(self).tokens, count, packed=self.packing)
        return [[self._encode_row(int(i)) for i in members] for members in chosen]

    def runner(self, capture: GradientCapture) -> Backoff:
        """What takes the gradients of a batch, in parts where it does not fit."""
        from spicerack.data.batching import collate
        from spicerack.gradients.backoff import Backoff
        from spicerack.gradients.batch import batch_gradients

        device, reduction = self.loaded.device, self.config.reduction

        def run(samples: Sequence[Encoded]) -> BatchGradients:
            batch = collate(samples).to(device)
            return batch_gradients(capture, batch if self.masked else replace(batch, attention_mask=None), reduction)

        return Backoff(run, device=device, say=self.choices.append, packed=self.packing)
