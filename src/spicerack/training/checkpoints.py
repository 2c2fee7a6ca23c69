"""The checkpoints that a training left, with their weights: our warm-up's, or those of any transformers Trainer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spicerack.errors import ConfigurationError
from spicerack.models.checkpoints import ModelCheckpoint
from spicerack.training.adapters import base_of
from spicerack.training.warmup import WARMUP_FILE, read_warmup

STATE_FILE = "trainer_state.json"


@dataclass(frozen=True)
class TrainedCheckpoints:
    """Checkpoints in training order, and the model that their adapters belong on, where it is known."""

    checkpoints: tuple[ModelCheckpoint, ...]
    base: str | None


def read_checkpoints(folder: str | Path) -> TrainedCheckpoints:
    """Find the checkpoints of a training, each weighted by its share of the mean learning rates.

    Args:
        folder: of a warm-up (`warmup.json`), or of a Trainer: `checkpoint-N` folders with `trainer_state.json`, whose
            logs have the learning rates. The rate of a checkpoint is that of the steps since the one before.

    Raises:
        ConfigurationError: no such folder, no checkpoint in it, or no learning rate in the logs.
    """
    folder = Path(folder)
    if (folder / WARMUP_FILE).is_file():
        warmup = read_warmup(folder)
        checkpoints = tuple(ModelCheckpoint(c.name, c.folder, c.weight) for c in warmup.checkpoints)
        return TrainedCheckpoints(checkpoints, warmup.manifest.get("model", {}).get("name"))
    found = {
        int(path.name.partition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if path.name.partition("-")[2].isdigit() and (path / STATE_FILE).is_file()
    }
    if not found:
        raise ConfigurationError(
            f"{folder} holds no checkpoints: neither a finished warm-up ({WARMUP_FILE}, see `spicerack warmup`) nor "
            f"checkpoint-N folders of a Trainer ({STATE_FILE})"
        )
    steps = sorted(found)
    rates = _mean_rates(found[steps[-1]] / STATE_FILE, steps)
    total = math.fsum(rates)
    checkpoints = tuple(
        ModelCheckpoint(found[step].name, found[step], rate / total) for step, rate in zip(steps, rates, strict=True)
    )
    return TrainedCheckpoints(checkpoints, base_of(found[steps[-1]]))


def _mean_rates(path: Path, steps: list[int]) -> list[float]:
    """Mean logged learning rate of the steps up to each checkpoint, from the one before it."""
    try:
        log: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        logged = [(int(entry["step"]), float(entry["learning_rate"])) for entry in log if "learning_rate" in entry]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; name the folder of a finished training") from error
    rates = []
    for before, step in zip([0, *steps], steps, strict=False):
        own = [rate for at, rate in logged if before < at <= step]
        if not own or sum(own) <= 0:
            raise ConfigurationError(
                f"{path} logs no learning rate above 0 from step {before} to {step}, so checkpoint-{step} has no "
                "weight; log more often than checkpoints are saved (logging_steps)"
            )
        rates.append(math.fsum(own) / len(own))
    return rates
