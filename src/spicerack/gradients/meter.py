"""What a piece of work costs on a device: seconds, and the most memory it held."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

SAMPLING_SECONDS = 0.005  # between two looks at the memory of this process
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Measured:
    """Seconds that work took, and bytes held at most beyond what was held when it began."""

    seconds: float
    bytes: int


class Meter(Protocol):
    """What probing needs of a device; a test gives a simulated one."""

    def free(self) -> int:
        """Bytes that work may take."""

    def measure(self, work: Callable[[], object]) -> Measured:
        """Do the work once."""


class DeviceMeter:
    """The meter of a torch device: its allocator's peak on CUDA, the driver's on MPS, this process's on a CPU.

    On a CPU, what this process holds without using it is given back first: work that reuses it would look free.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """Bytes that work may take: of the device, or of the machine and of the container that this process is in."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(free + cached)
        if self.device.type == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        return min(_machine_available(), _container_available())

    def measure(self, work: Callable[[], object]) -> Measured:
        """Do the work once."""
        gc.collect()
        release(self.device)
        held = self._bytes_held()
        started = time.perf_counter()
        with self._watch() as peak:
            work()
            self._wait()
            seconds = time.perf_counter() - started
        return Measured(seconds, max(0, peak() - held))

    @contextmanager
    def _watch(self) -> Iterator[Callable[[], int]]:
        """Gives what returns the most bytes held since; on a CPU a thread looks, no allocator tells."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.device.type != "cpu":
            yield lambda: self._peak_held()
            return
        seen, done = [self._bytes_held()], threading.Event()

        def look() -> None:
            while not done.wait(SAMPLING_SECONDS):
                seen.append(self._bytes_held())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield lambda: max(*seen, self._bytes_held())
        finally:
            done.set()
            thread.join()

    def _peak_held(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else self._bytes_held()

    def _bytes_held(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()  # with what the allocator keeps: it falls only when emptied
        import psutil

        return int(psutil.Process().memory_info().rss)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """What tells one device from another of its kind: its name and memory, or the processor and its threads."""
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory // 2**20} MB"
    import platform

    name = platform.processor() or platform.machine()
    return f"{device.type}, {platform.system()} {name}, {torch.get_num_threads()} threads"


def release(device: torch.device) -> None:
    """Give back what a device's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left; CPU and MPS say so with a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _machine_available() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _container_available(root: Path = CGROUP) -> int:
    """Bytes left under a control group's limit, version 2 or 1; a very large number where there is none."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # another version, no limit ("max"), or not Linux
            continue
    return 1 << 62
