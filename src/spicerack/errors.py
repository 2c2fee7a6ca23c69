"""Everything spicerack raises on purpose.

    SpicerackError                                     exit code
     ├── ConfigurationError (ValueError)               2   an option, a method name, a budget
     │    ├── UnknownNameError                             ... with the nearest name that exists
     │    ├── BudgetError
     │    └── ModelError                                   a model that cannot be loaded or tracked
     ├── DataError (ValueError)                        3   a pool, a row, a sample
     │    ├── FormatError                                  a row that is not of the stated format
     │    └── GradientError                                arrays that cannot be selected from
     ├── StoreError (RuntimeError)                     4   a gradient store on disk
     │    ├── StoreMismatchError                           made with other settings
     │    ├── StoreCorruptError                            truncated or altered
     │    └── StoreLockedError                             another process is writing
     ├── OutputError (OSError)                         4   a folder that cannot be written, a full disk
     └── MissingDependencyError (ImportError)          5   an optional package

A message says what was found, what was expected and what to do, with file, line or sample id. The command line
prints that message on one line and leaves with the exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES, FEW = 40, 5
"""Names that a message lists; where there are more, it lists a few."""
LONGEST_REASON = 300
"""Characters of another library's message."""


class SpicerackError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code: int = 1


class ConfigurationError(SpicerackError, ValueError):
    """An option, or a combination of options, that cannot be used."""

    exit_code = 2


class UnknownNameError(ConfigurationError):
    """A method, option, format or other name that does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        """Name what was asked for (`kind`, `name`) and suggest the nearest of `known`."""
        names = sorted(known)
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
        many = len(names) > MOST_NAMES  # of ids or weights a few show their kind
        shown = f"{', '.join(names[:FEW])}, ... ({len(names):,} in all)" if many else ", ".join(names)
        hint = f"did you mean {near[0]!r}?" if near else f"there is: {shown}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class BudgetError(ConfigurationError):
    """A budget that is zero, not a number, or above what the pool holds."""


class ModelError(ConfigurationError):
    """A model that cannot be loaded, or has no parameters of the kind asked for."""


class DataError(SpicerackError, ValueError):
    """A pool that cannot be read or holds nothing."""

    exit_code = 3


class FormatError(DataError):
    """A row that does not have the fields of its format."""


class GradientError(DataError):
    """Gradient rows that cannot be selected from: wrong shape, not finite."""


class StoreError(SpicerackError, RuntimeError):
    """A gradient store that cannot be used."""

    exit_code = 4


class StoreMismatchError(StoreError):
    """A store, or another folder of results, made with other settings than those asked for."""


class StoreCorruptError(StoreError):
    """A store with a missing, truncated or altered file."""


class StoreLockedError(StoreError):
    """A store that another process is writing."""


class OutputError(SpicerackError, OSError):
    """A folder or file that cannot be written."""

    exit_code = 4


class MissingDependencyError(SpicerackError, ImportError):
    """An optional package that the chosen option needs."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """The first line of another library's message, and what it lists where that ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines)[:LONGEST_REASON] if lines[0].endswith(":") else lines[0]
