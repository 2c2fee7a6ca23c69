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

    table = make_table("selection methods", "method", "what it does", "target", "source")
    for column in table.columns:
        column.justify = "left"
    known = spicerack.methods()
    for method in known:
        table.add_row(method.name, method.summary, method.needs.target, method.paper or "-")
    console.print(table)
    for method in known:
        fields = method.options.model_fields
        if fields:
            console.print(f"\n[bold]options of {method.name}[/bold]")
        for name, field in fields.items():
            flag = "--" + name.replace("_", "-")
            console.print(f"  {flag:<14} {field.description} (default: {field.default})", markup=False)
