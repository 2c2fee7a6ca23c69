"""`spicerack export`: a selection for a trainer, in an order, or as weights of all samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WEIGHTS = "weights"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run or a selection.")],
    to: Annotated[str, typer.Option("--to", help="trl | llamafactory | axolotl | weights")] = "trl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to. [default: a folder of that name in the run's]")
    ] = None,
    order: Annotated[
        str, typer.Option("--order", help="Of the rows: picked | reversed | easy | hard (by loss) | shuffled.")
    ] = "picked",
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of weights: above 0; high is uniform, low is the cut.")
    ] = 1.0,
    normalization: Annotated[
        str, typer.Option("--normalization", help="Of weights: score (deviations) | rank.")
    ] = "score",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order shuffled.")] = 0,
) -> None:
    """Write the picks as a trainer reads them, or a weight for every sample of the pool."""
    from spicerack import exports, pipeline
    from spicerack.cli.console import console, print_files
    from spicerack.errors import UnknownNameError
    from spicerack.report.folder import RunFolder

    if to not in (*exports.TRAINERS, WEIGHTS):
        raise UnknownNameError("trainer", to, (*exports.TRAINERS, WEIGHTS))
    RunFolder.open(run)  # before a folder is made for what cannot be read
    folder = pipeline.prepare_output(output or run / to)
    if to == WEIGHTS:
        files = exports.export_weights(run, folder, temperature=temperature, normalization=normalization)
    else:
        files = exports.export_selection(run, to, folder, order=order, seed=seed)
    console.print("[bold]files[/bold]")
    print_files(files)
