"""Compare methods: gradients once, then select, train and measure for every method, budget and seed.

The folder of a comparison:

settings.json      what all cells share; another comparison in the folder is refused
gradients/         the store, unless one is given; target/ likewise
selections/        what every method picked, as a run leaves it
cells/             a folder a cell (bench.py)
model.json         weights and label rule that the cells began with: a model trained on in place is another
cost.json          seconds of the passes
results.json, results.parquet

Whatever is finished is kept, and more methods, budgets and seeds may be asked for later. Cells of other folders, e.g.
of other machines, can be put in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.compare.bench import RESULT_FILE, Spec, load_test, read_result
from spicerack.compare.inputs import Preparation
from spicerack.compare.intervals import Bootstrap
from spicerack.compare.origins import check_origins, origin_of, target_content
from spicerack.compare.outcomes import Cells, Outcome, PoolFacts, read_flags
from spicerack.compare.plan import Budget, Cell, Method, make_cells
from spicerack.compare.results import RESULTS_FILE, summarize
from spicerack.compare.same_picks import copy_result, share
from spicerack.compare.selections import Picked, Selections, check_methods, resolve_budgets
from spicerack.compare.table import TABLE_FILE, Elsewhere, write_cells
from spicerack.compare.workers import run_cells
from spicerack.errors import ConfigurationError
from spicerack.selectors.budget import BudgetLike, parse_budget
from spicerack.store.files import write_json

if TYPE_CHECKING:
    from spicerack.data.records import Pool
    from spicerack.gradients.survey import Progress

OF_THE_CELLS = ("test", "recipe", "measures")
"""Sections of the settings that gradients and selections do not depend on."""


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        spec: what every cell shares; its configuration names pool, model and output folder.
        methods: the columns.
        budgets: as for `spicerack.select`.
        seeds: of selection and training.
        store: a gradient store of the pool; default: made in the output folder.
        target: a gradient store, or rows whose gradients are taken.
        flag_column: a column of the pool that marks rows nobody wants, for scoring alone.
        parallel: processes that run cells.
        finished: put together the cells that are finished, and run none.
        also: tables or folders of other comparisons with the same settings, whose cells are put in; none is run that
            they hold.
    """

    spec: Spec
    methods: Sequence[Method]
    budgets: Sequence[BudgetLike]
    seeds: Sequence[int] = (0, 1, 2)
    store: Path | None = None
    target: str | Path | None = None
    flag_column: str | None = None
    parallel: int = 1
    finished: bool = False
    also: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(f"seeds={list(self.seeds)}, expected at least one, none twice")


@dataclass(frozen=True)
class Watcher:
    """Who is told how far it is: `say` a line, `progress` the passes."""

    say: Callable[[str], None] = field(default=lambda line: None)
    progress: Progress | None = None


def compare(comparison: Comparison, watcher: Watcher | None = None) -> dict[str, Any]:
    """Run what is missing, and put everything together.

    Args:
        comparison: what is compared.
        watcher: who is told.

    Returns:
        What stands in `results.json`.

    Raises:
        SpicerackError: before any work, what is wrong with methods, budgets, data or the folder; whatever is finished
            is kept.
    """
    from spicerack.data.records import load_pool
    from spicerack.training.folder import occupied

    watcher = watcher or Watcher()
    spec, config = comparison.spec, comparison.spec.config
    for budget in comparison.budgets:
        parse_budget(budget)
    check_methods(comparison.methods, has_target=comparison.target is not None)
    pool, test = load_pool(str(config.data.pool), config.data), load_test(spec)
    _check_named(comparison, pool, test)
    goal = target_content(comparison.target, config)
    settings = describe(spec, pool, test)
    with occupied(config.output_dir, settings, lambda section: _begun(config.output_dir, section)):
        return _compare(comparison, pool, goal, settings, watcher)


def _compare(
    comparison: Comparison, pool: Pool, goal: str | None, settings: dict[str, Any], watcher: Watcher
) -> dict[str, Any]:
    spec = comparison.spec
    there = Elsewhere.read(comparison.also, settings, comparison.methods)
    for line in there.lines:
        watcher.say(line)
    check_origins(there.outcomes, {method.label: origin_of(method, None, goal) for method in comparison.methods})
    methods = tuple(method for method in comparison.methods if _is_needed(method, comparison, there))
    here = _here(replace(comparison, methods=methods), pool, there, goal, watcher) if methods else None
    own = here.outcomes if here else ()
    others = there.without(outcome.cell for outcome in own)
    outcomes = sorted([*others, *own], key=lambda outcome: outcome.cell.seed)
    if not outcomes:
        cells = spec.config.output_dir / "cells"
        raise ConfigurationError(
            f"{cells} holds no finished cell of these methods, budgets and seeds; leave out --finished to run them"
        )
    facts = here.pool if here else there.pool
    measures = spec.measures
    bootstrap = Bootstrap(measures.resamples, measures.confidence, measures.bootstrap_seed)
    about = _about(comparison, outcomes, settings) | {"seconds": here.seconds if here else {}}
    results = summarize(outcomes, facts, bootstrap, about=about)
    write_cells(spec.config.output_dir / TABLE_FILE, Cells(outcomes, facts), settings)
    write_json(spec.config.output_dir / RESULTS_FILE, results)
    return results


def _is_needed(method: Method, comparison: Comparison, there: Elsewhere) -> bool:
    """Whether a cell of a method is run or read here, so that no pass is made for the others."""
    if any((comparison.spec.config.output_dir / "cells" / method.label).glob(f"*/*/{RESULT_FILE}")):
        return True
    budgets = [Budget(str(given), given, "") for given in comparison.budgets]
    cells = make_cells([method], budgets, comparison.seeds)
    return not comparison.finished and not all(cell in there for cell in cells)


def _here(comparison: Comparison, pool: Pool, there: Elsewhere, goal: str | None, watcher: Watcher) -> Cells:
    """Cells of this folder: passes, selections, and the trainings that are missing here and elsewhere."""
    spec, config = comparison.spec, comparison.spec.config
    inputs = Preparation(config, watcher.progress).run(
        pool,
        comparison.methods,
        budgets=comparison.budgets,
        store=comparison.store,
        target=comparison.target,
        selected=comparison.finished,
    )
    for choice in inputs.choices:
        watcher.say(f"{choice.name} = {choice.value}  ({choice.reason})")
    if config.model.adapter_name_or_path is not None:
        watcher.say("adapter = none in the cells  (it is for the gradients; training begins with the model)")
    origins = {method.label: origin_of(method, inputs.store, goal) for method in comparison.methods}
    check_origins(there.outcomes, origins)
    cells = make_cells(comparison.methods, resolve_budgets(comparison.budgets, inputs.store), comparison.seeds)
    facts = PoolFacts.of(pool, inputs.store, comparison.flag_column)
    done = [cell for cell in cells if read_result(spec.folder(cell)) is not None]
    if comparison.finished:
        watcher.say(f"{len(done)} of {len(cells)} cells are finished; the table is of these")
    cells = done if comparison.finished else [cell for cell in cells if cell in done or cell not in there]
    chosen = Selections(inputs.store, pool, config, seeds=comparison.seeds, target=inputs.target, say=watcher.say)
    picks = [chosen.of(cell) for cell in cells]
    if not comparison.finished:
        _run_missing(comparison, list(zip(cells, picks, strict=True)), watcher)
    outcomes = [
        Outcome.read(cell, picked, spec.folder(cell), facts, origins[cell.method.label])
        for cell, picked in zip(cells, picks, strict=True)
    ]
    return Cells(outcomes, facts.of_all(), inputs.seconds)


def _begun(folder: Path, section: str) -> bool:
    """Whether something in a comparison's folder was made by a section of its settings."""
    if section in OF_THE_CELLS:
        return any((folder / "cells").glob(f"*/*/*/{RESULT_FILE}"))
    return any((folder / name).exists() for name in ("gradients", "target", "selections", "cells"))


def _check_named(comparison: Comparison, pool: Pool, test: Pool) -> None:
    """Find out before the pass, and before anything is written, whether held-out rows and columns are there."""
    from spicerack.training.evaluate import group_names

    if comparison.flag_column is not None:
        read_flags(pool, comparison.flag_column)
    for i in range(len(test)):
        test.sample(i)
    if by := comparison.spec.measures.by:
        group_names(test, range(len(test)), by)


def describe(spec: Spec, pool: Pool, test: Pool) -> dict[str, Any]:
    """What all cells share."""
    config = spec.config
    return {
        "pool": {"fingerprint": pool.fingerprint(), "rows": len(pool), "format": pool.format},
        "test": {"fingerprint": test.fingerprint(), "rows": len(test), "format": test.format},
        "model": config.model.model_dump(mode="json"),
        "labels": config.labels.model_dump(mode="json"),
        "gradients": config.gradients.model_dump(mode="json"),
        "recipe": spec.recipe.model_dump(mode="json", exclude={"seed"}),
        "measures": spec.measures.model_dump(mode="json"),
    }


def _run_missing(comparison: Comparison, work: Sequence[tuple[Cell, Picked]], watcher: Watcher) -> None:
    spec = comparison.spec
    finished = {cell.folder for cell, _ in work if read_result(spec.folder(cell)) is not None}
    if finished:
        watcher.say(f"{len(finished)} of {len(work)} cells are finished already")
    runs, twins = share([(cell, picked.indices) for cell, picked in work], finished)
    count = len(finished)

    def report(cell: Cell, result: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        training, like = result["training"], result.get("trained_as")
        how = f", same picks as {like}" if like else f", trained in {training['seconds']:.0f} s" if training else ""
        watcher.say(f"[{count}/{len(work)}] {cell}: held-out loss {result['loss']:.4f}{how}")
        for twin, other in twins:
            if other == cell:
                report(twin, copy_result(spec, twin, cell))

    for twin, like in twins:
        if like.folder in finished:
            report(twin, copy_result(spec, twin, like))
    run_cells(spec, runs, parallel=comparison.parallel, done=report)


def _about(comparison: Comparison, outcomes: Sequence[Outcome], settings: dict[str, Any]) -> dict[str, Any]:
    spec = comparison.spec
    cells = [outcome.cell for outcome in outcomes]
    return {
        "settings": settings,
        "names": {
            "pool": Path(str(spec.config.data.pool)).name,
            "test": Path(spec.test).name,
            "model": Path(str(spec.config.model.model_name_or_path)).name,
        },
        "methods": [
            {"label": m.label, "method": m.name, "options": {k: str(v) for k, v in m.options.items()}}
            for m in {cell.method.label: cell.method for cell in cells}.values()
        ],
        "budgets": list(dict.fromkeys(cell.budget.given for cell in cells if cell.budget)),
        "seeds": sorted({cell.seed for cell in cells}),
        "flag_column": comparison.flag_column,
        "by": spec.measures.by,
        "confidence": spec.measures.confidence,
    }
