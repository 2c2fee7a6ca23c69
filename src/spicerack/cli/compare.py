"""`spicerack compare`: methods by budgets by seeds, each selected, trained on and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from spicerack.cli.options import configured
from spicerack.training.options import EvaluateConfig, TrainConfig

SECTIONS = ("data", "model", "labels", "gradients")
TABLE_WIDTH = 120
TWICE = (
    "tokens_per_batch",
    "harness_tasks",
    "harness_limit",
)  # of the measures: the pass has the first, cells no harness


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


@configured("model", "data", "labels", "gradients", TrainConfig, EvaluateConfig, without=("seed", *TWICE[1:]))
def compare(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    test: Annotated[str, typer.Option("--test", help="Held-out rows that every trained model is measured on.")],
    methods: Annotated[
        list[str], typer.Option("--methods", help="As in spice,random,u=spice:rows=unit,full,none; may be repeated.")
    ] = ["spice", "random"],  # noqa: B006
    budgets: Annotated[str, typer.Option("--budgets", help="Between commas, as in 1%,5%,200,20k tokens.")] = "5%",
    seeds: Annotated[str, typer.Option("--seeds", help="How many, or which between commas.")] = "3",
    store: Annotated[
        Path | None, typer.Option("--store", help="Gradient store of the pool. [default: made in the output folder]")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Target rows, or their gradient store, for methods that read one.")
    ] = None,
    flag_column: Annotated[
        str | None, typer.Option("--flag-column", help="Column that marks rows nobody wants; for scoring alone.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Processes that train; GPUs in turn.")] = 1,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep what was trained.")] = False,
    finished: Annotated[bool, typer.Option("--finished", help="The table of what is finished; run nothing.")] = False,
    also: Annotated[
        list[Path],
        typer.Option(
            "--also",
            help="Folder or results.parquet of a comparison made alike; its cells are put in. May be repeated.",
        ),
    ] = [],  # noqa: B006
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the comparison.")] = Path("runs/compare"),
    *,
    options: dict[str, Any],
) -> None:
    """Select, train and measure by several methods, at several budgets and seeds: is the subset worth it?

    Gradients are taken once. Run it again to go on, or with more methods, budgets or seeds to add to it.
    """
    from spicerack import pipeline
    from spicerack.cli.console import console, print_files, progress_display
    from spicerack.compare.bench import Spec
    from spicerack.compare.driver import Comparison, Watcher
    from spicerack.compare.plan import parse_methods
    from spicerack.config import RunConfig, with_options
    from spicerack.training.options import make_options, split_options
    from spicerack.training.trainer import require_trl

    require_trl()
    recipe, rest = split_options(TrainConfig, {"save_strategy": "no", **options})
    measures, rest = split_options(EvaluateConfig, {name: v for name, v in rest.items() if name != TWICE[0]})
    batch = {name: value for name, value in options.items() if name == TWICE[0]}
    config = with_options(RunConfig(output_dir=output), {**rest, **batch, "pool": pool}, sections=SECTIONS)
    spec = Spec(
        test, config, make_options(TrainConfig, recipe), make_options(EvaluateConfig, measures), keep_models=keep_models
    )
    comparison = Comparison(
        spec,
        parse_methods(methods),
        [part.strip() for part in budgets.split(",") if part.strip()],
        seeds=read_seeds(seeds),
        store=store,
        target=target,
        flag_column=flag_column,
        parallel=parallel,
        finished=finished,
        also=also,
    )
    pipeline.prepare_output(output)
    with progress_display() as progress:
        say = Watcher(say=lambda line: console.print(line, markup=False), progress=progress)
        results, files = pipeline.compare(comparison, say)
    print_comparison(results)
    print_files(files)


def read_seeds(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `4,7` are these two.

    Raises:
        ConfigurationError: neither.
    """
    from spicerack.errors import ConfigurationError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or parts == ["0"]:
        raise ConfigurationError(f"--seeds {text!r}; expected how many (3), or which (0,5,7)")
    return tuple(map(int, parts)) if len(parts) > 1 else tuple(range(int(parts[0])))


def print_comparison(results: Mapping[str, Any]) -> None:
    """A table for every budget: quality with its interval, against random, and what it took."""
    from rich.markup import escape

    from spicerack.cli.console import console, make_table

    flag = results["flag_column"]
    if not console.is_terminal:
        console.width = max(console.width, TABLE_WIDTH)  # a file has room for whole numbers
    for budget in dict.fromkeys(row["budget"] for row in results["summary"]):
        columns = ["method", "held-out loss", "against random", "seeds' spread", "samples", "tokens"]
        columns += [escape(flag)] if flag else []
        columns += ["select s", "train s"]
        title = f"budget {budget}" if budget is not None else "without a budget"
        table = make_table(f"{title}, {results['confidence']:.0%} intervals", *columns)
        members = [row for row in results["summary"] if row["budget"] == budget]
        for row in sorted(members, key=lambda row: row["loss"]["mean"]):
            cells = [escape(row["label"]), _interval(row["loss"], ".3f"), _interval(row["versus_random"], "+.3f")]
            cells += [_number(row["spread"], ".3f"), _number(row["samples"], ",.0f"), _number(row["tokens"], ",.0f")]
            cells += [_number(row["flagged"], ".1%")] if flag else []
            cells += [_number(row["selection_seconds"], ".1f"), _number(row["training_seconds"], ",.0f")]
            table.add_row(*cells)
        console.print(table)


def _interval(interval: Mapping[str, Any] | None, form: str) -> str:
    if interval is None:
        return ""
    between = "" if interval["low"] is None else f" ({interval['low']:{form}} to {interval['high']:{form}})"
    return f"{interval['mean']:{form}}{between}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
