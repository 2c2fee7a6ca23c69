"""`spicerack methods`: what can be selected by, and what each method needs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("methods")(methods)


def methods() -> None:
    """List the selection methods, what each needs, and its options."""
    import spicerack
    from spicerack.cli.console import console, make_table

    table = make_table("selection methods", "method", "what it does", "needs", "source")
    for column in table.columns:
        column.justify = "left"
    known = spicerack.methods()
    for method in known:
        table.add_row(method.name, method.summary, str(method.needs), method.paper)
    console.print(table)
    for method in known:
        if method.options:
            console.print(f"\n[bold]{method.name}[/bold] options")
            for name, text in method.options.items():
                console.print(f"  --{name.replace('_', '-'):<14} {text}", markup=False)
