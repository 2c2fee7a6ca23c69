"""Gradients at several checkpoints of a model: a folder of stores, one a checkpoint, and a manifest that names them.

manifest.json        the checkpoints' names and weights, in order
epoch-1/ ...         the store of each
features/            optional, as in a single store
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spicerack.errors import StoreError, StoreMismatchError
from spicerack.store import files
from spicerack.store.layout import FEATURES, FORMAT_VERSION, MANIFEST, read_manifest


class Member(NamedTuple):
    """Name of a checkpoint's store and its weight."""

    name: str
    weight: float


def begin_collection(path: str | Path, members: Sequence[Member]) -> None:
    """Make the folder of a collection, or check that the one there is of the same checkpoints; its stores come after.

    Args:
        path: the folder.
        members: in training order; names are folder names, each once, and weights sum to 1.

    Raises:
        StoreMismatchError: the folder holds a store, or a collection of other checkpoints or weights.
        StoreError: the folder holds something else, or a name is there twice.
        OutputError: it cannot be written.
    """
    folder = Path(path)
    names = [member.name for member in members]
    if len(set(names)) < len(names) or FEATURES in names:
        raise StoreError(f"checkpoints {', '.join(names)}: each needs a name of its own, and none is {FEATURES!r}")
    wanted = {"format_version": FORMAT_VERSION, "checkpoints": [member._asdict() for member in members]}
    found = read_manifest(folder)
    if found is not None:
        if found != wanted:
            was = (
                ", ".join(f"{c['name']} ({c['weight']:.4g})" for c in found.get("checkpoints", [])) or "a single store"
            )
            now = ", ".join(f"{member.name} ({member.weight:.4g})" for member in members)
            raise StoreMismatchError(f"{folder} holds {was}, now {now}; choose another output folder")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [item.name for item in folder.iterdir() if item.name != FEATURES and item.suffix != files.PARTIAL]
    except OSError as error:
        raise files.output_error(folder, error) from error
    if foreign:
        raise StoreError(f"{folder} holds other files ({foreign[0]!r}) and no store; choose an empty or new folder")
    files.write_json(folder / MANIFEST, wanted)
