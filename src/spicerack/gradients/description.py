"""What a planned pass is: the settings that fix its store, and what was decided for the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice
from spicerack.models.limits import past_training

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.collect import GradientPass
    from spicerack.models.loading import LoadedModel
    from spicerack.store.reader import GradientStore

GRADIENT_VERSION = 3  # raised when the same settings would give other numbers


def common_settings(pool: Pool, labeler: Labeler, loaded: LoadedModel) -> dict[str, Any]:
    """What every store of a pool is made with, whatever is computed: model, labels, rows."""
    return {
        "model": f"{Path(loaded.name).name} (weights {loaded.fingerprint()[:16]})",
        "dtype": loaded.dtype,
        "attn_implementation": getattr(loaded.model.config, "_attn_implementation", None) or "default",
        "label_rule": labeler.rule(),
        "pool": f"{pool.source.name} (content {pool.fingerprint()[:16]})",
        "format": pool.format,
        "rows": len(pool),
    }


def is_store_of(store: GradientStore, pool: Pool) -> bool:
    """Whether a store was made from these rows: the same ids, and the same content where it is recorded."""
    made_from, content = str(store.settings.get("pool", "")), f"(content {pool.fingerprint()[:16]})"
    return list(pool.ids) == store.column("id").tolist() and (content in made_from or "(content " not in made_from)


def settings_of(planned: GradientPass, tokens_per_batch: int) -> dict[str, Any]:
    """What the store is made with; a store made with anything else is refused."""
    config = planned.config
    settings = {
        "gradient_version": GRADIENT_VERSION,
        **common_settings(planned.pool, planned.labeler, planned.loaded),
        "parameters": config.parameters,
        "tracked": [p.name for p in planned.parameters],
        "projection": planned.projection.settings(),
        "reduction": config.reduction,
        "gradient_norm": config.gradient_norm,
        "tokens_per_batch": tokens_per_batch,
        "shard_rows": config.shard_rows,
        "storage_dtype": config.storage_dtype,
    }
    if planned.attention is not None:
        settings["attn_implementation"] = planned.attention.name
    if planned.packing:  # named where it is on alone: stores from before there was a choice go on
        settings["packing"] = True
    if state := planned.optimizer:
        settings["optimizer_state"] = f"{state.kind} after {state.step} steps ({state.fingerprint()[:16]})"
        if state.kind == "adam":
            settings["adam_eps"] = config.adam_eps
    return settings


def choices_of(planned: GradientPass, of_the_model: Sequence[Choice]) -> list[Choice]:
    """Everything decided before the pass; `of_the_model` is how it is run."""
    pool = planned.pool
    long = past_training(planned.loaded.model, planned.survey.tokens)
    choices = [*pool.choices, *planned.loaded.choices, *long, *of_the_model, *_of_the_projection(planned)]
    if revision := getattr(planned.loaded.model.config, "_commit_hash", None):
        choices.append(Choice("model_revision", str(revision), "the commit of the hub that the weights are of"))
    if planned.optimizer is not None and planned.config.adam_rows is None:
        state = planned.optimizer
        reason = f"{state.path} is there, after {state.step} steps; --no-adam-rows leaves them out"
        choices.append(Choice("adam_rows", f"array {state.kind!r}", reason))
    return choices


def _of_the_projection(planned: GradientPass) -> list[Choice]:
    config, projection = planned.config, planned.projection
    exact = sum(p.size for p in planned.parameters)
    choices = [Choice("parameters", config.parameters, f"{len(planned.parameters)} weights, {exact:,} parameters")]
    if config.sketch is None and config.dimension is not None:
        reason = f"{projection.columns:,} sketch columns for {projection.dimension:,} final ones"
        choices.append(Choice("sketch", str(projection.sketch), reason))
    if config.layout == "blocks":
        reason = "layout=blocks keeps every column of the sketch"
        choices.append(Choice("dimension", str(projection.dimension), reason))
    elif config.dimension is not None and projection.dimension < config.dimension:
        reason = f"the tracked weights' sketch has no more columns; {config.dimension} was asked for"
        choices.append(Choice("dimension", str(projection.dimension), reason))
    return choices
