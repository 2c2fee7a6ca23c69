"""`spicerack select`: choose from a gradient store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spicerack.cli.options import METHOD_OPTIONS, configured, method_options

if TYPE_CHECKING:
    from spicerack.selectors.base import Selection


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("select", context_settings=METHOD_OPTIONS)(select)


@configured("selection", "data")
def select(
    ctx: typer.Context,
    store: Annotated[Path, typer.Argument(help="A gradient store: the folder that `gradients` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the selection.")] = Path("runs/selection"),
    pool: Annotated[
        str | None, typer.Option("--pool", help="The pool the store was made from: its selected rows are written too.")
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Choose from a gradient store; no model is needed.

    Options of the method follow as --name value, as in --penalty 0.2 (see `spicerack methods`).
    """
    from spicerack import pipeline
    from spicerack.cli.console import console, print_files
    from spicerack.config import DataConfig, RunConfig, with_options
    from spicerack.errors import ConfigurationError

    if pool is None and (unread := [name for name in options if name in DataConfig.model_fields]):
        flag = unread[0].replace("_", "-")
        raise ConfigurationError(f"--{flag} says how rows are read, and a store has been: leave it out, or give --pool")
    given = {**options, **method_options(ctx.args)}
    config = with_options(RunConfig(), given, sections=("selection", "data"))  # --device is the method's: no model here
    selection, files = pipeline.select_from_store(store, config, output_dir=output, pool=pool)
    report_selection(selection)
    console.print("[bold]files[/bold]")
    print_files(files)


def report_selection(selection: Selection) -> None:
    """Print what was chosen for the user, the selection's size, what was left out, and the certificate."""
    from spicerack.cli.console import console, print_choices
    from spicerack.config import Choice
    from spicerack.selectors.certifying import penalty_sentence

    console.print("[bold]chosen for you[/bold]")
    print_choices(Choice(**choice) for choice in selection.manifest["choices"])
    picked, rows, method = len(selection.indices), len(selection.scores), selection.manifest["method"]
    console.print(f"selected {picked:,} of {rows:,} samples by {method}", style="bold", markup=False)
    for reason, count in selection.manifest["excluded_counts"].items():
        console.print(f"  left out: {count:,} ({reason})", markup=False)
    _report_target(selection.manifest["findings"])
    if sentence := penalty_sentence(selection.manifest["findings"]):
        console.print(f"  {sentence}", markup=False)
    if selection.certificate is not None:
        console.print(f"  {selection.certificate.sentence()}", markup=False)


def _report_target(findings: Mapping[str, Any]) -> None:
    """What a targeted method says of the target's parts."""
    from spicerack.cli.console import console

    if counts := findings.get("picks_by_subtask"):
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        console.print(f"  picks by subtask: {parts}", markup=False)
    if worst := findings.get("worst_covered"):
        rows = ", ".join(str(row) for row in worst)
        console.print(f"  target rows that the pool helps least: {rows}", markup=False)
