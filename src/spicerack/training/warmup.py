"""LESS's warm-up (arXiv 2402.04333, section 4.1): train on a random share, and keep every epoch with its moments.

A warm-up's folder:

settings.json      what the warm-up is
rows.npy           the pool rows trained on, int64
checkpoint-N/      one an epoch: the trainer's files, and adam.safetensors with the moments by parameter name
warmup.json        the checkpoints with their weights, written last: its presence means whole
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import Choice
from spicerack.errors import ConfigurationError
from spicerack.store.files import write_atomically, write_json
from spicerack.training.finetune import choices_of, describe, train
from spicerack.training.folder import has_work, occupied
from spicerack.training.options import WarmupConfig
from spicerack.training.samples import LabeledRows, label_rows

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel

WARMUP_FILE = "warmup.json"
ROWS_FILE = "rows.npy"


@dataclass(frozen=True)
class WarmupCheckpoint:
    """One epoch of the warm-up.

    Attributes:
        name: `epoch-1`, ...
        folder: its adapter (or model), and `adam.safetensors`.
        weight: the epoch's mean learning rate over the sum of them all; the weights sum to 1.
        mean_learning_rate: over the epoch's steps.
        loss: mean over the epoch's steps.
    """

    name: str
    folder: Path
    weight: float
    mean_learning_rate: float
    loss: float


@dataclass(frozen=True)
class Warmup:
    """A finished warm-up; the model is as it was before, the checkpoints are on disk."""

    output_dir: Path
    checkpoints: tuple[WarmupCheckpoint, ...]
    manifest: dict[str, Any]
    choices: tuple[Choice, ...] = ()


def warmup(
    pool: Pool,
    labeler: Labeler,
    loaded: LoadedModel,
    options: WarmupConfig,
    output_dir: str | Path,
    *,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Warmup:
    """Train on a random share of a pool; the same call again goes on from the last whole epoch.

    Args:
        pool: the rows to be selected from later.
        labeler: the label rule, the one of the gradients to come.
        loaded: the model, without adapters. Its adapters are taken off again; with `use_peft=False` its weights change.
        options: share, adapters, optimizer; the defaults are LESS's.
        output_dir: the warm-up's folder.
        progress: called as (stage, samples done, tokens done, tokens expected).
        callbacks: of the transformers Trainer.

    Returns:
        The checkpoints with their weights.

    Raises:
        ConfigurationError: the warm-up diverged (the loss is not finite, or an epoch's mean is above twice the first
            step's), or no step had a learning rate.
        StoreMismatchError: the folder holds another warm-up.
        DataError: no row of the share has a trained token.
        MissingDependencyError: TRL is not installed.
    """
    output_dir = Path(output_dir)
    data = label_rows(pool, labeler, draw(len(pool), options))
    settings = describe(data, loaded, options)
    with occupied(output_dir, settings, lambda section: has_work(output_dir, WARMUP_FILE)):
        if not (output_dir / WARMUP_FILE).is_file():
            _warm_up(data, loaded, options, output_dir, settings, progress, callbacks)
    return read_warmup(output_dir, choices_of(data, options, loaded))


def _warm_up(
    data: LabeledRows,
    loaded: LoadedModel,
    options: WarmupConfig,
    output_dir: Path,
    settings: dict[str, Any],
    progress: Progress | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    from spicerack.training.callbacks import LeaveMoments, SayHowFar, StopWhenLost
    from spicerack.training.moments import MOMENTS_FILE
    from spicerack.training.trainer import last_checkpoint

    write_atomically(output_dir / ROWS_FILE, lambda file: np.save(file, data.rows, allow_pickle=False))
    watchers: list[TrainerCallback] = [StopWhenLost(bounded=True), LeaveMoments(), *callbacks]
    if progress is not None:
        watchers.append(SayHowFar(progress, stage="warm-up"))
    trained, summary = train(
        data,
        loaded,
        options,
        output_dir,
        resume=last_checkpoint(output_dir, with_file=MOMENTS_FILE),
        callbacks=watchers,
        save_strategy="epoch",
    )
    if options.use_peft:
        trained.model.unload()
    write_json(output_dir / WARMUP_FILE, {**settings, **summary, "checkpoints": weigh(summary["epochs"])})


def draw(rows: int, options: WarmupConfig) -> np.ndarray:
    """Which rows of a pool are trained on: a random share by the seed, ascending, at least one row."""
    count = max(1, round(options.fraction * rows))
    return np.sort(np.random.default_rng(options.seed).choice(rows, count, replace=False))


def weigh(epochs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A checkpoint an epoch, weighted by its mean learning rate.

    Args:
        epochs: as `callbacks.summarize_epochs` gives them.

    Raises:
        ConfigurationError: the rate was zero in every step.
    """
    total = sum(epoch["mean_learning_rate"] for epoch in epochs)
    if total <= 0:
        raise ConfigurationError(
            "the learning rate was 0 in every step of the warm-up, so nothing was learned; train on more rows or "
            "epochs, with smaller batches, or with warmup_ratio 0"
        )
    return [
        {
            "name": f"epoch-{epoch['epoch']}",
            "folder": f"checkpoint-{epoch['last_step']}",
            "weight": epoch["mean_learning_rate"] / total,
            "mean_learning_rate": epoch["mean_learning_rate"],
            "loss": epoch["loss"],
        }
        for epoch in epochs
    ]


def read_warmup(output_dir: Path, choices: tuple[Choice, ...] = ()) -> Warmup:
    """Read a finished warm-up's folder.

    Raises:
        ConfigurationError: there is no finished warm-up.
    """
    path = output_dir / WARMUP_FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{output_dir} holds no finished warm-up ({WARMUP_FILE}); run `spicerack warmup` to the end"
        ) from error
    checkpoints = tuple(
        WarmupCheckpoint(**{**entry, "folder": output_dir / entry["folder"]}) for entry in manifest["checkpoints"]
    )
    return Warmup(output_dir, checkpoints, manifest, choices)
