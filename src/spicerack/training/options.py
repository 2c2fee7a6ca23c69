"""Options of training, warm-up and evaluation: the trainers' own names, one frozen model each.

What decides the labels (`max_length`, `assistant_only_loss`, ...) is in the section `labels`, which the gradients read
too: a model is trained on the very tokens that its samples were selected by.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from spicerack.config import Section
from spicerack.errors import ConfigurationError, UnknownNameError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]


class ProxyOptions(Section):
    """Adapters and AdamW: what is true of every model that is trained, a step at a time or by a trainer."""

    use_peft: bool = Field(True, description="LoRA adapters; without: every weight of the model")
    lora_r: Count = Field(16, description="rank of the adapters")
    lora_alpha: Count = Field(32, description="their scale is lora_alpha / lora_r")
    lora_dropout: Share = Field(0.05, description="dropout before the adapters")
    lora_target_modules: str = Field("all-linear", description="all-linear, or names of modules, as in q_proj,v_proj")
    learning_rate: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="peak; None: 2e-4 for adapters, 2e-5 for all weights"
    )
    per_device_train_batch_size: Count = Field(8, description="samples at once")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="of AdamW")
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="of AdamW")
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.999, description="of AdamW")
    adam_epsilon: Annotated[float, Field(gt=0.0)] = Field(1e-8, description="of AdamW")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="longer gradients are scaled down; 0: never"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the order of the samples, the adapters and dropout")

    def modules(self) -> str | list[str]:
        """`lora_target_modules` as peft reads it."""
        names = [name.strip() for name in self.lora_target_modules.split(",") if name.strip()]
        return "all-linear" if names == ["all-linear"] else names


class TrainerOptions(ProxyOptions):
    """What `train` and `warmup` share: the above, and how long and in what steps. Packing is off."""

    lr_scheduler_type: Scheduler = Field("linear", description="how the rate falls")
    warmup_ratio: Share = Field(0.03, description="share of the steps in which the rate rises")
    num_train_epochs: Annotated[float, Field(gt=0.0)] = Field(3.0, description="passes over the data")
    gradient_accumulation_steps: Count = Field(1, description="batches of a step")
    bf16: bool | None = Field(None, description="mixed precision; None: where the device multiplies bfloat16")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")

    def steps(self, samples: int) -> int:
        """Steps of the optimizer on this many samples, counted as the trainer does."""
        batches = math.ceil(samples / self.per_device_train_batch_size)
        return math.ceil(self.num_train_epochs * math.ceil(batches / self.gradient_accumulation_steps))


class TrainConfig(TrainerOptions):
    """`spicerack train`."""

    max_steps: Count | None = Field(
        None, description="this many steps whatever the epochs: for equal-steps comparisons"
    )
    save_strategy: Literal["epoch", "steps", "no"] = Field(
        "epoch", description="when a checkpoint to go on from is left"
    )
    save_steps: Count = Field(100, description="between checkpoints, with save_strategy=steps")

    def steps(self, samples: int) -> int:
        """Steps of the optimizer: `max_steps` where it is given."""
        return super().steps(samples) if self.max_steps is None else self.max_steps


class WarmupConfig(TrainerOptions):
    """`spicerack warmup`; the defaults are LESS's recipe (arXiv 2402.04333, section 4.1 and its scripts)."""

    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.05, description="random share of the pool trained on")
    lora_r: Count = Field(128, description="rank of the adapters")
    lora_alpha: Count = Field(512, description="their scale is lora_alpha / lora_r")
    lora_dropout: Share = Field(0.1, description="dropout before the adapters")
    lora_target_modules: str = Field(
        "q_proj,k_proj,v_proj,o_proj", description="all-linear, or names of modules, as in q_proj,v_proj"
    )
    learning_rate: Annotated[float, Field(gt=0.0)] | None = Field(2e-5, description="peak")
    num_train_epochs: Annotated[float, Field(gt=0.0, multiple_of=1.0)] = Field(
        4.0, description="passes over the share; each leaves a checkpoint"
    )
    gradient_accumulation_steps: Count = Field(16, description="batches of a step; 16 x 8 samples are LESS's 128")


class EvaluateConfig(Section):
    """`spicerack evaluate`."""

    by: str | None = Field(None, description="column whose values are the groups (capability, task, ...)")
    tokens_per_batch: Count = Field(8192, description="padded tokens at once")
    exact_match: bool = Field(False, description="also answer by greedy decoding, where reference answers are short")
    max_answer_tokens: Count = Field(32, description="references with more tokens are not answered")
    max_new_tokens: Count = Field(48, description="tokens that the model may answer with")
    resamples: Annotated[int, Field(ge=100)] = Field(2000, description="of the bootstrap")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="of the intervals")
    bootstrap_seed: Annotated[int, Field(ge=0)] = Field(0, description="of the bootstrap")
    harness_tasks: str | None = Field(None, description="tasks of the EleutherAI harness, as in gsm8k,arc_easy")
    harness_limit: Count | None = Field(None, description="samples of each harness task; None: all")

    @model_validator(mode="after")
    def _answers_fit(self) -> EvaluateConfig:
        if self.exact_match and self.max_new_tokens < self.max_answer_tokens:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} cuts answers off that references of up to "
                f"max_answer_tokens={self.max_answer_tokens} tokens ask for; raise the first, or lower the second"
            )
        return self


OptionsModel = TypeVar("OptionsModel", bound=Section)


def split_options(model: type[Section], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that belong to a model, and the others."""
    own = {name: value for name, value in options.items() if name in model.model_fields}
    return own, {name: value for name, value in options.items() if name not in own}


def make_options(model: type[OptionsModel], values: dict[str, Any]) -> OptionsModel:
    """Check options given by name.

    Raises:
        UnknownNameError: one of them does not exist; the nearest is named.
        ConfigurationError: a value that cannot be; all such are reported at once.
    """
    for name in values:
        if name not in model.model_fields:
            raise UnknownNameError("option", name, model.model_fields)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_problem, error.errors()))) from error


def _problem(problem: Any) -> str:
    """One thing wrong: of an option by name, or of several together in their rule's own words."""
    where = ".".join(map(str, problem["loc"]))
    if not where:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {problem['msg'].lower()}, got {problem['input']!r}"
