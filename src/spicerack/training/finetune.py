"""Train a model on labeled rows: LoRA or all weights, by TRL, on the labels that the gradients used.

A training's folder:

settings.json      what the training is: options, model, data; written first, and compared when it is gone on with
checkpoint-N/      the trainer's own, to go on from; the last one is kept
adapter_model.safetensors or model.safetensors, and the tokenizer: the result
lock               held by the one process that trains there
manifest.json      settings, versions, steps, tokens, seconds, each epoch's loss; written last: its presence means whole
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spicerack.config import Choice, RunConfig
from spicerack.errors import ConfigurationError
from spicerack.store.files import TRAINING, check_kind, output_error, write_json
from spicerack.store.read_back import read_json
from spicerack.training.folder import has_work, occupied
from spicerack.training.options import ProxyOptions, TrainConfig, TrainerOptions
from spicerack.training.samples import LabeledRows, model_summary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel

MANIFEST_FILE = "manifest.json"
PACKAGES = ("spicerack", "torch", "transformers", "peft", "trl", "accelerate")


Options = TypeVar("Options", bound=ProxyOptions)


@dataclass(frozen=True)
class Trained:
    """A training that is done: the model in evaluation mode, its folder, and its manifest."""

    loaded: LoadedModel
    output_dir: Path
    manifest: dict[str, Any]
    choices: tuple[Choice, ...] = ()

    def unload(self) -> LoadedModel:
        """Take the adapters off again: the model as it was before, without reading it from disk.

        Raises:
            ConfigurationError: all its weights were trained.
        """
        model: Any = self.loaded.model
        if not hasattr(model, "unload"):
            raise ConfigurationError("every weight of the model was trained; load it again to have it as it was")
        return replace(self.loaded, model=model.unload())


def finetune(
    data: LabeledRows,
    loaded: LoadedModel,
    options: TrainConfig,
    output_dir: str | Path,
    *,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train on every sample of `data`; the same call again goes on from the last checkpoint.

    The loss of a step is the mean over its trained tokens, of all its accumulated batches together. With
    `use_peft=False` the weights of `loaded` change in place; with adapters `Trained.unload` gives it back.

    Args:
        data: see `training.samples.label_rows`.
        loaded: the model, not yet adapted, with its tokenizer.
        options: of the adapters and the optimizer.
        output_dir: the training's folder.
        progress: called as (stage, samples done, tokens done, tokens expected).
        callbacks: of the transformers Trainer, for what a caller wants to see or do.

    Returns:
        The trained model and what it took.

    Raises:
        StoreMismatchError: the folder holds a training with other settings.
        ConfigurationError: the loss is no longer finite.
        ModelError: no module fits `lora_target_modules`, or the model has adapters already.
        MissingDependencyError: TRL is not installed.
        OutputError: the folder holds something else, or cannot be written.
    """
    output_dir = Path(output_dir)
    check_kind(output_dir, TRAINING)
    settings = describe(data, loaded, options)
    with occupied(output_dir, settings, lambda section: has_work(output_dir, MANIFEST_FILE)):
        return _finetune(data, loaded, options, output_dir, settings, progress, callbacks)


def _finetune(
    data: LabeledRows,
    loaded: LoadedModel,
    options: TrainConfig,
    output_dir: Path,
    settings: dict[str, Any],
    progress: Progress | None,
    callbacks: Sequence[TrainerCallback],
) -> Trained:
    from spicerack.training.callbacks import SayHowFar, StopWhenLost
    from spicerack.training.trainer import last_checkpoint, quiet_libraries

    watchers: list[TrainerCallback] = [StopWhenLost(), *callbacks]
    if progress is not None:
        watchers.append(SayHowFar(progress, stage="training"))
    arguments: dict[str, Any] = {"save_strategy": options.save_strategy, "save_steps": options.save_steps}
    if options.max_steps is not None:
        arguments["max_steps"] = options.max_steps
    resume = last_checkpoint(output_dir)
    trained, result = train(
        data, loaded, options, output_dir, resume=resume, callbacks=watchers, save_total_limit=1, **arguments
    )
    finished = output_dir / MANIFEST_FILE
    if finished.is_file() and resume is not None and result["resumed_from_step"] == result["steps"]:
        # nothing was left to do: keep what it took
        manifest = read_json(finished, "delete it, and run the same command again")
    else:
        with quiet_libraries():
            trained.model.save_pretrained(output_dir)
        trained.tokenizer.save_pretrained(output_dir)  # type: ignore[union-attr]  # the trainer asked for it
        manifest = {**settings, **result}
        write_json(finished, manifest)
    return Trained(trained, output_dir, manifest, choices_of(data, options, loaded))


def train(
    data: LabeledRows,
    loaded: LoadedModel,
    options: TrainerOptions,
    output_dir: Path,
    *,
    resume: Path | None,
    callbacks: Sequence[TrainerCallback],
    **arguments: Any,
) -> tuple[LoadedModel, dict[str, Any]]:
    """Run the trainer, and leave no trace of it on a model that it fails on.

    Args:
        data: the samples.
        loaded: the model without adapters.
        options: of the adapters and the optimizer.
        output_dir: where checkpoints go.
        resume: checkpoint to go on from.
        callbacks: of the transformers Trainer.
        **arguments: more of `trl.SFTConfig`.

    Returns:
        The trained model, and a summary: steps, tokens, seconds, epochs, versions.
    """
    from spicerack.errors import ModelError
    from spicerack.training.callbacks import summarize_epochs
    from spicerack.training.trainer import add_adapters, make_trainer, own_forward, quiet_libraries

    if hasattr(loaded.model, "peft_config"):
        raise ModelError("the model has adapters already; merge them into it, or name the model without them")
    data.check_fits(loaded.model)
    started = time.monotonic()
    with quiet_libraries(), own_forward(loaded.model):
        model = add_adapters(loaded.model, options)
        try:
            trainer = make_trainer(model, data, loaded, options, output_dir, callbacks=callbacks, **arguments)
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except BaseException as error:
            if options.use_peft:
                model.unload()
            if isinstance(error, OSError) and error.errno is not None:
                raise output_error(output_dir / "checkpoint", error) from error
            raise
    state = trainer.state
    summary = {
        "steps": int(state.global_step),
        "resumed_from_step": 0 if resume is None else int(resume.name.partition("-")[2]),
        "tokens": int(state.num_input_tokens_seen),
        "seconds": round(time.monotonic() - started, 3),
        "epochs": summarize_epochs(state.log_history),
        "versions": versions(),
    }
    return replace(loaded, model=model.eval()), summary


def describe(data: LabeledRows, loaded: LoadedModel, options: TrainerOptions) -> dict[str, Any]:
    """What makes two trainings the same: options, model, samples and labels."""
    from spicerack.training.trainer import default_learning_rate, mixed_precision, rising_share

    resolved = options.model_dump(mode="json") | {
        "learning_rate": options.learning_rate or default_learning_rate(options),
        "bf16": mixed_precision(loaded, options),
        "warmup_ratio": rising_share(data, options),
    }
    return {"options": resolved, "model": model_summary(loaded), "data": data.summary()}


def choices_of(data: LabeledRows, options: TrainerOptions, loaded: LoadedModel) -> tuple[Choice, ...]:
    """What was decided for the user."""
    from spicerack.training.trainer import default_learning_rate, mixed_precision, rising_share

    choices = []
    if options.learning_rate is None:
        reason = "the usual peak for adapters" if options.use_peft else "the usual peak for all weights"
        choices.append(Choice("learning_rate", default_learning_rate(options), reason))
    if options.bf16 is None:
        choices.append(Choice("bf16", mixed_precision(loaded, options), f"the weights are {loaded.dtype}"))
    if rising_share(data, options) != options.warmup_ratio:
        choices.append(Choice("warmup_ratio", 0.0, "one step is all there is, and the rate rises from 0"))
    if data.left_out:
        choices.append(Choice("left out", len(data.left_out), "rows without a trained token"))
    return tuple(choices)


def load_for_training(
    config: RunConfig, options: Options, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[LoadedModel, Options]:
    """Load the model of `config.model` in a type that it can be trained in.

    Where all weights are trained and no dtype is named, they are float32, and a trainer's products bfloat16 where the
    device multiplies it: a step of 2e-5 is lost on a weight in bfloat16, which has eight bits.

    Raises:
        ConfigurationError: no model is named.
        ModelError: it cannot be loaded.
    """
    from spicerack.models.loading import choose_device, choose_dtype, load_model

    section = config.model
    if section.model_name_or_path is None:
        raise ConfigurationError("no model is named; give a hub id, folder or GGUF file (--model)")
    if options.use_peft or section.dtype != "auto":
        return load_model(section.model_name_or_path, section, tokenizer=tokenizer), options
    fastest, _ = choose_dtype("auto", choose_device(section.device)[0])
    section = section.model_copy(update={"dtype": "float32"})
    loaded = load_model(section.model_name_or_path, section, tokenizer=tokenizer)
    choices = [*loaded.choices, Choice("dtype", "float32", "all weights are trained, and small steps need the bits")]
    if isinstance(options, TrainerOptions) and options.bf16 is None:
        options = options.model_copy(update={"bf16": fastest == "bfloat16"})
        choices.append(Choice("bf16", options.bf16, f"the fastest type of the device is {fastest}"))
    return replace(loaded, choices=tuple(choices)), options


def versions() -> dict[str, str]:
    """Versions of what a training depends on."""
    from importlib.metadata import version

    return {package: version(package) for package in PACKAGES}
