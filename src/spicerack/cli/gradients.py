"""`spicerack gradients`: the gradient pass alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spicerack.cli.options import configured


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gradients")(gradients)


@configured("model", "data", "labels", "gradients")
def gradients(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the gradient store.")] = Path(
        "runs/gradients"
    ),
    *,
    options: dict[str, Any],
) -> None:
    """Take every sample's projected gradient into a store; run again after an interruption to go on."""
    from spicerack import pipeline
    from spicerack.cli.console import console, print_choices, print_cost, print_survey, progress_display
    from spicerack.config import RunConfig, with_options

    config = with_options(RunConfig(), {**options, "pool": pool}, sections=pipeline.GRADIENT_SECTIONS)
    pipeline.prepare_output(output)
    with progress_display() as progress:
        gradient_pass = pipeline.plan_pass(config, progress=progress)
        store = gradient_pass.run(output)
    print_survey(gradient_pass.survey)
    print_cost(gradient_pass.cost)
    print_choices(gradient_pass.choices)
    console.print(f"{store.n:,} rows of {store.k:,} in {output}", style="bold", markup=False)
