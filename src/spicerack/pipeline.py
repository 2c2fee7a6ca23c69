"""The whole road, and the only place that knows all of it: collect, select, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import Choice, RunConfig, dump_config, load_config, make_config, with_options
from spicerack.errors import OutputError
from spicerack.passes import alone_choice, named_pool
from spicerack.passes import plan_features as plan_features
from spicerack.passes import plan_pass as plan_pass
from spicerack.passes import plan_run as plan_run
from spicerack.selecting import check_rows, check_selection, features_read, method_needs, select_options

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spicerack.compare.driver import Comparison, Watcher
    from spicerack.features.collect import FeaturePass
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.cost import Cost
    from spicerack.gradients.survey import Progress, Survey
    from spicerack.gradients.targets import Target
    from spicerack.selectors.base import Selection
    from spicerack.store.reader import GradientStore

GRADIENT_SECTIONS = ("data", "model", "labels", "gradients")


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


def collect_gradients(
    pool: str | Path | list[dict[str, Any]] | datasets.Dataset,
    *,
    model: str | Path | PreTrainedModel | None = None,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> GradientStore:
    """Take every sample's projected gradient and keep them in a store on disk.

    Running it again after an interruption computes only what is missing. With `checkpoints=` (the folder of a warm-up)
    gradients are taken at each of them, and rows of Adam's form beside the plain ones.

    Args:
        pool: a file (.jsonl, .json, .csv, .parquet), an Arrow folder, a hub id, a `datasets.Dataset` or a list of
            dicts.
        model: hub id, folder, GGUF file or a loaded model; with `checkpoints` the one they were trained from, None
            where they say which.
        output_dir: the store's folder.
        tokenizer: with a loaded model, unless the pool is tokenized.
        progress: called as (stage, rows done, tokens done, tokens in all).
        **options: any field of the sections data, model, labels and gradients of `RunConfig`, by name.

    Returns:
        The finished store; `store.matrix()` is G, (n, k).

    Raises:
        SpicerackError: see `spicerack.errors`; everything already computed is kept.
    """
    config = with_options(RunConfig(), options, sections=GRADIENT_SECTIONS)
    return plan_pass(config, pool=pool, model=model, tokenizer=tokenizer, progress=progress).run(output_dir)


def run(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    pool: list[dict[str, Any]] | datasets.Dataset | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> Run:
    """Collect gradients, select, and write the selected rows, scores and manifest.

    What else the method reads (embeddings, losses without the instruction, ratings) is computed beside the gradients;
    a method that reads no gradients gets the forward pass alone.

    Args:
        config: a `RunConfig`, nested values, or the path of a YAML file.
        pool: rows in memory, instead of the one that the configuration names.
        model: a loaded model, instead of the one that the configuration names.
        tokenizer: the loaded model's.
        progress: as in `collect_gradients`.

    Returns:
        The run; its folder holds `config.yaml`, which repeats it to the same indices.
    """
    from spicerack.features.beside import add_features, features_beside
    from spicerack.gradients.targets import check_labels, take_targets, target_groups
    from spicerack.selectors import select
    from spicerack.training.loop import is_in_the_loop

    if isinstance(config, str | Path):
        config = load_config(config)
    elif not isinstance(config, RunConfig):
        config = make_config(config)
    if is_in_the_loop(config):
        return _run_in_the_loop(config, pool=pool, model=model, tokenizer=tokenizer, progress=progress)
    targets = check_selection(config)  # what is wrong with the selection must not cost a gradient pass
    compute = features_read(config)
    if compute is not None:
        given: dict[str, Any] = {"pool": pool, "model": model, "tokenizer": tokenizer, "progress": progress}
        return _run_on_features(config, compute, targets, **given)
    output_dir = prepare_output(config.output_dir)
    gradient_pass = plan_pass(config, pool=pool, model=model, tokenizer=tokenizer, progress=progress)
    check_labels(targets, gradient_pass.labeler)
    check_rows(config, gradient_pass)
    features_beside(gradient_pass, method_needs(config))  # what no pass gives is known before the first
    store = gradient_pass.run(output_dir / "gradients")
    store, added = add_features(store, output_dir / "gradients", method_needs(config), gradient_pass)
    config = config.model_copy(update={"gradients": gradient_pass.resolved})  # so that the file repeats the batches
    goal = take_targets(targets, gradient_pass, output_dir / "targets") if targets else None
    selection = select(store, target=goal, target_groups=target_groups(targets), **select_options(config))
    return _finish(config, store, selection, gradient_pass, [*gradient_pass.choices, *added])


def _run_on_features(config: RunConfig, compute: list[str], targets: list[Target], **given: Any) -> Run:
    """A run whose method reads no gradients: a forward pass alone, kept in `features`; `given` as for `run`."""
    from spicerack.features.beside import feature_options, take_target_features
    from spicerack.gradients.targets import check_labels, target_groups
    from spicerack.selectors import select

    output_dir = prepare_output(config.output_dir)
    feature_pass = plan_features(config, feature_options(compute, config.gradients), **given)
    check_labels(targets, feature_pass.labeler)
    check_rows(config, feature_pass)
    store = feature_pass.run(output_dir / "features")
    goal = take_target_features(targets, feature_pass, output_dir / "targets") if targets else None
    selection = select(store, target=goal, target_groups=target_groups(targets), **select_options(config))
    choices = [alone_choice(config.selection.method, compute), *feature_pass.choices]
    return _finish(config, store, selection, feature_pass, choices)


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


def _run_in_the_loop(
    config: RunConfig,
    *,
    pool: list[dict[str, Any]] | datasets.Dataset | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> Run:
    """Select with the model of the configuration as a proxy that is trained on the way; arguments as for `run`."""
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.export.rows import write_selection
    from spicerack.models.loading import load_model
    from spicerack.training.finetune import load_for_training
    from spicerack.training.loop import Loop, read_loop_options

    options = read_loop_options(config)
    output_dir = prepare_output(config.output_dir)
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


def _write_report(files: dict[str, Path], folder: Path) -> None:
    """The page of the run, without its cost: two runs have the same."""
    from spicerack.report.page import selection_page
    from spicerack.report.pages import write_page

    files["report.html"] = write_page(folder / "report.html", selection_page(folder, with_cost=False))


def select_from_store(
    store: str | Path, config: RunConfig, *, output_dir: Path, pool: str | Path | None = None
) -> tuple[Selection, dict[str, Path]]:
    """Select from a store on disk and write the selection; with `pool`, its selected rows too.

    Raises:
        DataError: the pool is not the one that the store was made from.
    """
    from spicerack.data.records import load_pool
    from spicerack.errors import DataError
    from spicerack.export.rows import write_selection
    from spicerack.gradients.targets import stores_of, target_groups
    from spicerack.selectors import select
    from spicerack.store.reader import GradientStore

    opened = GradientStore.open(store)
    targets = check_selection(config)
    goal = stores_of(targets, opened, method_needs(config).read_arrays) if targets else None
    rows = load_pool(pool, config.data) if pool is not None else None
    if rows is not None and list(rows.ids) != opened.column("id").tolist():
        raise DataError(
            f"{rows.source.name} is not the pool that {store} was made from: "
            f"{len(rows)} rows against {opened.n}, or other ids; name the pool given to `gradients`"
        )
    prepare_output(output_dir)
    selection = select(opened, target=goal, target_groups=target_groups(targets), **select_options(config))
    files = write_selection(
        output_dir, rows, selection, config_yaml=dump_config(config), rows_table=opened.rows_table()
    )
    return selection, files


def compare(comparison: Comparison, watcher: Watcher | None = None) -> tuple[dict[str, Any], dict[str, Path]]:
    """Compare methods by what they train, and write the page of it.

    Args:
        comparison: methods, budgets, seeds, and what they share; see `spicerack.compare.driver`.
        watcher: who is told how far it is.

    Returns:
        What stands in `results.json`, and the files by name.
    """
    from spicerack.compare import driver, results
    from spicerack.report.comparison import comparison_page
    from spicerack.report.pages import write_page

    folder = prepare_output(comparison.spec.config.output_dir)
    found = driver.compare(comparison, watcher)
    page = write_page(folder / "compare.html", comparison_page(found))
    files = {name: folder / name for name in (results.RESULTS_FILE, results.TABLE_FILE)}
    return found, {**files, page.name: page}


def prepare_output(folder: Path) -> Path:
    """Make the run's folder, and find out now whether it can be written.

    Raises:
        OutputError: it cannot.
    """
    probe = folder / ".spicerack-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}; choose another output folder"
        ) from error
    return folder
