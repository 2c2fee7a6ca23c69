"""Write docs/reference/commands.md from the commands themselves; a test fails when it is stale.

.venv/bin/python scripts/commands_reference.py
"""

from __future__ import annotations

from pathlib import Path

import typer

from spicerack.cli.app import app, register_commands

PAGE = Path(__file__).parents[1] / "docs/reference/commands.md"


def make_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    register_commands()
    group = typer.main.get_command(app)
    lines = ["# Commands", "", "Made by scripts/commands_reference.py; do not edit.", ""]
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        lines += [f"## spicerack {name}", "", " ".join((command.help or "").split()), "", "| option | |", "|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
            text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
            lines.append(f"| {flags} | {text} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
