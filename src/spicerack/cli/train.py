"""`spicerack train`: fine-tune a model on a selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spicerack.cli.options import configured
from spicerack.training.options import TrainConfig

SECTIONS = ("data", "model", "labels")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


@configured("model", "data", "labels", TrainConfig, without=("adapter_name_or_path",))
def train(
    selection: Annotated[str, typer.Argument(help="A run's folder, a data file, or with --indices a pool.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the training.")] = Path("runs/train"),
    indices: Annotated[
        Path | None, typer.Option("--indices", help="indices.npy of a selection: the pool's rows to train on.")
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Fine-tune a model on a selection by TRL, on the labels of its gradients; run again to go on."""
    from spicerack.cli.console import console, print_choices, progress_display
    from spicerack.config import with_options
    from spicerack.data.labels import Labeler
    from spicerack.training.finetune import finetune, load_for_training
    from spicerack.training.options import make_options, split_options
    from spicerack.training.samples import label_rows
    from spicerack.training.selection import read_selection
    from spicerack.training.trainer import require_trl

    require_trl()
    own, rest = split_options(TrainConfig, options)
    recipe = make_options(TrainConfig, own)
    selected = read_selection(selection, indices=indices, model_name=options.get("model_name_or_path"))
    config = with_options(selected.config, rest, sections=SECTIONS)
    pool = selected.pool(config)
    loaded, recipe = load_for_training(config, recipe)
    labeler = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template)
    data = label_rows(pool, labeler, selected.indices)
    console.print(f"{len(data):,} samples, {data.tokens:,} tokens, {data.trained_tokens:,} of them trained")
    print_choices([*selected.choices, *loaded.choices])
    with progress_display() as progress:
        done = finetune(data, loaded, recipe, output, progress=progress)
    print_choices(done.choices)
    manifest = done.manifest
    for epoch in manifest["epochs"]:
        console.print(f"  epoch {epoch['epoch']}: loss {epoch['loss']:.4f} over {epoch['steps']:,} steps")
    summary = f"{manifest['steps']:,} steps, {manifest['tokens']:,} tokens in {manifest['seconds']:.0f} s, in {output}"
    console.print(summary, style="bold", markup=False)
