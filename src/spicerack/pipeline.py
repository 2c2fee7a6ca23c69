"""The whole road, and the only place that knows all of it: collect, select, export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.config import RunConfig, dump_config, load_config, make_config, with_options
from spicerack.passes import plan_features as plan_features
from spicerack.passes import plan_pass as plan_pass
from spicerack.passes import plan_run as plan_run
from spicerack.running import Run as Run
from spicerack.running import run_in_the_loop, run_on_features, run_on_gradients
from spicerack.selecting import check_selection, features_read, method_needs, select_options
from spicerack.store.files import SELECTION
from spicerack.store.files import prepare_output as prepare_output

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spicerack.compare.driver import Comparison, Watcher
    from spicerack.gradients.survey import Progress
    from spicerack.selectors.base import Selection
    from spicerack.store.reader import GradientStore

GRADIENT_SECTIONS = ("data", "model", "labels", "gradients")


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
    from spicerack.training.loop import is_in_the_loop

    if isinstance(config, str | Path):
        config = load_config(config)
    elif not isinstance(config, RunConfig):
        config = make_config(config)
    given: dict[str, Any] = {"pool": pool, "model": model, "tokenizer": tokenizer, "progress": progress}
    if is_in_the_loop(config):
        return run_in_the_loop(config, **given)
    targets = check_selection(config)  # what is wrong with the selection must not cost a gradient pass
    compute = features_read(config)
    if compute is None:
        return run_on_gradients(config, targets, **given)
    return run_on_features(config, compute, targets, **given)


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
    from spicerack.gradients.description import is_store_of
    from spicerack.gradients.targets import stores_of, target_groups
    from spicerack.selectors import select
    from spicerack.store.reader import GradientStore

    opened = GradientStore.open(store)
    targets = check_selection(config)
    goal = stores_of(targets, opened, method_needs(config).read_arrays) if targets else None
    rows = load_pool(pool, config.data) if pool is not None else None
    if rows is not None and not is_store_of(opened, rows):
        raise DataError(
            f"{rows.source.name} is not the pool that {store} was made from: {len(rows)} rows against {opened.n}, "
            "other ids, or other content; name the pool given to `gradients`, unchanged"
        )
    prepare_output(output_dir, SELECTION)
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
    from spicerack.compare import driver, results, table
    from spicerack.report.comparison import comparison_page
    from spicerack.report.pages import write_page

    folder = prepare_output(comparison.spec.config.output_dir)
    found = driver.compare(comparison, watcher)
    page = write_page(folder / "compare.html", comparison_page(found))
    files = {name: folder / name for name in (results.RESULTS_FILE, table.TABLE_FILE)}
    return found, {**files, page.name: page}
