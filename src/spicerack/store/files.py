"""Files that are either whole or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from spicerack.errors import OutputError

PARTIAL = ".partial"
SELECTION, TRAINING = "a selection", "a training"
KINDS = {"format_version": "a store", "method": SELECTION, "steps": TRAINING}
"""What a `manifest.json` is of, by a key that no other kind has."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Give `write` a binary file that becomes `path` when it is complete and on disk.

    Raises:
        OutputError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")  # two processes may write one file
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise output_error(path, error) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def sha256(path: Path) -> str:
    """Checksum of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_kind(folder: Path, kind: str) -> None:
    """Find out whether a folder's manifest is of something else, which a new one would write over.

    Args:
        folder: it need not exist.
        kind: what is to be written, of `KINDS`.

    Raises:
        OutputError: a manifest of another kind is there.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        there = next((name for key, name in KINDS.items() if key in manifest), kind)
    except (OSError, ValueError, TypeError):
        return
    if there != kind:
        raise OutputError(
            f"{folder} holds {there}, and {kind} would write over its manifest.json; choose another folder"
        )


def prepare_output(folder: Path, kind: str | None = None) -> Path:
    """Make a run's folder, and find out now whether it can be written.

    Args:
        folder: to be made if it is not there.
        kind: see `check_kind`; None: no manifest is written.

    Raises:
        OutputError: it cannot, or something of another kind is there.
    """
    if kind is not None:
        check_kind(folder, kind)
    probe = folder / ".spicerack-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}; choose another output folder"
        ) from error
    return folder


def output_error(path: Path, error: OSError) -> OutputError:
    """The one line for a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"the disk of {path.parent} is full; free space and run the same command again, what is finished is kept"
    else:
        what = f"cannot write {path}: {error.strerror or error}; choose another output folder or change its permissions"
    return OutputError(what)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
