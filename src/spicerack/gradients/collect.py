"""The gradient pass over a pool: survey the labels, then shard after shard into the store.

A survey tokenizes the pool once for its counts, so that totals, truncations and empty rows are known before the first
gradient. Then every missing shard is tokenized (ahead, in a thread), cut into batches of similar length,
differentiated, and written (in another thread). A shard depends on its rows and the settings alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import Choice, GradientConfig
from spicerack.errors import ConfigurationError
from spicerack.gradients.cost import Cost, count_flops, measure_peak
from spicerack.gradients.survey import Progress, survey
from spicerack.models.loading import choose_attention

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded, Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.batch import BatchGradients
    from spicerack.gradients.capture import GradientCapture
    from spicerack.gradients.projection import Projection
    from spicerack.models.loading import LoadedModel
    from spicerack.store.layout import Shard
    from spicerack.store.reader import GradientStore
    from spicerack.store.writer import StoreWriter

GRADIENT_VERSION = 1  # raised when the same settings would give other numbers
TOKENS_PER_BATCH = {"cpu": 2048, "mps": 4096, "cuda": 16384}


class GradientPass:
    """A planned pass: everything but the work. `run` does what the store does not have yet."""

    def __init__(
        self,
        pool: Pool,
        labeler: Labeler,
        loaded: LoadedModel,
        config: GradientConfig,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Survey the pool and lay out the projection.

        Args:
            pool: the rows.
            labeler: the label rule.
            loaded: the model, on its device.
            config: what to take of each gradient.
            progress: called as the work goes on.
        """
        from spicerack.gradients.projection import Projection
        from spicerack.models.parameters import tracked_parameters

        self.pool, self.labeler, self.loaded, self.config = pool, labeler, loaded, config
        self.progress = progress
        self.cost: Cost | None = None  # of `run`, if it had anything to do
        self.survey = survey(pool, labeler, progress)
        attention = choose_attention(loaded, int(self.survey.tokens.max()))
        self.parameters = tracked_parameters(loaded.model, config.parameters)
        self.projection: Projection = Projection(
            self.parameters,
            dimension=config.dimension,
            sketch=config.sketch,
            seed=config.projection_seed,
            device=loaded.device,
            dtype=loaded.model.dtype,
        )
        self.choices = [
            Choice("format", pool.format, pool.detection_reason),
            *loaded.choices,
            *([attention] if attention else []),
            *self._projection_choices(),
        ]

    def _projection_choices(self) -> list[Choice]:
        choices = []
        exact = sum(p.size for p in self.parameters)
        tracked = f"{len(self.parameters)} weights, {exact:,} parameters"
        choices.append(Choice("parameters", self.config.parameters, tracked))
        if self.config.sketch is None and self.config.dimension is not None:
            reason = f"{self.projection.columns:,} sketch columns for {self.projection.dimension:,} final ones"
            choices.append(Choice("sketch", str(self.projection.sketch), reason))
        if self.config.dimension is not None and self.projection.dimension < self.config.dimension:
            reason = f"the tracked weights' sketch has no more columns; {self.config.dimension} was asked for"
            choices.append(Choice("dimension", str(self.projection.dimension), reason))
        return choices

    def settings(self, tokens_per_batch: int) -> dict[str, Any]:
        """What the store is made with; a store made with anything else is refused."""
        model = self.loaded
        return {
            "gradient_version": GRADIENT_VERSION,
            "model": f"{Path(model.name).name} (weights {model.fingerprint()[:16]})",
            "dtype": model.dtype,
            "attn_implementation": getattr(model.model.config, "_attn_implementation", None) or "default",
            "parameters": self.config.parameters,
            "tracked": [p.name for p in self.parameters],
            "projection": self.projection.settings(),
            "reduction": self.config.reduction,
            "gradient_norm": self.config.gradient_norm,
            "label_rule": self.labeler.rule_hash(),
            "pool": f"{self.pool.source.name} (content {self.pool.fingerprint()[:16]})",
            "format": self.pool.format,
            "rows": len(self.pool),
            "tokens_per_batch": tokens_per_batch,
            "shard_rows": self.config.shard_rows,
            "storage_dtype": self.config.storage_dtype,
        }

    def run(self, output_dir: str | Path) -> GradientStore:
        """Compute the missing shards and finish the store.

        Raises:
            StoreMismatchError: the folder holds a store made with other settings.
            StoreLockedError: another process is writing it.
            OutputError: the folder cannot be written; finished shards are kept.
        """
        from spicerack.store.layout import recorded_settings
        from spicerack.store.writer import StoreWriter

        tokens_per_batch = self._tokens_per_batch(recorded_settings(Path(output_dir)))
        with StoreWriter.create_or_resume(
            output_dir,
            settings=self.settings(tokens_per_batch),
            n=len(self.pool),
            arrays={"gradient": self.projection.dimension},
            shard_rows=self.config.shard_rows,
            dtype=self.config.storage_dtype,
        ) as writer:
            self._fill(writer, tokens_per_batch)
            return writer.finish()

    def _tokens_per_batch(self, begun: dict[str, Any] | None) -> int:
        """The option, else what an interrupted store was begun with, else the device's default."""
        if self.config.tokens_per_batch is not None:
            return self.config.tokens_per_batch
        if begun is not None and isinstance(begun.get("tokens_per_batch"), int):
            return int(begun["tokens_per_batch"])
        device = self.loaded.device.type
        chosen = TOKENS_PER_BATCH.get(device, TOKENS_PER_BATCH["cpu"])
        self.choices.append(
            Choice("tokens_per_batch", str(chosen), f"default for {device}; samples are batched by length")
        )
        return chosen

    def _fill(self, writer: StoreWriter, tokens_per_batch: int) -> None:
        from spicerack.gradients.capture import GradientCapture

        missing = writer.missing()
        if not missing:
            return
        done = {"rows": 0, "tokens": 0}
        started = time.perf_counter()
        total = int(sum(self.survey.tokens[s.start : s.stop].sum() for s in missing))
        exact = self.config.gradient_norm == "exact"
        with (
            ThreadPoolExecutor(1, "encode") as encoder,
            ThreadPoolExecutor(1, "write") as writing,
            GradientCapture(self.loaded.model, self.projection, exact_norms=exact) as capture,
        ):
            ahead = encoder.submit(self._encode, missing[0])
            written: Future[None] | None = None
            for index, shard in enumerate(missing):
                encoded = ahead.result()
                if index + 1 < len(missing):
                    ahead = encoder.submit(self._encode, missing[index + 1])
                rows, table = self._shard(capture, shard, encoded, tokens_per_batch, done, total)
                if written is not None:
                    written.result()
                written = writing.submit(writer.write, shard, {"gradient": rows}, table)
            if written is not None:
                written.result()
            seconds = time.perf_counter() - started
            flops = self._flops_per_token(capture, tokens_per_batch) * done["tokens"]
        self.cost = Cost(done["tokens"], seconds, flops, measure_peak(self.loaded.device, self.loaded.model.dtype))

    def _encode(self, shard: Shard) -> list[Encoded]:
        return [self._encode_row(i) for i in range(shard.start, shard.stop)]

    def _encode_row(self, i: int) -> Encoded:
        return self.labeler.encode(self.pool.sample(i), where=self.pool.where(i))

    def _shard(
        self,
        capture: GradientCapture,
        shard: Shard,
        encoded: Sequence[Encoded],
        tokens_per_batch: int,
        done: dict[str, int],
        total: int,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Gradient rows (rows, k) of a shard and the columns of its table."""
        from spicerack.data.batching import plan_batches

        rows = np.zeros((len(encoded), self.projection.dimension), dtype=np.float32)
        loss_sum = np.zeros(len(encoded), dtype=np.float32)
        norm = np.zeros(len(encoded), dtype=np.float32)
        part = slice(shard.start, shard.stop)
        trained = self.survey.trained_tokens[part]
        lengths = np.where(trained > 0, self.survey.tokens[part], 0)  # a row without a loss takes no part
        for members in reversed(plan_batches(lengths, tokens_per_batch)):  # the longest first: memory shows early
            result = self.batch(capture, [encoded[i] for i in members], tokens_per_batch)
            rows[members] = result.rows.cpu().numpy()
            loss_sum[members] = result.loss_sum.cpu().numpy()
            norm[members] = result.gradient_norm.cpu().numpy()
            done["rows"] += len(members)
            done["tokens"] += int(lengths[members].sum())
            if self.progress:
                self.progress("gradients", done["rows"], done["tokens"], total)
        table = {
            "id": [self.pool.id(i) for i in range(shard.start, shard.stop)],
            "source": self.pool.sources[shard.start : shard.stop],
            "loss_mean": np.where(trained > 0, loss_sum / np.maximum(trained, 1), np.nan).astype(np.float32),
            "loss_sum": np.where(trained > 0, loss_sum, np.nan).astype(np.float32),
            "tokens": self.survey.tokens[part].astype(np.int32),
            "trained_tokens": trained.astype(np.int32),
            "cut_tokens": self.survey.cut_tokens[part].astype(np.int32),
            "gradient_norm": norm,
        }
        return rows, table

    def _flops_per_token(self, capture: GradientCapture, tokens_per_batch: int) -> float:
        """Counted on one sample of middling length, apart from the work: the counter changes which kernels run."""
        trained = np.flatnonzero(self.survey.trained_tokens > 0)
        middle = trained[np.argsort(self.survey.tokens[trained], kind="stable")[len(trained) // 2]]
        flops = count_flops(lambda: self.batch(capture, [self._encode_row(int(middle))], tokens_per_batch))
        return flops / float(self.survey.tokens[middle])

    def sample_batches(self, count: int) -> tuple[list[list[Encoded]], int]:
        """`count` batches of the plan, from the shortest to the longest, to time or to probe with."""
        from spicerack.data.batching import plan_batches

        tokens_per_batch = self._tokens_per_batch(None)
        lengths = np.where(self.survey.trained_tokens > 0, self.survey.tokens, 0)
        plan = plan_batches(lengths, tokens_per_batch)
        places = np.unique(np.linspace(0, len(plan) - 1, num=min(count, len(plan))).round().astype(int))
        return [[self._encode_row(int(i)) for i in plan[place]] for place in places], tokens_per_batch

    def batch(self, capture: GradientCapture, samples: list[Encoded], tokens_per_batch: int) -> BatchGradients:
        """Gradients of one batch.

        Raises:
            ConfigurationError: the device is out of memory.
        """
        import torch

        from spicerack.data.batching import collate
        from spicerack.gradients.batch import batch_gradients

        batch = collate(samples).to(self.loaded.device)
        try:
            return batch_gradients(capture, batch, self.config.reduction)
        except torch.OutOfMemoryError as error:
            shape = tuple(batch.input_ids.shape)
            raise ConfigurationError(
                f"out of memory at a batch of {shape[0]} x {shape[1]} tokens; "
                f"set tokens_per_batch below {tokens_per_batch}"
            ) from error
