"""The three roads of a run, from its checked configuration to what it leaves: gradients, features alone, a proxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice, RunConfig, dump_config
from spicerack.passes import alone_choice, named_pool, plan_features, plan_pass
from spicerack.selecting import check_rows, method_needs, select_options
from spicerack.store.files import SELECTION, prepare_output

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spicerack.features.collect import FeaturePass
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.cost import Cost
    from spicerack.gradients.survey import Progress, Survey
    from spicerack.gradients.targets import Target
    from spicerack.selectors.base import Selection
    from spicerack.store.reader import GradientStore


@dataclass(frozen=True)
class Run:
    """What a whole run leaves: store, selection, files by name, the pool's counts, and what the pass cost.

    The cost is None where the store was whole already. Its file, `cost.json`, is the one that two runs do not share.
    The store is one of features where the method reads no gradients; its table is the same.
    A method with a proxy in the loop (`schedule: online`, `lead`) leaves no store.
    """

    output_dir: Path
    store: GradientStore | None
    selection: Selection
    files: dict[str, Path]
    survey: Survey
    cost: Cost | None


def run_on_gradients(config: RunConfig, targets: Sequence[Target], **given: Any) -> Run:
    """A run whose method reads gradients; `given` are the other arguments of `pipeline.run`."""
    from spicerack.features.beside import add_features, features_beside
    from spicerack.gradients.targets import check_labels, take_targets, target_groups
    from spicerack.selectors import select

    output_dir = prepare_output(config.output_dir, SELECTION)
    gradient_pass = plan_pass(config, **given)
    check_labels(targets, gradient_pass.labeler)
    check_rows(config, gradient_pass)
    features_beside(gradient_pass, method_needs(config))  # what no pass gives is known before the first
    store = gradient_pass.run(output_dir / "gradients")
    store, added = add_features(store, output_dir / "gradients", method_needs(config), gradient_pass)
    config = config.model_copy(update={"gradients": gradient_pass.resolved})  # so that the file repeats the batches
    goal = take_targets(targets, gradient_pass, output_dir / "targets") if targets else None
    selection = select(store, target=goal, target_groups=target_groups(targets), **select_options(config))
    return _finish(config, store, selection, gradient_pass, [*gradient_pass.choices, *added])


def run_on_features(config: RunConfig, compute: list[str], targets: Sequence[Target], **given: Any) -> Run:
    """A run whose method reads no gradients: a forward pass alone, kept in `features`."""
    from spicerack.features.beside import feature_options, take_target_features
    from spicerack.gradients.targets import check_labels, target_groups
    from spicerack.selectors import select

    output_dir = prepare_output(config.output_dir, SELECTION)
    feature_pass = plan_features(config, feature_options(compute, config.gradients), **given)
    check_labels(targets, feature_pass.labeler)
    check_rows(config, feature_pass)
    store = feature_pass.run(output_dir / "features")
    goal = take_target_features(targets, feature_pass, output_dir / "targets") if targets else None
    selection = select(store, target=goal, target_groups=target_groups(targets), **select_options(config))
    choices = [alone_choice(config.selection.method, compute), *feature_pass.choices]
    return _finish(config, store, selection, feature_pass, choices)


def run_in_the_loop(
    config: RunConfig,
    *,
    pool: list[dict[str, Any]] | datasets.Dataset | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> Run:
    """Select with the model of the configuration as a proxy that is trained on the way."""
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.export.rows import write_selection
    from spicerack.models.loading import load_model
    from spicerack.training.finetune import load_for_training
    from spicerack.training.loop import Loop, read_loop_options

    options = read_loop_options(config)
    output_dir = prepare_output(config.output_dir, SELECTION)
    rows = load_pool(named_pool(config, pool), config.data)
    if model is not None:
        loaded = load_model(model, config.model, tokenizer=tokenizer)
    else:
        loaded, _ = load_for_training(config, options, tokenizer=tokenizer)
    labeler = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template)
    loop = Loop(rows, labeler, loaded, config, progress=progress)
    selection = loop.run(output_dir / "loop")
    files = write_selection(output_dir, rows, selection, config_yaml=dump_config(config), rows_table=loop.rows_table())
    _write_report(files, output_dir)
    return Run(output_dir, None, selection, files, loop.survey, None)


def _finish(
    config: RunConfig,
    store: GradientStore,
    selection: Selection,
    work: GradientPass | CheckpointPasses | FeaturePass,
    choices: Sequence[Choice],
) -> Run:
    """Write what a run leaves."""
    from spicerack.export.rows import write_selection
    from spicerack.store.files import write_json

    folder = config.output_dir
    selection.manifest["choices"][:0] = [choice._asdict() for choice in choices]
    files = write_selection(
        folder, work.pool, selection, config_yaml=dump_config(config), rows_table=store.rows_table()
    )
    if work.cost is not None:  # a run that found its store whole leaves the cost of the one that made it
        files["cost.json"] = folder / "cost.json"
        write_json(files["cost.json"], work.cost.summary())
    _write_report(files, folder)
    return Run(folder, store, selection, files, work.survey, work.cost)


def _write_report(files: dict[str, Path], folder: Path) -> None:
    """The page of the run, without its cost: two runs have the same."""
    from spicerack.report.page import selection_page
    from spicerack.report.pages import write_page

    files["report.html"] = write_page(folder / "report.html", selection_page(folder, with_cost=False))
