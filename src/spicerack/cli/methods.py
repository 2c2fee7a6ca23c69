"""`spicerack methods`: what can be selected by, what each method needs and costs, and its options."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from spicerack.selectors.base import Needs
    from spicerack.selectors.registry import MethodInfo


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("methods")(methods)


def methods(
    name: Annotated[str | None, typer.Argument(help="A method: print its options too.")] = None,
) -> None:
    """List the selection methods: what each reads, its target, what that costs, its paper. With a name, its options."""
    import spicerack
    from spicerack.selectors.registry import IN_THE_LOOP, get_selector

    if name in IN_THE_LOOP:
        _print_in_the_loop(name)
        return
    if name is not None:
        get_selector(name)  # an unknown name is refused with the nearest
    known = {method.name: method for method in spicerack.methods()}
    if name is not None:
        _print_method(known[name])
        if name == "spice":
            _print_online(known[name].options)
    else:
        _print_table(list(known.values()))


def _print_table(known: list[MethodInfo]) -> None:
    from spicerack.cli.console import console, make_table

    table = make_table("what each method needs", "method", "reads", "target", "cost", "source")
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    for method in known:
        needs = method.needs
        table.add_row(method.name, _reads(needs), needs.target, needs.cost, method.paper or "-")
    console.print(table)
    console.print("what each picks", style="bold")
    for method in known:
        console.print(f"  {method.name:<10} {method.summary}", markup=False)
    console.print("  lead       with a model in the loop, and no store: spicerack run --method lead", markup=False)
    console.print("options of a method: spicerack methods NAME", markup=False)


def _print_method(method: MethodInfo) -> None:
    from spicerack.cli.console import console

    needs = method.needs
    console.print(f"{method.name}: {method.summary}", style="bold", markup=False)
    subtasks = ", subtasks by its groups" if needs.target_groups else ""
    for what, value in (
        ("source", method.paper or "-"),
        ("reads", _reads(needs)),
        ("target", needs.target + subtasks),
        ("checkpoints", needs.checkpoints),
        ("cost", needs.cost),
    ):
        console.print(f"  {what:<12} {value}", markup=False)
    _print_options(method.options)


def _print_in_the_loop(name: str) -> None:
    from spicerack.cli.console import console
    from spicerack.training.lead import LeadOptions

    console.print(f"{name}: a bandit over clusters, with a proxy that learns from what is picked", style="bold")
    for what, value in (
        ("source", "arXiv 2505.07437"),
        ("reads", "the pool itself, by `spicerack run`: no store"),
        ("target", "no"),
        ("cost", "one gradient pass, and another over the picks with a training step a round"),
    ):
        console.print(f"  {what:<12} {value}", markup=False)
    _print_options(LeadOptions)


def _print_online(others: type[BaseModel]) -> None:
    """What `--schedule online` has beside the method's own options."""
    from spicerack.training.online import OnlineOptions

    _print_options(OnlineOptions, "options of --schedule online, of `spicerack run`", without=others.model_fields)


def _print_options(options: type[BaseModel], title: str = "options", without: Container[str] = ()) -> None:
    from spicerack.cli.console import console

    fields = {name: field for name, field in options.model_fields.items() if name not in without}
    console.print(title if fields else "it has no options", style="bold", markup=False)
    for option, field in fields.items():
        flag = "--" + option.replace("_", "-")
        console.print(f"  {flag:<22} {_described(field)}", markup=False)


def _described(field: FieldInfo) -> str:
    from spicerack.cli.options import literals

    choices = " | ".join(literals(field.annotation))
    default = "none" if field.default in (None, ()) else field.default
    shown = f"[{choices}] " if choices else ""
    return f"{shown}{field.description} (default: {default})"


def _reads(needs: Needs) -> str:
    """Arrays and columns, or that it reads nothing but the number of rows."""
    arrays = [{"gradient": "gradients"}.get(name, name) for name in needs.arrays]
    return ", ".join([*arrays, *(f"column {name}" for name in needs.columns)]) or "nothing"
