"""What we ask of the trainer while it runs: to stop when the loss is lost, to say how far it is, to leave moments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spicerack.errors import ConfigurationError
from spicerack.training.moments import MOMENTS_FILE, write_moments

if TYPE_CHECKING:
    from spicerack.gradients.survey import Progress

DIVERGED = 2.0  # times the first step's loss


class StopWhenLost(TrainerCallback):  # type: ignore[misc]
    """End a training whose loss is no longer a number, at once.

    With `bounded`, also one whose mean loss over an epoch is above twice that of the first step: its checkpoints are
    further from the data than the model that they began with.
    """

    def __init__(self, *, bounded: bool = False) -> None:
        self.bounded = bounded

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at one step's loss.

        Raises:
            ConfigurationError: it is not finite.
        """
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise ConfigurationError(
                f"the training diverged: the loss is {loss} at step {state.global_step} of {state.max_steps}; lower "
                "learning_rate, or max_grad_norm"
            )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the epoch's loss with where the training began.

        Raises:
            ConfigurationError: it is more than twice as high.
        """
        epochs = summarize_epochs(state.log_history)
        if not self.bounded or not epochs:
            return
        first = next(entry["loss"] for entry in state.log_history if "loss" in entry)
        last = epochs[-1]
        if last["loss"] > DIVERGED * first:
            raise ConfigurationError(
                f"the warm-up diverged: the loss was {first:.3g} at the first step and {last['loss']:.3g} on average "
                f"in epoch {last['epoch']}; lower learning_rate ({args.learning_rate:g})"
            )


class SayHowFar(TrainerCallback):  # type: ignore[misc]
    """Report samples and tokens done to a progress display."""

    def __init__(self, progress: Progress, *, stage: str) -> None:
        self.progress = progress
        self.stage = stage

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after each step of the optimizer."""
        samples = state.global_step * args.train_batch_size * args.gradient_accumulation_steps
        done = int(state.num_input_tokens_seen)
        self.progress(self.stage, samples, done, done * max(state.max_steps, state.global_step) // state.global_step)


class LeaveMoments(TrainerCallback):  # type: ignore[misc]
    """Put Adam's moments by parameter name beside every checkpoint."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called when the trainer has written its own files."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        write_moments(folder / MOMENTS_FILE, model, optimizer)


def summarize_epochs(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean loss and mean learning rate of the steps of each epoch, from a trainer that logs every step.

    Returns:
        A dictionary an epoch: `epoch` (from 1), `last_step`, `steps`, `loss`, `mean_learning_rate`.
    """
    epochs: dict[int, list[dict[str, Any]]] = {}
    for entry in log_history:
        if "loss" in entry:
            epochs.setdefault(math.ceil(entry["epoch"] - 1e-9), []).append(entry)
    return [
        {
            "epoch": epoch,
            "last_step": entries[-1]["step"],
            "steps": len(entries),
            "loss": math.fsum(entry["loss"] for entry in entries) / len(entries),
            "mean_learning_rate": math.fsum(entry["learning_rate"] for entry in entries) / len(entries),
        }
        for epoch, entries in sorted(epochs.items())
    ]
