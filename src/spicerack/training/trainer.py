"""TRL's SFTTrainer on samples that are tokens and labels already: nothing is prepared, masked or packed again."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.data.batching import collate
from spicerack.data.labels import Encoded
from spicerack.errors import ConfigurationError, MissingDependencyError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerCallback
    from trl import SFTTrainer

    from spicerack.models.loading import LoadedModel
    from spicerack.training.options import ProxyOptions, TrainerOptions
    from spicerack.training.samples import LabeledRows

NOISE = (
    r"`(is_)?gradient_checkpointing` is deprecated",  # TRL and peft use names that transformers renamed
    r"`torch\.jit\.",  # what TRL imports uses a compiler that torch is giving up
    r"Could not find a config file in .* will assume that the vocabulary was not modified",  # and it was not
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what TRL, peft and transformers say about each other (`NOISE`), and their bars over ours."""
    from spicerack.models.loading import without_bars

    with without_bars(), warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield


def require_trl() -> None:
    """Find out early whether TRL is there.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec("trl") is None:
        raise MissingDependencyError("training needs TRL; pip install 'spicerack[train]'")


def add_adapters(model: PreTrainedModel, options: ProxyOptions) -> PreTrainedModel:
    """Put LoRA adapters on a model, drawn from the seed, or make every weight trainable.

    Raises:
        ModelError: no module has the names of `lora_target_modules`.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(options.seed)
    if not options.use_peft:
        return model.requires_grad_(True)
    lora = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=options.modules(),
        task_type="CAUSAL_LM",
    )
    try:
        adapted: PreTrainedModel = get_peft_model(model, lora)
    except ValueError as error:
        raise ModelError(
            f"lora_target_modules={options.lora_target_modules} fits no module of {type(model).__name__}: name some of "
            "its linear modules, or all-linear"
        ) from error
    return adapted


def make_trainer(
    model: PreTrainedModel,
    data: LabeledRows,
    loaded: LoadedModel,
    options: TrainerOptions,
    output_dir: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> SFTTrainer:
    """The trainer of `model`, every step logged.

    Args:
        model: with its adapters.
        data: the samples.
        loaded: where the model came from, with its tokenizer and device.
        options: of the optimizer.
        output_dir: where checkpoints go.
        callbacks: of the transformers Trainer.
        **arguments: more of `trl.SFTConfig`: max_steps, save_strategy, ...

    Raises:
        ConfigurationError: no tokenizer, several GPUs in one process, another device than the trainer's, or weights in
        float16.
    """
    import datasets
    from transformers import PrinterCallback
    from trl import SFTConfig

    from spicerack.training.labeled_loss import trainer_class

    if loaded.tokenizer is None:
        raise ConfigurationError("training needs the model's tokenizer, to be kept beside the weights; give tokenizer=")
    if loaded.dtype == "float16":
        raise ConfigurationError("weights in float16 lose small gradients; load them with dtype bfloat16 or float32")
    config = SFTConfig(
        output_dir=str(output_dir),
        learning_rate=options.learning_rate or default_learning_rate(options),
        lr_scheduler_type=options.lr_scheduler_type,
        warmup_steps=min(rising_share(data, options), 1.0 - 1e-9),  # below 1 is a share of the steps, 1 is one step
        num_train_epochs=options.num_train_epochs,
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        bf16=mixed_precision(loaded, options),
        gradient_checkpointing=options.gradient_checkpointing,
        seed=options.seed,
        use_cpu=loaded.device.type == "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_only_model=False,
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    _check_device(loaded.device, config)
    trainer = trainer_class(loaded.device)(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_dict(
            {
                "input_ids": [sample.input_ids.tolist() for sample in data.samples],
                "labels": [sample.labels.tolist() for sample in data.samples],
            }
        ),
        data_collator=pad_rows,
        processing_class=loaded.tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def pad_rows(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad as the gradient pass does: on the right, labels with -100, no pad ever told by its id."""
    import torch

    batch = collate([Encoded(np.asarray(row["input_ids"]), np.asarray(row["labels"]), 0, False) for row in rows])
    mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
    return {"input_ids": batch.input_ids, "labels": batch.labels, "attention_mask": mask}


def default_learning_rate(options: ProxyOptions) -> float:
    """2e-4 for adapters, 2e-5 for all weights: what TRL's documentation recommends."""
    return 2e-4 if options.use_peft else 2e-5


def rising_share(data: LabeledRows, options: TrainerOptions) -> float:
    """`warmup_ratio`; 0 where there is one step alone: the rise begins at a rate of 0, and nothing would be learned."""
    return options.warmup_ratio if options.steps(len(data)) > 1 else 0.0


def mixed_precision(loaded: LoadedModel, options: TrainerOptions) -> bool:
    """Whether matrix products run in bfloat16: as stated, else where the weights are bfloat16."""
    return loaded.dtype == "bfloat16" if options.bf16 is None else options.bf16


def last_checkpoint(output_dir: Path, *, with_file: str | None = None) -> Path | None:
    """The latest whole checkpoint: its `trainer_state.json`, which is written last, can be read.

    Args:
        output_dir: folder of the training.
        with_file: a file that it must have too.
    """
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    for folder in sorted(found, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if with_file is None or (folder / with_file).is_file():
            return folder
    return None


@contextmanager
def own_forward(model: PreTrainedModel) -> Iterator[None]:
    """TRL puts a forward of its own on the model; put the model's own back."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.__dict__.get("forward")
    try:
        yield
    finally:
        base.__dict__.pop("forward", None)
        if before is not None:
            base.forward = before


def _check_device(device: torch.device, config: Any) -> None:
    if config.n_gpu > 1:
        raise ConfigurationError(
            f"{config.n_gpu} GPUs are visible, and training uses one; choose it with CUDA_VISIBLE_DEVICES=0"
        )
    if (device.type, device.index or 0) != (config.device.type, config.device.index or 0):
        raise ConfigurationError(
            f"the model is on {device}, but the trainer uses {config.device}; choose the GPU with CUDA_VISIBLE_DEVICES"
        )
