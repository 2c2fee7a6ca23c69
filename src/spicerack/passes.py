"""Passes over a pool, planned from the configuration: the pool read, the model loaded, the label rule made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice, RunConfig
from spicerack.errors import ConfigurationError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.features.collect import FeaturePass
    from spicerack.features.options import FeatureConfig
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.estimate import Estimate
    from spicerack.gradients.survey import Progress, Survey
    from spicerack.models.loading import LoadedModel


@dataclass(frozen=True)
class RunPasses:
    """The passes over the pool that a run's method needs, planned.

    Attributes:
        gradients: at one checkpoint or several; None where the method reads none.
        features: the forward pass, alone or beside the gradients; None where nothing of it is read.
        reason: which passes they are, and why.
    """

    gradients: GradientPass | CheckpointPasses | None
    features: FeaturePass | None
    reason: Choice

    @property
    def survey(self) -> Survey:
        """What the label rule makes of the pool."""
        planned = self.gradients or self.features
        assert planned is not None
        return planned.survey

    @property
    def choices(self) -> list[Choice]:
        """Everything decided for the user, once each."""
        said = [choice for planned in (self.gradients, self.features) if planned for choice in planned.choices]
        return [self.reason, *(choice for i, choice in enumerate(said) if choice not in said[:i])]

    def estimate(self, *, batches: int = 3) -> list[Estimate]:
        """Price every pass by timing `batches` batches of it."""
        from spicerack.features.estimate import estimate_features
        from spicerack.gradients.estimate import estimate

        priced = [estimate(self.gradients, batches=batches)] if self.gradients else []
        return [*priced, *([estimate_features(self.features, batches=batches)] if self.features else [])]


def plan_run(config: RunConfig, *, progress: Progress | None = None) -> RunPasses:
    """The passes that a run of this configuration makes over its pool, ready to be priced.

    Raises:
        ConfigurationError: the method trains a model while it selects, or reads what no pass gives, or the section
            `selection` asks for what the pool cannot give.
        SpicerackError: as for `plan_pass`.
    """
    from spicerack.features.beside import feature_options, plan_beside
    from spicerack.selecting import check_rows, features_read, method_needs
    from spicerack.training.loop import is_in_the_loop

    method = config.selection.method
    if is_in_the_loop(config):
        raise ConfigurationError(
            f"method {method!r} trains a proxy on what it picks, so there is no pass over the pool to time beforehand; "
            "run it on a part of the pool"
        )
    compute = features_read(config)
    if compute is not None:
        work = plan_features(config, feature_options(compute, config.gradients), progress=progress)
        check_rows(config, work)
        return RunPasses(None, work, alone_choice(method, compute))
    planned = plan_pass(config, progress=progress)
    check_rows(config, planned)
    features = plan_beside(planned, method_needs(config))
    beside = f", and one forward pass for {', '.join(features.config.features)}" if features else ""
    at = f" at each of {planned.count} checkpoints" if planned.count > 1 else ""
    return RunPasses(planned, features, Choice("pass", f"gradients{at}{beside}", f"what method {method!r} reads"))


def alone_choice(method: str, compute: list[str]) -> Choice:
    """What is said where no gradients are taken."""
    return Choice("pass", f"features alone: {', '.join(compute)}", f"method {method!r} reads no gradients")


def plan_pass(
    config: RunConfig,
    *,
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset | None = None,
    model: str | Path | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> GradientPass | CheckpointPasses:
    """Read the pool, load the model, tokenize once: a gradient pass ready to run.

    Args:
        config: the run; `pool` and `model` take precedence over what it names.
        pool: as in `collect_gradients`.
        model: as in `collect_gradients`.
        tokenizer: as in `collect_gradients`.
        progress: as in `collect_gradients`.

    Raises:
        ConfigurationError: neither the arguments nor the configuration name a pool and a model.
    """
    from spicerack.gradients.collect import GradientPass

    if config.gradients.checkpoints is not None:
        return _plan_checkpoints(config, pool=pool, model=model, tokenizer=tokenizer, progress=progress)
    rows, labeler, loaded = read_inputs(config, pool=pool, model=model, tokenizer=tokenizer)
    return GradientPass(rows, labeler, loaded, config.gradients, progress=progress)


def _plan_checkpoints(
    config: RunConfig,
    *,
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset | None,
    model: str | Path | PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> CheckpointPasses:
    """Passes at every checkpoint of a training; arguments and errors as for `plan_pass`."""
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.models.checkpoints import CheckpointModels
    from spicerack.training.checkpoints import read_checkpoints

    trained = read_checkpoints(str(config.gradients.checkpoints))
    rows = load_pool(named_pool(config, pool), config.data)
    model = model if model is not None else config.model.model_name_or_path or trained.base
    models = CheckpointModels(model, config.model, tokenizer=tokenizer)
    loaded = models.load(trained.checkpoints[0])
    labeler = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template)
    return CheckpointPasses(
        rows, labeler, models, trained.checkpoints, config.gradients, loaded=loaded, progress=progress
    )


def plan_features(
    config: RunConfig,
    features: FeatureConfig,
    *,
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset | None = None,
    model: str | Path | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> FeaturePass:
    """A feature pass ready to run; arguments and errors as for `plan_pass`."""
    from spicerack.features.collect import FeaturePass

    rows, labeler, loaded = read_inputs(config, pool=pool, model=model, tokenizer=tokenizer)
    return FeaturePass(rows, labeler, loaded, features, progress=progress)


def read_inputs(
    config: RunConfig,
    *,
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset | None = None,
    model: str | Path | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[Pool, Labeler, LoadedModel]:
    """The pool, the label rule and the loaded model of a pass; arguments and errors as for `plan_pass`."""
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.models.loading import load_model

    pool = named_pool(config, pool)
    model = model if model is not None else config.model.model_name_or_path
    if model is None:
        raise ConfigurationError(
            "no model is named; give a hub id, folder or GGUF file as model.model_name_or_path (--model)"
        )
    rows = load_pool(pool, config.data)
    loaded = load_model(model, config.model, tokenizer=tokenizer)
    return rows, Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template), loaded


def named_pool(
    config: RunConfig, pool: str | Path | list[dict[str, Any]] | datasets.Dataset | None
) -> str | Path | list[dict[str, Any]] | datasets.Dataset:
    """The pool given, else the one that the configuration names.

    Raises:
        ConfigurationError: neither is there.
    """
    pool = pool if pool is not None else config.data.pool
    if pool is None:
        raise ConfigurationError("no pool is named; give a file, folder or hub id as data.pool")
    return pool
