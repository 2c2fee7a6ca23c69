"""One selection for every method, budget and seed, each in a folder that `train` and `report` read as a run's.

A method that draws nothing picks the same rows whatever the seed. Nobody has to say which do: where the first two
seeds agree, the others share their selection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spicerack.compare.inputs import options_of_method, reads_target, section_of
from spicerack.compare.plan import FULL, WITH_TARGET, Budget, Cell, Method
from spicerack.config import RunConfig, dump_config
from spicerack.errors import ConfigurationError
from spicerack.selectors.budget import BudgetLike, TokenBudget, parse_budget
from spicerack.store.files import write_json
from spicerack.store.read_back import read_array, read_json

if TYPE_CHECKING:
    from spicerack.data.records import Pool
    from spicerack.store.reader import GradientStore

RECORD_FILE = "selection.json"
NOT_A_METHODS = {
    "budget": "--budgets has them for all methods",
    "seed": "--seeds has them for all methods",
    "method": "it is what stands before the colon",
    "gradients": "--store names a store of the pool",
    **dict.fromkeys(("tokens", "columns", "target_groups"), "leave it out"),
}
"""Arguments of `spicerack.select` that the comparison gives, and where they come from."""


@dataclass(frozen=True)
class Picked:
    """A selection on disk: pool rows in the order picked (s,) int64, and the seconds that it took."""

    indices: np.ndarray
    seconds: float
    folder: Path


class Selections:
    """Selects where no selection is yet."""

    def __init__(
        self,
        store: GradientStore,
        pool: Pool,
        config: RunConfig,
        *,
        seeds: Sequence[int],
        target: GradientStore | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Bind what all selections share.

        Args:
            store: the pool's gradients.
            pool: the rows themselves, which are written beside the indices.
            config: the comparison's; the section `selection` is each one's own.
            seeds: all that are asked for, in order.
            target: gradients of a target set.
            say: called with a line for every selection that is made.
        """
        self.store, self.pool, self.config, self.target = store, pool, config, target
        self.seeds, self.say = list(seeds), say or (lambda line: None)
        self._store = store.fingerprint()
        self._goal = None if target is None else target.fingerprint()

    def of(self, cell: Cell) -> Picked:
        """The rows that a cell trains on."""
        if cell.budget is None:
            rows = np.flatnonzero(self.store.column("trained_tokens") > 0) if cell.method.name == FULL else ()
            return Picked(np.asarray(rows, dtype=np.int64), 0.0, self.config.output_dir)
        if cell.seed in self.seeds[2:]:
            first, second = (self._one(cell.method, cell.budget, seed) for seed in self.seeds[:2])
            if np.array_equal(first.indices, second.indices):
                return first
        return self._one(cell.method, cell.budget, cell.seed)

    def _one(self, method: Method, budget: Budget, seed: int) -> Picked:
        folder = self.config.output_dir / "selections" / method.label / budget.folder / f"seed-{seed}"
        spec = {
            "method": method.name,
            "options": json.loads(json.dumps(dict(method.options), default=str)),
            "store": self._store,
            "target": self._goal if reads_target(method) else None,
        }
        remedy = f"delete {folder}, and compare again"
        if (folder / RECORD_FILE).is_file():
            record = read_json(folder / RECORD_FILE, remedy)
            if record["spec"] != spec:
                raise ConfigurationError(
                    f"{folder} holds the picks of {record['spec']}, and {method.label!r} is now {spec}; give the "
                    "method another label, or the comparison another folder"
                )
        else:
            record = {"spec": spec, "seconds": self._select(method, budget, seed, folder)}
            write_json(folder / RECORD_FILE, record)
            self.say(f"{method.label} {budget.given}, seed {seed}: selected in {record['seconds']:.1f} s")
        return Picked(read_array(folder / "indices.npy", remedy), float(record["seconds"]), folder)

    def _select(self, method: Method, budget: Budget, seed: int, folder: Path) -> float:
        from spicerack.export.rows import write_selection
        from spicerack.selectors import select

        options = {name: value for name, value in method.options.items() if name != WITH_TARGET}
        target = self.target if reads_target(method) else None
        started = time.monotonic()
        selection = select(self.store, method.name, budget.value, target, seed=seed, **options)
        seconds = time.monotonic() - started
        config = section_of(self.config, method, budget.value)
        assert config is not None
        folder.mkdir(parents=True, exist_ok=True)
        section = config.selection.model_copy(update={"seed": seed})
        config = config.model_copy(update={"selection": section, "output_dir": folder})
        write_selection(
            folder, self.pool, selection, config_yaml=dump_config(config), rows_table=self.store.rows_table()
        )
        return round(seconds, 3)


def resolve_budgets(budgets: Sequence[BudgetLike], store: GradientStore) -> list[Budget]:
    """Budgets in rows or tokens of the pool, so that methods which leave rows out pick as many as those which do not.

    Raises:
        BudgetError: one that is no budget.
        ConfigurationError: two that mean the same here.
    """
    rows = store.n - len(store.excluded())
    resolved: dict[str, Budget] = {}
    for given in budgets:
        parsed = parse_budget(given)
        value = max(1, round(parsed * rows)) if isinstance(parsed, float) else parsed
        folder = f"tokens-{value.tokens}" if isinstance(value, TokenBudget) else f"rows-{value}"
        if folder in resolved:
            raise ConfigurationError(
                f"the budgets {resolved[folder].given!r} and {given!r} both mean {folder.replace('-', ' ')}; leave one"
            )
        resolved[folder] = Budget(str(given), value, folder)
    return list(resolved.values())


def check_methods(methods: Sequence[Method], *, has_target: bool) -> None:
    """Find out before any work whether every method exists, has its options, and gets its target.

    Raises:
        UnknownNameError: a method or an option that does not exist.
        ConfigurationError: an option out of range, or a method without the target that it needs.
    """
    from spicerack.selectors import get_selector
    from spicerack.selectors.base import subtask_names
    from spicerack.selectors.foreseen import check_given

    for method in methods:
        if method.is_control:
            if method.options:
                raise ConfigurationError(f"{method.name!r} selects nothing and has no options; leave them out")
            continue
        for option, instead in NOT_A_METHODS.items():
            if option in method.options:
                raise ConfigurationError(f"{method.label}: {option} is no option of a method here; {instead}")
        wants = method.options.get(WITH_TARGET, False)
        if not isinstance(wants, bool):
            raise ConfigurationError(f"{method.label}: {WITH_TARGET}={wants!r}, expected true or false")
        reads = reads_target(method)
        if reads and not has_target:
            raise ConfigurationError(f"method {method.name!r} needs a target set; give one (--target)")
        check_given(get_selector(method.name), options_of_method(method), subtask_names(reads, None))
