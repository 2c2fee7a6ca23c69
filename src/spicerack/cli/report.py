"""`spicerack report`: one page that explains a selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, a selection or a comparison.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page. [default: report.html or compare.html in the folder]"),
    ] = None,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Show what the gradients took.")] = True,
) -> None:
    """Write one self-contained HTML page: what was picked, from where, how gains fell, what was decided."""
    from spicerack.cli.console import console
    from spicerack.compare.results import RESULTS_FILE
    from spicerack.report.comparison import comparison_page
    from spicerack.report.page import selection_page
    from spicerack.report.pages import write_page
    from spicerack.store.read_back import read_json

    found = run / RESULTS_FILE
    if found.is_file():
        remedy = "the same `spicerack compare` with --finished writes it again"
        text = comparison_page(read_json(found, remedy))
        path = output or run / "compare.html"
    else:
        text, path = selection_page(run, with_cost=cost), output or run / "report.html"
    console.print(str(write_page(path, text)), markup=False)
