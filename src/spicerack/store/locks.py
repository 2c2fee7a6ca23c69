"""One process at a time: locks of the folders that are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spicerack.errors import StoreLockedError
from spicerack.store.files import output_error


def acquire(path: Path, what: str) -> FileLock:
    """A lock that one process can have.

    Args:
        path: the lock's file.
        what: is written by who has it, for the message.

    Raises:
        StoreLockedError: another process has it.
        OutputError: the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StoreLockedError(f"another process is writing {what}; wait for it, or choose another folder") from error
    except OSError as error:
        raise output_error(path, error) from error
    return lock


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold a lock that one process can have; arguments and errors as for `acquire`."""
    lock = acquire(path, what)
    try:
        yield
    finally:
        lock.release()
