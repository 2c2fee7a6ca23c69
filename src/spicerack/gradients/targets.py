"""Targets as a user names them: gradient stores, or data files whose gradients are taken as the pool's are.

A target's rows are read in the pool's way (format, labels), its gradients at the same checkpoints and with the same
projection; rows of the optimizer's form are left out, since what a target says is where the loss falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spicerack.config import DataConfig
from spicerack.errors import ConfigurationError, DataError, StoreError
from spicerack.store.layout import GRADIENT

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.store.reader import GradientStore

ONLY = "target"
"""Folder of a target without a name."""


@dataclass(frozen=True)
class Target:
    """One target: its gradients if they are there, else the rows to take them of.

    Attributes:
        name: given by the user; None for the only one.
        place: its path, as given.
        store: its gradients.
        pool: its rows, where it is a data file.
        subtasks: a label per row, or None.
    """

    name: str | None
    place: str
    store: GradientStore | None
    pool: Pool | None
    subtasks: tuple[str, ...] | None


def open_targets(given: str | Mapping[str, str], subtask_column: str | None, data: DataConfig) -> list[Target]:
    """Open what was given as the target, and read every row's subtask.

    Args:
        given: a path or hub id, or several by name.
        subtask_column: column of a data file, or of a store's table, that names the subtask.
        data: how rows are read; what names the pool's own columns does not hold here.

    Raises:
        ConfigurationError: a name that cannot be a folder's, or a column that is not there.
        DataError: a file that cannot be read.
        StoreError: a store that is not whole.
    """
    if not isinstance(given, str):
        _check_names(given)
        if not given:
            raise ConfigurationError("selection.target is an empty mapping; give name: path")
        return [_open(name, place, subtask_column, data) for name, place in given.items()]
    return [_open(None, given, subtask_column, data)]


def target_groups(targets: Sequence[Target]) -> list[str] | None:
    """A subtask per row over all targets, `name/value` where they have names; None: the names alone say it."""
    if not targets or any(target.subtasks is None for target in targets):
        return None
    return [f"{t.name}/{value}" if t.name else value for t in targets for value in t.subtasks or ()]


def stores_of(
    targets: Sequence[Target], pool: GradientStore, arrays: Sequence[str] = (GRADIENT,)
) -> GradientStore | dict[str, GradientStore]:
    """The targets' stores, which must be there: selecting from a store loads no model.

    Args:
        targets: as opened.
        pool: the pool's store.
        arrays: what the method reads.

    Raises:
        ConfigurationError: a data file; says how to take its gradients, or features, as the pool's were taken.
    """
    for target in targets:
        if target.pool is not None and GRADIENT not in arrays:
            raise ConfigurationError(
                f"target {target.place} is a data file, and selecting from a store loads no model; run its features "
                f"first: spicerack features {target.place} --model MODEL --compute {','.join(arrays)} --output FOLDER, "
                "the model being the pool's; then give FOLDER as the target"
            )
        if target.pool is not None:
            made = pool.settings
            projection = made.get("projection", {})
            options = {
                "parameters": made.get("parameters"),
                "dimension": projection.get("dimension"),
                "layout": str(projection.get("kind", "")).rpartition(", ")[2] or None,
                "sketch": projection.get("sketch"),
                "projection-seed": projection.get("seed"),
                "reduction": made.get("reduction"),
            }
            words = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
            raise ConfigurationError(
                f"target {target.place} is a data file, and selecting from a store loads no model; take its gradients "
                f"first: spicerack gradients {target.place} --model MODEL {words} --output FOLDER, the model being the "
                f"pool's, {made.get('model', 'unknown')}; then give FOLDER as the target"
            )
    return by_name({target.name: target.store for target in targets if target.store is not None})


def check_labels(targets: Sequence[Target], labeler: Labeler) -> None:
    """Find out before the pool's pass that a target has nothing to train on.

    Raises:
        DataError: not one row of a target has a trained token.
    """
    from spicerack.gradients.survey import survey

    for target in targets:
        if target.pool is None:
            continue
        try:
            survey(target.pool, labeler)
        except DataError as error:
            raise DataError(f"target {target.name or target.place}: {error}") from error


def take_targets(
    targets: Sequence[Target], gradient_pass: GradientPass | CheckpointPasses, folder: Path
) -> GradientStore | dict[str, GradientStore]:
    """The gradients of every target, taken where they are not there, into `folder`/name.

    Args:
        targets: as opened.
        gradient_pass: the pool's, done: its model, labels, checkpoints and projection serve here too.
        folder: where the stores are made.

    Returns:
        The one store of a target without a name; else the stores by name.
    """
    return by_name({target.name: target.store or _take(target, gradient_pass, folder) for target in targets})


def by_name(stores: Mapping[str | None, GradientStore]) -> GradientStore | dict[str, GradientStore]:
    """The one store of a target without a name; else the stores by name."""
    return stores[None] if None in stores else {str(name): store for name, store in stores.items()}


def _take(target: Target, gradient_pass: GradientPass | CheckpointPasses, folder: Path) -> GradientStore:
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass

    assert target.pool is not None
    config = gradient_pass.resolved.model_copy(update={"adam_rows": False})
    labeler, progress = gradient_pass.labeler, gradient_pass.progress
    planned: GradientPass | CheckpointPasses
    if isinstance(gradient_pass, CheckpointPasses):
        models, checkpoints = gradient_pass.models, gradient_pass.checkpoints
        loaded = models.load(checkpoints[0])
        planned = CheckpointPasses(target.pool, labeler, models, checkpoints, config, loaded=loaded, progress=progress)
    else:
        planned = GradientPass(target.pool, labeler, gradient_pass.loaded, config, progress=progress)
    return planned.run(folder / (target.name or ONLY))


def _open(name: str | None, place: str, column: str | None, data: DataConfig) -> Target:
    from spicerack.data.records import load_pool
    from spicerack.store.layout import MANIFEST
    from spicerack.store.reader import GradientStore

    if (Path(place) / MANIFEST).is_file():
        store = GradientStore.open(place)
        return Target(name, place, store, None, _store_subtasks(store, column))
    section = data.model_copy(update={"id_column": None, "source_column": None})
    pool = load_pool(place, section)
    return Target(name, place, None, pool, _file_subtasks(pool, column))


def _file_subtasks(pool: Pool, column: str | None) -> tuple[str, ...] | None:
    if column is None:
        return None
    values = [pool.source[i].get(column) for i in range(len(pool))]
    if None in values:
        i = values.index(None)
        raise DataError(
            f"{pool.where(i)} has no {column!r}, which subtask_column names; found {', '.join(pool.source[i])}"
        )
    return tuple(str(value) for value in values)


def _store_subtasks(store: GradientStore, column: str | None) -> tuple[str, ...] | None:
    if column is None:
        return None
    try:
        return tuple(str(value) for value in store.column(column))
    except StoreError as error:
        raise ConfigurationError(
            f"subtask_column={column!r}: {error}; give the target's data file, or make its store with "
            f"--source-column {column} and name the column 'source'"
        ) from error


def _check_names(names: Mapping[str, str]) -> None:
    for name in names:
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            raise ConfigurationError(f"target name {name!r} cannot be a folder's; give another, NAME=PATH")
