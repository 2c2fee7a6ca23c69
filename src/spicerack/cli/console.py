"""What the commands print: choices with their reasons, progress with rate and time left, files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from spicerack.config import Choice

if TYPE_CHECKING:
    from spicerack.gradients.cost import Cost
    from spicerack.gradients.survey import Progress as Callback
    from spicerack.gradients.survey import Survey

console = Console(highlight=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 10.0  # where no terminal is, a line now and then instead of a bar


def print_choices(choices: Iterable[Choice]) -> None:
    """One line for everything that was decided for the user."""
    for choice in choices:
        console.print(f"  {choice.name} = {choice.value}  ({choice.reason})", markup=False)


def print_survey(survey: Survey) -> None:
    """What the label rule made of the pool: always the totals, and whatever is cut, unfinished or empty."""
    counts = survey.summary()
    tokens = f"{counts['rows']:,} rows, {counts['tokens']:,} tokens, {counts['trained_tokens']:,} of them trained"
    console.print(f"pool: {tokens}", markup=False)
    if counts["truncated"]:
        cut = f"{counts['truncated']:,} rows were cut to max_length, {counts['cut_tokens']:,} tokens lost"
        console.print(f"  {cut}", markup=False)
    if counts["without_trained_tokens"]:
        console.print(
            f"  {counts['without_trained_tokens']:,} rows have no trained token and cannot be selected", markup=False
        )


def print_cost(cost: Cost | None, what: str = "gradients") -> None:
    """What a pass took, beside what the device can do."""
    if cost is None:
        console.print(f"{what}: the store was complete already")
        return
    share = cost.summary()["share_of_peak"]
    speed = f"{cost.tokens / cost.seconds:,.0f} tokens/s"
    console.print(
        f"{what}: {cost.tokens:,} tokens in {cost.seconds:.0f} s, {speed}, {cost.flops:.2e} operations, "
        f"{share:.0%} of the device's measured peak",
        markup=False,
    )


def print_files(files: Mapping[str, Path]) -> None:
    """Where everything is."""
    for name, path in files.items():
        console.print(f"  {name:<18} {path}", markup=False)
    if "indices.npy" in files:  # of a selection: what its manifest notes of the files
        for note in json.loads(files["manifest.json"].read_text(encoding="utf-8"))["notes"]:
            console.print(f"  note: {note}", markup=False)


def make_table(title: str, *columns: str) -> Table:
    """A table whose columns after the first are right-aligned."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


@contextmanager
def progress_display() -> Iterator[Callback]:
    """A callback for a pass that draws a bar, or prints a line every ten seconds where no terminal is."""
    if console.is_terminal:
        with _Bar() as bar:
            yield bar.update
    else:
        yield _Lines().update


class _Bar:
    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = 0.0

    def __enter__(self) -> _Bar:
        self._progress.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.__exit__(None, None, None)

    def update(self, stage: str, rows: int, tokens: int, total: int) -> None:
        if stage != self._stage or self._task is None:
            self._stage, self._started = stage, time.monotonic()
            self._task = self._progress.add_task(stage, total=total or None, rate="")
        rate = _rate(rows, tokens, time.monotonic() - self._started)
        self._progress.update(self._task, completed=tokens or rows, total=total or None, rate=rate)


class _Lines:
    def __init__(self) -> None:
        self._stage = ""
        self._started = self._printed = 0.0

    def update(self, stage: str, rows: int, tokens: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._printed = stage, now, now
        if now - self._printed < SECONDS_BETWEEN_LINES and not (total and tokens == total):
            return
        self._printed = now
        left = ""
        if tokens and total:
            left = f", {tokens / total:.0%}, {(now - self._started) * (total - tokens) / tokens:.0f} s left"
        console.print(f"{stage}: {_rate(rows, tokens, now - self._started)}{left}", markup=False)


def _rate(rows: int, tokens: int, seconds: float) -> str:
    shown = f"{rows:,} rows"
    return f"{shown}, {tokens / seconds:,.0f} tokens/s" if tokens and seconds > 0 else shown
