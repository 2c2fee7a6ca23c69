"""`spicerack evaluate`: a model on held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spicerack.cli.options import configured
from spicerack.training.options import EvaluateConfig

if TYPE_CHECKING:
    from spicerack.training.bootstrap import Interval
    from spicerack.training.evaluate import Evaluation, Quality

SECTIONS = ("data", "model", "labels")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


@configured(EvaluateConfig, "model", "data", "labels", without=("model_name_or_path",))
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, folder or GGUF file; or a folder with an adapter.")],
    data: Annotated[str, typer.Option("--data", help="Held-out rows: file, Arrow folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the evaluation.")] = Path("runs/evaluate"),
    *,
    options: dict[str, Any],
) -> None:
    """Measure a model on held-out rows: loss by group and overall, exact match, harness tasks, with intervals."""
    from spicerack import pipeline
    from spicerack.cli.console import console, print_choices, print_files, progress_display
    from spicerack.config import RunConfig, with_options
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.models.loading import load_model
    from spicerack.training.adapters import resolve_model
    from spicerack.training.evaluate import evaluate as measure
    from spicerack.training.evaluate import group_names
    from spicerack.training.harness import require_harness
    from spicerack.training.options import make_options, split_options
    from spicerack.training.samples import label_rows

    own, rest = split_options(EvaluateConfig, options)
    wanted = make_options(EvaluateConfig, own)
    if wanted.harness_tasks:
        require_harness()
    config = with_options(RunConfig(), rest, sections=SECTIONS)
    section, choices = resolve_model(model, config.model)
    assert section.model_name_or_path is not None
    pipeline.prepare_output(output)
    pool = load_pool(data, config.data)
    loaded = load_model(section.model_name_or_path, section)
    rows = label_rows(pool, Labeler(loaded.tokenizer, config.labels, chat_template=section.chat_template))
    groups = group_names(pool, rows.rows.tolist(), wanted.by) if wanted.by else None
    print_choices([*choices, *loaded.choices])
    with progress_display() as progress:
        done = measure(rows, loaded, wanted, groups=groups, progress=progress)
    if rows.left_out:
        console.print(f"  {len(rows.left_out):,} rows have no trained token and are not measured")
    print_evaluation(done, confidence=wanted.confidence)
    if wanted.exact_match and done.overall.exact_match is None:
        console.print(
            "  exact match: nothing was asked; no sample has a prompt and an uncut reference of at most "
            f"{wanted.max_answer_tokens} tokens (--max-answer-tokens)"
        )
    print_files(done.write(output))


def print_evaluation(done: Evaluation, *, confidence: float) -> None:
    """The losses, a row a group; then the exact matches, where there are any; then the harness."""
    from spicerack.cli.console import console, make_table

    table = make_table(f"held-out loss, {confidence:.0%} bootstrap intervals", *("", "samples", "loss", "token loss"))
    for name, quality in _rows(done):
        table.add_row(name, f"{quality.samples:,}", _shown(quality.loss), f"{quality.token_loss:.3f}")
    if done.loss_over_groups is not None:
        table.add_row("mean of groups", "", _shown(done.loss_over_groups), "")
    console.print(table)
    if done.overall.exact_match is not None:
        table = make_table("exact match of greedy answers", *("", "answered", "right"))
        for name, quality in _rows(done):
            table.add_row(name, f"{quality.answered:,}", _shown(quality.exact_match))
        if done.exact_match_over_groups is not None:
            table.add_row("mean of groups", "", _shown(done.exact_match_over_groups))
        console.print(table)
    for task, measures in done.harness.items():
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
        console.print(f"  {task}: {numbers}", markup=False)


def _rows(done: Evaluation) -> list[tuple[str, Quality]]:
    """Each group and all samples; names are the data's, so nothing in them is markup."""
    from rich.markup import escape

    return [*((escape(name), quality) for name, quality in done.groups.items()), ("all samples", done.overall)]


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return ""
    between = "" if interval.low is None else f" ({interval.low:.3f} to {interval.high:.3f})"
    return f"{interval.mean:.3f}{between}"
