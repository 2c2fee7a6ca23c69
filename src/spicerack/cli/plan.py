"""`spicerack plan`: what a run will cost, before it is run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spicerack.cli.options import configured


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


@configured("selection", "data", "model", "labels", "gradients")
def plan(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    batches: Annotated[int, typer.Option("--batches", min=1, help="Batches to time, spread over the lengths.")] = 3,
    *,
    options: dict[str, Any],
) -> None:
    """Time a few batches and extrapolate time, disk and memory, with a reason for every automatic choice."""
    from spicerack import pipeline
    from spicerack.cli.console import console, make_table, print_choices, print_survey, progress_display
    from spicerack.config import RunConfig, with_options
    from spicerack.gradients.estimate import estimate

    config = with_options(RunConfig(), {**options, "pool": pool})
    with progress_display() as progress:
        gradient_pass = pipeline.plan_pass(config, progress=progress)
    print_survey(gradient_pass.survey)
    cost = estimate(gradient_pass, batches=batches)
    console.print("[bold]chosen for you[/bold]")
    print_choices(gradient_pass.choices)
    table = make_table("the run", "what", "estimate")
    for what, value in cost.rows():
        table.add_row(what, value)
    console.print(table)
