"""An option that a message or a page names is one that there is."""

import ast
import re
from pathlib import Path

import typer

from spicerack.cli.app import app, register_commands
from spicerack.selectors import get_selector, methods
from spicerack.training.lead import LeadOptions
from spicerack.training.online import OnlineOptions

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]*)")
OTHERS = {"name", "no-deps"}  # "--name value" for any option, and one of pip's


def flag(name):
    return name.replace("_", "-")


def known_options():
    register_commands()
    commands = typer.main.get_command(app).commands.values()
    flags = {option for command in commands for each in command.params for option in (*each.opts, *each.secondary_opts)}
    selectors = [get_selector(method.name).Options for method in methods()]
    own = {flag(name) for options in (*selectors, OnlineOptions, LeadOptions) for name in options.model_fields}
    return {option.removeprefix("--") for option in flags} | own | {f"no-{name}" for name in own} | {"help", "version"}


def named_options():
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "var(--" not in node.value:
                yield from ((path, found) for found in NAMED.findall(node.value) if not found.endswith("-"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "spicerack " in line]
        yield from ((path, found) for line in lines for found in NAMED.findall(line) if "pip " not in line)


def test_every_option_that_is_named_exists():
    known, named = known_options(), list(named_options())
    assert len(named) > 100
    unknown = {(path.name, name) for path, name in named if flag(name) not in known | OTHERS}
    assert not unknown
