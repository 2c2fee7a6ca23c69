"""A run's folder to what a trainer reads: the picks in an order, or a weight for every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spicerack.export.trainers import TRAINERS as TRAINERS
from spicerack.export.trainers import export_rows
from spicerack.export.weights import curriculum, soft_weights, write_weights
from spicerack.report.folder import RunFolder
from spicerack.training.selection import read_selection


def export_selection(
    run: str | Path, trainer: str, output_dir: Path, *, order: str = "picked", seed: int = 0
) -> dict[str, Path]:
    """Write a run's picks as a trainer reads them; see `export.trainers` and `export.weights.curriculum`."""
    folder = RunFolder.open(run)
    selected = read_selection(run)
    losses = folder.column("loss_mean")
    own = None if losses is None else losses[folder.indices].astype(np.float64)
    ranks = curriculum(order, len(folder.indices), own, seed=seed)
    return export_rows(trainer, selected.pool(selected.config), ranks.tolist(), output_dir)


def export_weights(
    run: str | Path, output_dir: Path, *, temperature: float = 1.0, normalization: Any = "score"
) -> dict[str, Path]:
    """Write a weight for every sample of a run's pool; see `export.weights`."""
    folder = RunFolder.open(run)
    scores = folder.scores.column("score").to_numpy(zero_copy_only=False)
    weights = soft_weights(scores, temperature=temperature, normalization=normalization)
    return write_weights(output_dir, weights, folder.column("id"))
