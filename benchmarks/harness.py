"""Side-by-side timing: every contender once a round, ratios round by round, a table with machine and versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of a contender in each round."""

    name: str
    seconds: list[float]

    def ratio(self, base: Timing) -> tuple[float, float, float]:
        """How many times faster than `base`: median, least and most over the rounds."""
        ratios = [b / s for s, b in zip(self.seconds, base.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def interleave(contenders: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> list[Timing]:
    """Run every contender `rounds` times, in turn, after `warm_up` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return [Timing(name, values) for name, values in seconds.items()]


def table(timings: list[Timing], base: str, work: float, unit: str) -> list[str]:
    """Markdown rows: the contender, `work` per second, and its speed as a ratio to `base`."""
    reference = next(timing for timing in timings if timing.name == base)
    lines = [f"| what | {unit}/s | times the speed of {base} (least to most) |", "|---|---|---|"]
    for timing in timings:
        median, least, most = timing.ratio(reference)
        rate = work / statistics.median(timing.seconds)
        lines.append(f"| {timing.name} | {rate:,.0f} | {median:.2f} ({least:.2f} to {most:.2f}) |")
    return lines


def machine(*packages: str) -> str:
    """One line: processor, cores, versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = ", ".join(f"{package} {_version(package)}" for package in packages)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def keep(name: str, lines: list[str], raw: object) -> None:
    """Print a result and keep it under benchmarks/results, as text and as numbers."""
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
