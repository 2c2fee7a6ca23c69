"""`spicerack inspect`: the trained tokens of a pool, as the gradient pass will see them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spicerack.cli.options import configured

if TYPE_CHECKING:
    from rich.text import Text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


@configured("model", "data", "labels")
def inspect(
    pool: Annotated[str, typer.Argument(help="The pool: file, Arrow folder or hub id.")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=0, help="Samples to print.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which samples; 0 prints the first ones.")] = 0,
    *,
    options: dict[str, Any],
) -> None:
    """Print samples with their trained tokens marked, and count what is cut, empty, unfinished or repeated."""
    import numpy as np

    from spicerack.cli.console import console, make_table
    from spicerack.config import RunConfig, with_options
    from spicerack.data.labels import Labeler
    from spicerack.data.records import count_duplicates, load_pool
    from spicerack.errors import ConfigurationError
    from spicerack.gradients.survey import survey
    from spicerack.models.loading import load_tokenizer

    config = with_options(RunConfig(), {**options, "pool": pool}, sections=("model", "data", "labels"))
    name = config.model.tokenizer_name_or_path or config.model.model_name_or_path
    if name is None:
        raise ConfigurationError(
            "inspect needs a tokenizer; name a model with --model or a tokenizer with --tokenizer-name-or-path"
        )
    rows = load_pool(pool, config.data)
    labeler = Labeler(load_tokenizer(name, config.model), config.labels, chat_template=config.model.chat_template)
    console.print(f"format: {rows.format} ({rows.detection_reason})", style="bold", markup=False)
    count = min(samples, len(rows))
    shown = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)) if seed else np.arange(count)
    for i in map(int, shown):
        encoded = labeler.encode(rows.sample(i), where=rows.where(i))
        header = f"{rows.id(i)}  {rows.where(i)}  {encoded.trained_tokens} of {len(encoded.input_ids)} tokens trained"
        console.rule(header, align="left")
        console.print(marked(labeler, encoded))
    counts = survey(rows, labeler).summary() | {"exact_duplicates": count_duplicates(rows)}
    table = make_table("counts", "what", "rows or tokens")
    for what, value in counts.items():
        table.add_row(what.replace("_", " "), f"{value:,}")
    console.print(table)


def marked(labeler: Any, encoded: Any) -> Text:
    """The sample's text with trained tokens in reverse green, runs of equal kind decoded together.

    The first token is never predicted, so it is never marked.
    """
    import numpy as np
    from rich.text import Text

    trained = encoded.labels != -100
    trained[:1] = False
    borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(trained)]
    text = Text()
    for start, stop in itertools.pairwise(borders):
        if start == stop:
            continue
        piece = labeler.tokenizer.decode(encoded.input_ids[start:stop].tolist())
        text.append(f"[[{piece}]]" if trained[start] else piece, style="reverse green" if trained[start] else "dim")
    return text
