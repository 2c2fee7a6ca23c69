"""`spicerack run`: the main job, from a pool file to a selected file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spicerack.cli.options import METHOD_OPTIONS, configured, method_options

if TYPE_CHECKING:
    from spicerack.pipeline import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", context_settings=METHOD_OPTIONS)(run)


@configured("selection", "data", "model", "labels", "gradients")
def run(
    ctx: typer.Context,
    pool: Annotated[str, typer.Argument(help="The pool (file, Arrow folder or hub id), or a run's config.yaml.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run. [default: runs/spicerack]")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, as in selection.penalty=0.2.")
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Take gradients, select, and write the selected rows: the main job.

    Options of the method follow as --name value, as in --penalty 0.2 (see `spicerack methods`).
    """
    from spicerack import pipeline
    from spicerack.cli.console import console, progress_display
    from spicerack.config import RunConfig, assign, load_config, with_options

    base = load_config(pool) if Path(pool).suffix in (".yaml", ".yml") else RunConfig()
    config = with_options(base, {**options, **method_options(ctx.args)})
    config = assign(config, [*_fixed(pool, base, output), *(assignments or ())])
    with progress_display() as progress:
        done = pipeline.run(config, progress=progress)
    report(done)
    console.print(f"repeat it with: spicerack run {done.output_dir / 'config.yaml'}", markup=False)


def _fixed(pool: str, base: Any, output: str | None) -> list[str]:
    given = [] if base.data.pool or Path(pool).suffix in (".yaml", ".yml") else [f"data.pool={_quoted(pool)}"]
    return given + ([f"output_dir={_quoted(output)}"] if output else [])


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)


def report(done: Run) -> None:
    """Print the pool's counts, what was chosen for the user, how it went, and where the files are."""
    from spicerack.cli.console import console, print_cost, print_files, print_survey
    from spicerack.cli.select import report_selection

    print_survey(done.survey)
    if done.store is not None:
        print_cost(done.cost, "gradients" if "gradient" in done.store.arrays else "features")
    report_selection(done.selection)
    console.print("[bold]files[/bold]")
    print_files(done.files)
