"""`spicerack features`: one forward pass, for the methods that read embeddings, losses or ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spicerack.cli.options import configured
from spicerack.features.options import FeatureConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("features")(features)


@configured(FeatureConfig, "model", "data", "labels")
def features(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the feature store; STORE/features puts it beside gradients."),
    ] = Path("runs/features"),
    *,
    options: dict[str, Any],
) -> None:
    """Run the pool through the model once, without gradients; run again after an interruption to go on.

    `select` finds what is in the folder `features` of a gradient store, and reads a feature store alone for methods
    that need no gradients (see `spicerack methods`).
    """
    from spicerack import pipeline
    from spicerack.cli.console import console, print_choices, print_cost, print_survey, progress_display
    from spicerack.config import RunConfig, with_options
    from spicerack.features.collect import INPUT_SECTIONS
    from spicerack.features.options import make_feature_config

    own = {name: value for name, value in options.items() if name in FeatureConfig.model_fields}
    rest = {name: value for name, value in options.items() if name not in own}
    chosen = make_feature_config(own)
    config = with_options(RunConfig(), {**rest, "pool": pool}, sections=INPUT_SECTIONS)
    pipeline.prepare_output(output)
    with progress_display() as progress:
        work = pipeline.plan_features(config, chosen, progress=progress)
        store = work.run(output)
    print_survey(work.survey)
    print_cost(work.cost, "features")
    print_choices(work.choices)
    held = ", ".join([*(f"{name} ({columns:,})" for name, columns in store.arrays.items()), *work.layout.columns])
    console.print(f"{store.n:,} rows of {held or 'token counts'} in {output}", style="bold", markup=False)
