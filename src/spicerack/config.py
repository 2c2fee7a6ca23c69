"""The run's configuration: one frozen model a section, unknown keys forbidden.

Options that trainers have too keep the trainers' names. A run directory holds the resolved `config.yaml`, and that file
repeats the run. The options of a selection method live with the method; here they are carried, not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spicerack.errors import ConfigurationError, UnknownNameError

StorageDtype = Literal["float16", "bfloat16", "float32"]
"""What rows are stored in; `numbers.py` says how."""


class Choice(NamedTuple):
    """Something decided for the user: what, the value, and why. Printed once and kept in the manifest."""

    name: str
    value: Any
    reason: str


class Section(BaseModel):
    """Base of every section: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """Where the pool is and how its rows are read."""

    pool: str | None = Field(None, description="file (.jsonl .json .csv .parquet), Arrow folder, or hub id")
    format: str = Field("auto", description="alpaca | sharegpt | messages | completion | text | tokenized")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    revision: str | None = Field(None, description="revision of a hub data set")
    id_column: str | None = Field(
        None, description="column with stable ids; default: `id` if unique, else a content hash"
    )
    source_column: str | None = Field(
        None, description="column naming each row's source; default: `source` if there is one"
    )


class ModelConfig(Section):
    """The model whose gradients are taken."""

    model_name_or_path: str | None = Field(None, description="hub id, folder or GGUF file")
    model_revision: str | None = Field(None, description="revision of a hub model")
    tokenizer_name_or_path: str | None = Field(None, description="default: the model's own")
    adapter_name_or_path: str | None = Field(None, description="PEFT adapter to load on top of the model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the weights and the pass")
    load_in_8bit: bool = Field(False, description="int8 weights, by bitsandbytes; gradients flow through them")
    load_in_4bit: bool = Field(False, description="4-bit weights (nf4), by bitsandbytes")
    device: str = Field("auto", description="cpu | cuda | cuda:N | mps")
    attn_implementation: str | None = Field(None, description="sdpa, eager, ...; default: the model's own choice")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")
    chat_template: str | None = Field(None, description="a Jinja file or text that replaces the tokenizer's template")

    def without_adapter(self) -> ModelConfig:
        """The section that training begins with: an adapter is for the gradients."""
        return self.model_copy(update={"adapter_name_or_path": None})


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
    dimension: Annotated[int, Field(ge=1)] | None = Field(
        4096, description="k; none keeps exact gradients (tiny models)"
    )
    sketch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="sides of the per-layer sketch; None: chosen from k"
    )
    layout: Literal["folded", "blocks"] = Field(
        "folded", description="summed to k columns, or each weight's sketch in columns of its own (sketch decides k)"
    )
    projection_seed: Annotated[int, Field(ge=0)] = Field(0, description="stores to be compared need the same one")
    reduction: Literal["mean", "sum"] = Field("mean", description="a sample's loss, over its trained tokens")
    gradient_norm: Literal["estimate", "exact"] = Field(
        "estimate", description="from the sketch, or of the whole gradient"
    )
    checkpoints: str | None = Field(
        None, description="folder of a warm-up or of a Trainer: gradients at each of its checkpoints"
    )
    optimizer_state: str | None = Field(
        None, description="of the model's checkpoint: its folder, adam.safetensors, optimizer.pt or optimizer.bin"
    )
    adam_rows: bool | None = Field(
        None, description="also rows of the optimizer's form; None: where its state is given (leave out for targets)"
    )
    adam_eps: Literal["torch", "less"] = Field(
        "torch", description="AdamW as torch steps it, or LESS's code: eps inside the root, no bias correction"
    )
    tokens_per_batch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="padded tokens at once; None: found by trying where that pays, else the default of the device"
    )
    packing: Literal["auto"] | bool = Field(
        "auto",
        description="a batch's samples in one row without pads: auto | true | false; auto: flash attention on a GPU",
    )
    shard_rows: Annotated[int, Field(ge=1)] = Field(1024, description="rows of a shard: what an interruption can cost")
    storage_dtype: StorageDtype = Field("float16", description="of the stored unit rows")

    @field_validator("dimension", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any) -> Any:
        return None if value == "none" else value


class SelectionConfig(BaseModel):
    """The method, its budget, and the method's own options (checked by the method)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = Field("spice", description="see `spicerack methods`")
    budget: int | float | str = Field(0.1, description="500 | 0.1 | '10%' | '20000 tokens'")
    target: str | dict[str, str] | None = Field(
        None, description="what the model should do: a data file or gradient store, or name=PATH for each of several"
    )
    subtask_column: str | None = Field(
        None, description="column of the targets that names each sample's subtask; default: the targets' names"
    )
    quotas: str | dict[str, str | int] | None = Field(
        None, description="least..most of a group, as in math=10..50, *=..30%; or proportional"
    )
    groups: str | None = Field(
        None, description="the quotas' groups: a column of the store, or clusters:N of gradients"
    )
    include: list[int | str] = Field([], description="picked first: a sample id, row:NUMBER, or @FILE of them")
    exclude: list[int | str] = Field([], description="never picked: a sample id, row:NUMBER, or @FILE of them")
    dedup: Annotated[float, Field(ge=0.5, le=1.0)] | None = Field(
        None, description="cosine of gradients from which on rows are near-duplicates, as in 0.9: one of them stays"
    )
    trim: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of each group that is never picked, its rows of the highest loss, or trim_by"
    )
    trim_above: float | None = Field(
        None, description="instead of a share: rows whose value is above this are never picked"
    )
    trim_by: str | None = Field(
        None, description="the column whose highest values a trim takes, as in mismatch or ifd; default: loss_mean"
    )
    trim_groups: str | None = Field(
        None, description="trim's groups: a column of the store, or clusters of gradients; default: clusters:12"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of whatever the method draws")

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


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "labels": LabelConfig,
    "gradients": GradientConfig,
    "selection": SelectionConfig,
}


def section_of(option: str) -> str | None:
    """The section that has an option of this name; names are unique over the sections."""
    return next((section for section, model in SECTIONS.items() if option in model.model_fields), None)


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Check nested values, and report everything that is wrong with them at once.

    Raises:
        UnknownNameError: one unknown key and nothing else wrong; the nearest key is named.
        ConfigurationError: anything else, one line.
    """
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise _one_line(error) from error


def with_options(config: RunConfig, options: Mapping[str, Any], *, sections: Iterable[str] = SECTIONS) -> RunConfig:
    """A configuration with flat options (`dtype="bfloat16"`) put into their sections.

    Args:
        config: the base.
        options: by name; a name is looked up in `sections`.
        sections: where names may belong; what is unknown goes to the method if `selection` is among them.

    Raises:
        UnknownNameError: a name that no section has.
    """
    values = config.model_dump(mode="json")
    allowed = set(sections)
    for name, value in options.items():
        section = section_of(name)
        if section not in allowed:
            if "selection" not in allowed:
                raise UnknownNameError("option", name, [f for s in allowed for f in SECTIONS[s].model_fields])
            section = "selection"
        values[section][name] = str(value) if isinstance(value, Path) else value
    return make_config(values)


def load_config(path: str | Path, assignments: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` assignments (values are YAML).

    Raises:
        ConfigurationError: no such file, not YAML, an assignment without a section, or a bad value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error}") from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path}{line} is not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds a {type(values).__name__}; expected the sections {', '.join(SECTIONS)}")
    return make_config(_assigned(values, assignments))


def assign(config: RunConfig, assignments: Iterable[str]) -> RunConfig:
    """Apply `section.key=value` assignments (values are YAML)."""
    return make_config(_assigned(config.model_dump(mode="json"), assignments))


def dump_config(config: RunConfig) -> str:
    """The YAML text that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_value(text: str, name: str) -> Any:
    """The value of an option as YAML has it: `0.2` is a number, `true` a truth value, `[a, b]` a list.

    Raises:
        ConfigurationError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{name}: cannot read the value {text!r} ({getattr(error, 'problem', error)}); text with signs in it "
            f"stands in quotes of its own, as in {name}='\"{text}\"'"
        ) from error


def _assigned(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, dot, option = key.strip().partition(".")
        if not equals or (not dot and section != "output_dir"):
            raise ConfigurationError(
                f"cannot read the assignment {assignment!r}; expected section.key=value, as in selection.penalty=0.2"
            )
        value = read_value(text, key.strip())
        if not dot:
            values[section] = value
        elif isinstance(values.setdefault(section, {}), dict):
            values[section][option] = value
    return values


def _one_line(error: ValidationError) -> ConfigurationError:
    problems = error.errors()
    messages = []
    for problem in problems:
        where = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            model = SECTIONS.get(where[0]) if len(where) > 1 else RunConfig
            unknown = UnknownNameError("option", ".".join(where), model.model_fields if model else ())
            if len(problems) == 1:
                return unknown
            messages.append(str(unknown))
        else:
            messages.append(f"{'.'.join(where)}: {problem['msg'].lower()}, got {problem['input']!r}")
    return ConfigurationError("; ".join(messages))
