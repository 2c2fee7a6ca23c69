"""`spicerack warmup`: LESS's warm-up, a checkpoint an epoch with its moments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spicerack.cli.options import configured
from spicerack.training.options import WarmupConfig

SECTIONS = ("data", "model", "labels")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("warmup")(warmup)


@configured("model", "data", "labels", WarmupConfig, without=("adapter_name_or_path",))
def warmup(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the warm-up.")] = Path("runs/warmup"),
    *,
    options: dict[str, Any],
) -> None:
    """Train adapters on a random share of the pool, as LESS does before it takes gradients; run again to go on."""
    from spicerack.cli.console import console, make_table, print_choices, progress_display
    from spicerack.config import RunConfig, with_options
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.training.finetune import load_for_training
    from spicerack.training.options import make_options, split_options
    from spicerack.training.trainer import require_trl
    from spicerack.training.warmup import warmup as warm_up

    require_trl()
    own, rest = split_options(WarmupConfig, options)
    recipe = make_options(WarmupConfig, own)
    config = with_options(RunConfig(), {**rest, "pool": pool}, sections=SECTIONS)
    rows = load_pool(pool, config.data)
    loaded, recipe = load_for_training(config, recipe)
    labeler = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template)
    print_choices(loaded.choices)
    with progress_display() as progress:
        done = warm_up(rows, labeler, loaded, recipe, output, progress=progress)
    print_choices(done.choices)
    table = make_table("checkpoints", "name", "loss", "mean learning rate", "weight", "folder")
    for checkpoint in done.checkpoints:
        numbers = (f"{checkpoint.loss:.4f}", f"{checkpoint.mean_learning_rate:.3g}", f"{checkpoint.weight:.3f}")
        table.add_row(checkpoint.name, *numbers, checkpoint.folder.name)
    console.print(table)
    console.print(f"{len(done.checkpoints)} checkpoints with moments in {output}", style="bold", markup=False)
