"""`spicerack plan`: what a run will cost, before it is run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spicerack.cli.options import METHOD_OPTIONS, configured, method_options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", context_settings=METHOD_OPTIONS)(plan)


@configured("selection", "data", "model", "labels", "gradients")
def plan(
    ctx: typer.Context,
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    batches: Annotated[int, typer.Option("--batches", min=1, help="Batches to time, spread over the lengths.")] = 3,
    *,
    options: dict[str, Any],
) -> None:
    """Time a few batches of what the method needs, and extrapolate time, disk and memory, with every choice's reason.

    Options of the method follow as --name value, since they may change what it reads (see `spicerack methods`).
    """
    from spicerack import pipeline
    from spicerack.cli.console import console, make_table, print_choices, print_survey, progress_display
    from spicerack.config import RunConfig, with_options

    config = with_options(RunConfig(), {**options, **method_options(ctx.args), "pool": pool})
    with progress_display() as progress:
        planned = pipeline.plan_run(config, progress=progress)
    print_survey(planned.survey)
    costs = planned.estimate(batches=batches)
    console.print("[bold]chosen for you[/bold]")
    print_choices(planned.choices)
    for cost in costs:
        table = make_table(f"the {cost.name}", "what", "estimate")
        for what, value in cost.rows():
            table.add_row(what, value)
        console.print(table)
