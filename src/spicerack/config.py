"""The run's configuration: one frozen model a section, unknown keys forbidden.

Options that trainers have too keep the trainers' names. A run directory holds the resolved `config.yaml`, and that file
repeats the run. The options of a selection method live with the method; here they are carried, not known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """Where the pool is and how its rows are read."""

    pool: str | None = Field(None, description="file (.jsonl .json .csv .parquet), Arrow folder, or hub id")
    format: str = Field("auto", description="auto | alpaca | sharegpt | messages | completion | text | tokenized")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    revision: str | None = Field(None, description="revision of a hub data set")
    id_column: str | None = Field(None, description="column with stable ids; default: `id` if unique, else a content hash")
    source_column: str | None = Field(None, description="column naming each row's source; default: `source` if there is one")


class ModelConfig(Section):
    """The model whose gradients are taken."""

    model_name_or_path: str | None = Field(None, description="hub id, folder or GGUF file")
    revision: str | None = None
    tokenizer_name_or_path: str | None = Field(None, description="default: the model's own")
    adapter_name_or_path: str | None = Field(None, description="PEFT adapter to load on top of the model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="auto | cpu | cuda | cuda:N | mps")
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = Field(None, description="a Jinja file or text that replaces the tokenizer's template")


class LabelConfig(Section):
    """Which tokens carry loss. Two runs with equal sections have equal labels (the label rule)."""

    max_length: Annotated[int, Field(ge=2)] = Field(2048, description="tokens kept, from the start")
    assistant_only_loss: bool = Field(True, description="chat data: loss on assistant turns only")
    turns: Literal["all", "last"] = Field("all", description="which assistant turns carry loss")
    completion_only_loss: bool = Field(True, description="prompt/completion data: loss on the completion only")
    train_on_turn_suffix: bool = Field(
        True, description="loss on what the template puts after the end-of-turn token (Qwen's newline; Axolotl: false)"
    )


class GradientConfig(Section):
    """What is taken of every sample's gradient, and how it is stored."""

    parameters: str = Field("blocks", description="blocks | last:N | lora | a regular expression over parameter names")
    dimension: Annotated[int, Field(ge=1)] | None = Field(4096, description="k; None keeps exact gradients (tiny models)")
    sketch: Annotated[int, Field(ge=1)] | None = Field(None, description="sides of the per-layer sketch; None: chosen from k")
    projection_seed: Annotated[int, Field(ge=0)] = 0
    reduction: Literal["mean", "sum"] = Field("mean", description="loss of a sample: over its trained tokens")
    gradient_norm: Literal["estimate", "exact"] = "estimate"
    tokens_per_batch: Annotated[int, Field(ge=1)] | None = Field(None, description="None: chosen for the device")
    shard_rows: Annotated[int, Field(ge=1)] = Field(1024, description="rows of a shard: what an interruption can cost")
    storage_dtype: Literal["float16", "float32"] = "float16"


class SelectionConfig(BaseModel):
    """The method, its budget, and the method's own options (checked by the method)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = "spice"
    budget: int | float | str = Field(0.1, description="500 | 0.1 | '10%' | '20000 tokens'")
    target: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def method_options(self) -> dict[str, Any]:
        """Everything in the section that belongs to the method."""
        return dict(self.model_extra or {})


class RunConfig(Section):
    """A whole run: `spicerack run config.yaml`."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    labels: LabelConfig = LabelConfig()
    gradients: GradientConfig = GradientConfig()
    selection: SelectionConfig = SelectionConfig()
    output_dir: Path = Path("runs/spicerack")
