"""Options of the feature pass: which features, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from spicerack.config import Section, StorageDtype
from spicerack.errors import ConfigurationError, UnknownNameError

FEATURES = ("counts", "loss", "ifd", "mismatch", "selectit", "embedding", "embedding_weighted", "states")
"""What can be computed. `counts`, the numbers of tokens, is there in any case and alone needs no forward pass."""


class FeatureConfig(Section):
    """`spicerack features`: what is computed of every sample, and how it is stored."""

    compute: str = Field(
        "embedding,embedding_weighted,ifd", description=f"names between commas, of {', '.join(FEATURES)}"
    )
    mismatches: Annotated[int, Field(ge=1)] = Field(
        1, description="other prompts that mismatch reads a response behind; each costs a pass over the responses"
    )
    state_rank: Annotated[int, Field(ge=1)] = Field(8, description="singular vectors kept of a sample's states")
    rating_prompts: str | None = Field(
        None, description="file of selectit's rating prompts, one a line; None: five of our own"
    )
    tokens_per_batch: Annotated[int, Field(ge=1)] | None = Field(None, description="None: chosen for the device")
    shard_rows: Annotated[int, Field(ge=1)] = Field(1024, description="rows of a shard: what an interruption can cost")
    storage_dtype: StorageDtype = Field("float16", description="of the stored unit rows")

    @field_validator("compute", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value

    @field_validator("compute")
    @classmethod
    def _known(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        for name in names:
            if name not in FEATURES:
                raise UnknownNameError("feature", name, FEATURES)
        if not names:
            raise ConfigurationError(f"compute names no feature; there is: {', '.join(FEATURES)}")
        return ",".join(name for name in FEATURES if name in names)

    @property
    def features(self) -> tuple[str, ...]:
        """The names in `compute`, in the order of `FEATURES`."""
        return tuple(self.compute.split(","))


def make_feature_config(values: Mapping[str, Any]) -> FeatureConfig:
    """Check options given by name.

    Raises:
        UnknownNameError: an option that does not exist; the nearest is named.
        ConfigurationError: values that cannot be; all such are reported at once.
    """
    for name in values:
        if name not in FeatureConfig.model_fields:
            raise UnknownNameError("option", name, FeatureConfig.model_fields)
    try:
        return FeatureConfig.model_validate(dict(values))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, p['loc']))}: {p['msg'].removeprefix('Value error, ')}, got {p['input']!r}"
            for p in error.errors()
        )
        raise ConfigurationError("; ".join(problems)) from error
