"""A folder that one process trains or compares in: its lock, and the settings of what lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spicerack.errors import StoreMismatchError
from spicerack.store.files import output_error, write_json
from spicerack.store.locks import alone
from spicerack.store.read_back import read_json
from spicerack.store.settings import differences

SETTINGS_FILE = "settings.json"
LOCK_FILE = "lock"


@contextmanager
def occupied(output_dir: Path, settings: dict[str, Any], binds: Callable[[str], bool]) -> Iterator[None]:
    """Make the folder, hold its lock, and leave the settings in it.

    Settings bind once something was made by them: a try that ended before that can be corrected in its own folder.

    Args:
        output_dir: the folder.
        settings: by section, JSON values.
        binds: whether something in the folder was made by a section.

    Raises:
        StoreMismatchError: what lies there was made with other settings; they are named.
        StoreLockedError: another process is at work there.
        OutputError: the folder cannot be made.
        MissingDependencyError: TRL is not installed.
    """
    from spicerack.training.trainer import require_trl

    require_trl()
    path = output_dir / SETTINGS_FILE
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    with alone(output_dir / LOCK_FILE, f"the folder {output_dir}"):
        if path.is_file():
            before = read_json(path, f"delete the folder {output_dir}, and run the command again")
            _check_same(before, {name: part for name, part in settings.items() if binds(name)}, output_dir)
        write_json(path, settings)
        yield


def has_work(output_dir: Path, result: str) -> bool:
    """Whether a training's folder holds its result, or a checkpoint to go on from."""
    from spicerack.training.trainer import last_checkpoint

    return (output_dir / result).is_file() or last_checkpoint(output_dir) is not None


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    there = {section: before.get(section, {}) for section in now}
    if differing := differences(there, now, but=("model.name",)):
        raise StoreMismatchError(
            f"{folder} holds work with other settings: {differing}; give another output folder, or the settings that "
            "it was begun with"
        )
