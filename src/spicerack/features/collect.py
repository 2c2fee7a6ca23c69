"""The feature pass over a pool: shard after shard, forward only, into a store beside the gradients.

As in the gradient pass, a survey tokenizes the pool once for its counts; then every missing shard is tokenized (ahead,
in a thread), cut into batches of similar length, run, and written (in another thread). A shard depends on its rows and
the settings alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import Choice, RunConfig, with_options
from spicerack.data.batching import spread_batches
from spicerack.data.responses import prompt_of
from spicerack.errors import DataError
from spicerack.features.options import FeatureConfig, make_feature_config
from spicerack.features.partners import other_prompts
from spicerack.features.runner import Runner
from spicerack.features.shard import Layout, ShardFeatures, Text
from spicerack.gradients.cost import Cost, count_flops, measure_peak
from spicerack.gradients.description import common_settings
from spicerack.gradients.survey import Progress, Survey, survey
from spicerack.models.limits import check_fits, past_training
from spicerack.store.filling import Results, fill_shards, settled_tokens_per_batch

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.models.loading import LoadedModel
    from spicerack.store.layout import Shard
    from spicerack.store.reader import GradientStore
    from spicerack.store.writer import StoreWriter

FEATURE_VERSION = 3  # raised when the same settings would give other numbers
TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}
INPUT_SECTIONS = ("data", "model", "labels")


def collect_features(
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset,
    *,
    model: str | Path | PreTrainedModel,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> GradientStore:
    """Run a pool through a model once, without gradients, and keep what was asked for in a store on disk.

    Running it again after an interruption computes only what is missing.

    Args:
        pool: as in `spicerack.collect_gradients`.
        model: hub id, folder, GGUF file or a loaded model.
        output_dir: the store's folder; selectors look for it in `features` inside a gradient store.
        tokenizer: with a loaded model, unless the pool is tokenized.
        progress: called as (stage, rows done, tokens done, tokens in all).
        **options: any field of `FeatureConfig`, and of the sections data, model and labels of `RunConfig`, by name.

    Returns:
        The finished store.

    Raises:
        SpicerackError: see `spicerack.errors`; everything already computed is kept.
    """
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.models.loading import load_model

    own = {name: value for name, value in options.items() if name in FeatureConfig.model_fields}
    rest = {name: value for name, value in options.items() if name not in own}
    features = make_feature_config(own)
    config = with_options(RunConfig(), rest, sections=INPUT_SECTIONS)
    rows = load_pool(pool, config.data)
    loaded = load_model(model, config.model, tokenizer=tokenizer)
    labeler = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template)
    return FeaturePass(rows, labeler, loaded, features, progress=progress).run(output_dir)


class FeaturePass:
    """A planned pass: everything but the work. `run` does what the store does not have yet."""

    def __init__(
        self,
        pool: Pool,
        labeler: Labeler,
        loaded: LoadedModel,
        config: FeatureConfig,
        *,
        surveyed: Survey | None = None,
        has_losses: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Survey the pool and lay out the columns.

        Args:
            pool: the rows.
            labeler: the label rule.
            loaded: the model, on its device.
            config: which features.
            surveyed: the survey of the same pool by the same rule, where there is one.
            has_losses: whether `run` is given the losses of a gradient pass; features that read nothing else of the
                samples themselves do not run them again.
            progress: called as the work goes on.

        Raises:
            DataError: selectit is asked for, and the pool's format has no instruction and response.
        """
        if "selectit" in config.features and pool.format in ("text", "tokenized"):
            raise DataError(
                f"selectit rates a response to an instruction, and rows of the format {pool.format} have none; "
                "leave selectit out of compute, or give chat or prompt/completion data"
            )
        self.pool, self.labeler, self.loaded, self.config = pool, labeler, loaded, config
        self.progress = progress
        self.cost: Cost | None = None  # of `run`, if it had anything to do
        self._losses: GradientStore | None = None
        self.runner = Runner(loaded, labeler, config, has_losses=has_losses)  # what it refuses must not cost a survey
        self.layout: Layout = self.runner.layout
        self.survey = surveyed or survey(pool, labeler, progress)
        check_fits(loaded.model, self.survey.tokens, self.survey.largest_id, pool.where)
        long = past_training(loaded.model, self.survey.tokens)
        self.choices = [*pool.choices, *loaded.choices, *long, *self.runner.choices]

    def settings(self, tokens_per_batch: int, losses: GradientStore | None = None) -> dict[str, Any]:
        """What the store is made with; a store made with anything else is refused."""
        known = {} if losses is None else {"losses": f"of the gradient store {losses.fingerprint()[:16]}"}
        return known | {
            "feature_version": FEATURE_VERSION,
            **common_settings(self.pool, self.labeler, self.loaded),
            "tokens_per_batch": tokens_per_batch,
            "shard_rows": self.config.shard_rows,
            "storage_dtype": self.config.storage_dtype,
            **self.runner.settings(),
        }

    def schema(self) -> pa.Schema:
        """The table's columns, but for what the store adds itself."""
        import pyarrow as pa

        counts = [(name, pa.int32()) for name in ("tokens", "trained_tokens", "cut_tokens")]
        features = [(name, pa.int32() if name.endswith("_tokens") else pa.float32()) for name in self.layout.columns]
        return pa.schema([("id", pa.string()), ("source", pa.string()), *counts, *features])

    def run(self, output_dir: str | Path, losses: GradientStore | None = None) -> GradientStore:
        """Compute the missing shards and finish the store.

        Args:
            output_dir: its folder.
            losses: with `has_losses`, the gradient store of the same rows, model and labels (`gives_losses`).

        Raises:
            StoreMismatchError: the folder holds a store made with other settings.
            StoreLockedError: another process is writing it.
            OutputError: the folder cannot be written; finished shards are kept.
        """
        from spicerack.store.layout import recorded_settings
        from spicerack.store.writer import StoreWriter

        tokens_per_batch = self.tokens_per_batch(recorded_settings(Path(output_dir)))
        self._losses = losses if self.layout.reads_losses else None
        if self.layout.reads_losses and losses is None:
            raise ValueError("a feature pass with has_losses is to be given the store that has them")
        with StoreWriter.create_or_resume(
            output_dir,
            settings=self.settings(tokens_per_batch, self._losses),
            n=len(self.pool),
            arrays=self.layout.arrays,
            shard_rows=self.config.shard_rows,
            dtype=self.config.storage_dtype,
            columns=self.schema(),
        ) as writer:
            self._fill(writer, tokens_per_batch)
            return writer.finish()

    def tokens_per_batch(self, begun: dict[str, Any] | None = None) -> int:
        """The option, else what an interrupted store was begun with, else the device's default."""
        settled = settled_tokens_per_batch(self.config.tokens_per_batch, begun)
        if settled is not None:
            return settled
        device = self.loaded.device.type
        chosen = TOKENS_PER_BATCH.get(device, TOKENS_PER_BATCH["cpu"])
        reason = f"default for {device} without gradients; samples are batched by length"
        self.choices.append(Choice("tokens_per_batch", str(chosen), reason))
        return chosen

    def _fill(self, writer: StoreWriter, tokens_per_batch: int) -> None:
        missing = writer.missing()
        if not missing:
            return
        total = self.survey.tokens_of(missing)
        done = {"rows": 0, "tokens": 0, "run": 0}
        started = time.perf_counter()

        def compute(shard: Shard, texts: Sequence[Text]) -> Results:
            return self._shard(shard, texts, tokens_per_batch, done, total)

        fill_shards(writer, missing, read=self._encode, compute=compute)
        seconds = time.perf_counter() - started
        flops = self._flops_per_token() * done["run"]
        self.choices += self.runner.late_choices
        self.cost = Cost(done["run"], seconds, flops, measure_peak(self.loaded.device, self.loaded.model.dtype))

    def _encode(self, shard: Shard) -> list[Text]:
        """The texts of a shard's rows, rows counted from the shard's first."""
        return self._texts(range(shard.start, shard.stop))

    def _texts(self, rows: Iterable[int]) -> list[Text]:
        return [text for row, i in enumerate(rows) for text in self._texts_of(row, i)]

    def _texts_of(self, row: int, i: int) -> list[Text]:
        """The texts of row `i` of the pool, told as those of `row`."""
        others = [self._prompt(j) for j in self._others[i].tolist() if j >= 0] if self._others is not None else []
        return self.runner.texts(row, self.pool.sample(i), where=self.pool.where(i), others=others)

    def _prompt(self, i: int) -> np.ndarray:
        return prompt_of(self.labeler.encode(self.pool.sample(i), where=self.pool.where(i)))

    @cached_property
    def _others(self) -> np.ndarray | None:
        """Rows whose prompts each response is read behind, (n, mismatches); None where none is."""
        if "mismatch" not in self.config.features:
            return None
        return other_prompts(self.survey.prompt, self.pool.sources, self.config.mismatches)

    def sample_rows(self, count: int, tokens_per_batch: int) -> list[tuple[np.ndarray, list[Text]]]:
        """`count` batches of rows, from the shortest to the longest, each with the texts to run for them, to time."""
        chosen = spread_batches(self.survey.tokens, tokens_per_batch, count)
        return [(members, self._texts(members.tolist())) for members in chosen]

    def _shard(
        self, shard: Shard, texts: Sequence[Text], tokens_per_batch: int, done: dict[str, int], total: int
    ) -> Results:
        """Arrays by name, (rows, columns) each, and the columns of the shard's table."""
        results = ShardFeatures(shard.stop - shard.start, self.layout)
        if self._losses is not None:
            rows = slice(shard.start, shard.stop)
            results.know(self._losses.column("loss_sum")[rows], self._losses.column("trained_tokens")[rows])
        tokens = sum(len(text.encoded.input_ids) for text in texts)
        begun, credit, run = dict(done), self.survey.tokens_of([shard]), 0
        for batch in self.runner.batches(texts, tokens_per_batch):
            self.runner.run(batch, results)
            run += sum(len(text.encoded.input_ids) for text in batch)
            share = run / max(1, tokens)
            done["rows"] = begun["rows"] + int(share * (shard.stop - shard.start))
            done["tokens"], done["run"] = begun["tokens"] + int(share * credit), begun["run"] + run
            if self.progress:
                self.progress("features", done["rows"], done["tokens"], total)
        done["rows"], done["tokens"] = begun["rows"] + shard.stop - shard.start, begun["tokens"] + credit
        return results.arrays, {**self.survey.table(self.pool, shard), **results.columns()}

    def _flops_per_token(self) -> float:
        """Counted on the texts of one sample of middling length, apart from the work."""
        middle = self.survey.middle()
        texts = self._texts_of(0, middle)
        if not texts:
            return 0.0
        batches = self.runner.batches(texts, 1)

        def work() -> None:
            for batch in batches:
                self.runner.run(batch, ShardFeatures(1, self.layout))

        flops = count_flops(work)
        return flops / sum(len(text.encoded.input_ids) for text in texts)
