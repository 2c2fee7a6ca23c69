"""Which torch device holds the working copy of the rows, so that the passes over them run there."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from spicerack.errors import ConfigurationError
from spicerack.information.device import shortfall
from spicerack.selectors.base import Problem
from spicerack.selectors.rows import Rows

WORTH = 1 << 24
"""Entries of a row matrix from which a GPU is taken unasked: a pass over fewer takes milliseconds on any processor,
and a GPU has to be started, which takes a second or more."""

SHARE_UNASKED, SHARE_ASKED = 0.5, 0.8
"""Of a device's free memory: what the rows may take. Blocks of products lie beside them."""


def _named(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError("auto, cpu, cuda, cuda:N (the N-th GPU, from 0) or mps")
    return device


DeviceName = Annotated[str, AfterValidator(_named)]
"""The option `device` of a method."""

DEVICE_DESCRIPTION = "where passes over the rows run: auto, cpu, cuda, cuda:N or mps; picks do not change"


def check_device(device: str, passes: str, given: str | None) -> None:
    """Refuse a device that is named beside an option which leaves it no passes.

    Args:
        device: a `DeviceName`.
        passes: what it could run float32 passes of, for the error.
        given: the option that stands against it, or None.

    Raises:
        ValueError: both are given.
    """
    if given is not None and device not in ("auto", "cpu"):
        raise ValueError(f"device={device!r} runs float32 passes {passes}: leave out {given}")


def device_for(problem: Problem, rows: Rows, device: str, *, pays: bool = True) -> str:
    """The device, as torch names it, that holds a float32 working copy of the rows; "cpu" where it is main memory's.

    A device other than that is recorded, and so is one that is there but cannot be taken. Torch is not imported for
    "cpu", nor for rows that are too few for "auto" to look.

    Args:
        problem: where choices are recorded.
        rows: (n, k).
        device: a `DeviceName`.
        pays: whether there are passes to move, for "auto".

    Raises:
        ConfigurationError: torch sees no such device; says what it sees. Or it does not multiply in full float32.
    """
    needed = 4 * rows.n * rows.k
    if device == "cpu" or (device == "auto" and (not pays or rows.n * rows.k < WORTH)):
        return "cpu"
    found = devices()
    if device == "auto":
        name = next((name for name in found if name.startswith("cuda")), None)
        if name is None:
            return "cpu"
    else:
        name = _found(device, found)
    free, share = free_bytes(name), SHARE_UNASKED if device == "auto" else SHARE_ASKED
    room = f"{share:.0%} of the {free / 2**30:.1f} GB that are free on {name} ({found[name]})"
    if needed > share * free:
        problem.choose("device", "cpu", f"{needed / 2**30:.1f} GB of rows are more than {room}")
        return "cpu"
    if (reason := shortfall(name, rows.k)) is not None:
        if device != "auto":
            raise ConfigurationError(f"device={device!r} cannot be used: {reason}; use device='cpu'")
        problem.choose("device", "cpu", f"{name} ({found[name]}) is not used: {reason}")
        return "cpu"
    problem.choose("device", name, f"{needed / 2**30:.1f} GB of rows fit in {room}")
    return name


def devices() -> dict[str, str]:
    """What torch sees beside the processor, the device in use first: name to the maker's name of it."""
    import torch

    found: dict[str, str] = {}
    if torch.cuda.is_available():
        current = torch.cuda.current_device()
        for number in sorted(range(torch.cuda.device_count()), key=lambda i: (i != current, i)):
            found[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def free_bytes(name: str) -> int:
    """Memory of a device that a tensor could take now, what torch keeps for reuse included."""
    import torch

    if name.startswith("cuda"):
        kept = torch.cuda.memory_reserved(name) - torch.cuda.memory_allocated(name)
        return int(torch.cuda.mem_get_info(name)[0]) + kept
    mps: Any = torch.mps
    return int(mps.recommended_max_memory() - mps.current_allocated_memory())


def require_device(device: str) -> None:
    """Refuse a device that is named and not there.

    Raises:
        ConfigurationError: torch sees no such device; says what it sees.
    """
    if device not in ("auto", "cpu"):
        _found(device, devices())


def _found(device: str, found: dict[str, str]) -> str:
    name = next((name for name in found if name == device or name.partition(":")[0] == device), None)
    if name is None:
        seen = ", ".join(f"{name} ({what})" for name, what in found.items())
        raise ConfigurationError(
            f"device={device!r} is not there: torch sees {seen or 'no GPU on this machine'}; use device='auto'"
            + (", 'cpu' or one of these" if found else " or 'cpu'")
        )
    return name
