"""What `train` trains on: a run's folder, a data file, or a pool with the rows picked from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spicerack.config import Choice, ModelConfig, RunConfig, load_config
from spicerack.errors import ConfigurationError, DataError, StoreCorruptError
from spicerack.store.read_back import read_indices

if TYPE_CHECKING:
    from spicerack.data.records import Pool

JSON_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class SelectedData:
    """A file to train on, which of its rows, and the configuration that its run had.

    Attributes:
        source: a data file, Arrow folder or hub id.
        indices: (s,) int64 rows of it, in order; None: all.
        config: the run's sections data, model and labels; defaults where there was no run.
        choices: what was decided on the way.
        picks: rows that the file of a run must have.
    """

    source: str
    indices: np.ndarray | None
    config: RunConfig
    choices: tuple[Choice, ...] = ()
    picks: int | None = None

    def pool(self, config: RunConfig) -> Pool:
        """The file's rows, read as `config.data` says."""
        from spicerack.data.records import load_pool

        pool = load_pool(self.source, config.data)
        if self.indices is not None and int(self.indices.max()) >= len(pool):
            raise DataError(
                f"the indices reach row {int(self.indices.max())}, but {self.source} has {len(pool)} rows; "
                "name the pool that was selected from"
            )
        if self.picks is not None and len(pool) != self.picks:
            raise StoreCorruptError(
                f"{self.source} has {len(pool)} rows, and indices.npy beside it names {self.picks} picks: one of them "
                "was changed; select again, or name that file alone to use its rows"
            )
        return pool


def read_selection(
    selection: str | Path, *, indices: str | Path | None = None, model_name: str | None = None
) -> SelectedData:
    """Find out what a selection is.

    A run's folder brings its own configuration, so that the labels are those of its gradients. Its `selected.jsonl` is
    read; where the pool was a table (Parquet, CSV, Arrow, hub), `selected.parquet` is, because a table's nulls are
    absent keys and those of JSON are not.

    Args:
        selection: a run's folder, a data file, or, with `indices`, a pool.
        indices: a file `indices.npy` with rows of the pool.
        model_name: the model to be trained; the run's model section is kept only if it names the same.

    Raises:
        DataError: a run's folder without selected rows, or indices that are not rows.
        ConfigurationError: a run's folder together with `indices`.
    """
    folder = Path(selection)
    if not (folder.is_dir() and (folder / "config.yaml").is_file()):
        rows = None if indices is None else read_indices(Path(indices))
        return SelectedData(str(selection), rows, RunConfig())
    if indices is not None:
        raise ConfigurationError(f"{folder} is a run and has indices of its own; name the pool together with --indices")
    config, choices = load_config(folder / "config.yaml"), []
    source = _selected_file(folder, config)
    choices.append(Choice("data", source.name, f"the rows that {folder} selected"))
    if model_name is not None and model_name != config.model.model_name_or_path:
        config = config.model_copy(update={"model": ModelConfig()})
        choices.append(Choice("model options", "defaults", "the run that selected took another model's gradients"))
    elif config.model.adapter_name_or_path is not None:
        config = config.model_copy(update={"model": config.model.without_adapter()})
        choices.append(Choice("adapter", "none", "the run's was for its gradients; training begins with the model"))
    picks = len(read_indices(folder / "indices.npy")) if (folder / "indices.npy").is_file() else None
    return SelectedData(str(source), None, config, tuple(choices), picks)


def _selected_file(folder: Path, config: RunConfig) -> Path:
    pool = config.data.pool
    table = pool is not None and not any(suffix in JSON_SUFFIXES for suffix in Path(pool).suffixes)
    names = ("selected.parquet", "selected.jsonl") if table else ("selected.jsonl",)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has no selected.jsonl; `spicerack select ... --pool POOL` writes it beside the indices (to train, a "
        f"pool with --indices {folder / 'indices.npy'} will do)"
    )
