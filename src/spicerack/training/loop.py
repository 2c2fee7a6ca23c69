"""Selection with a model in the loop: the pool, its labels and a proxy in, a `Selection` out, as from a store.

Two methods need it: `spice` with `schedule: online`, and `lead`. Nothing is taken of the whole pool beforehand but its
tokens and labels; there is no store.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import Choice, RunConfig
from spicerack.errors import ConfigurationError, StoreMismatchError
from spicerack.information.room import Room
from spicerack.selectors.base import EXCLUDED_DTYPE, Selection
from spicerack.selectors.budget import parse_budget, resolve
from spicerack.store.files import write_json
from spicerack.store.read_back import read_json
from spicerack.store.settings import differences
from spicerack.training.options import ProxyOptions, make_options
from spicerack.training.samples import model_summary

if TYPE_CHECKING:
    import pyarrow as pa

    from spicerack.data.labels import Encoded, Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.survey import Progress, Survey
    from spicerack.models.loading import LoadedModel
    from spicerack.selectors.budget import ResolvedBudget

SETTINGS_FILE = "loop.json"
LOCK_FILE = "loop.lock"
WITHOUT_TRAINED_TOKENS = "no trained tokens"


@dataclass(frozen=True)
class Found:
    """What a method in the loop gives: as `selectors.Picks`, rows whose gradient was not finite, what it chose."""

    indices: np.ndarray
    scores: np.ndarray
    trace: np.ndarray
    not_finite: tuple[int, ...]
    findings: Mapping[str, Any]
    choices: Sequence[Choice] = ()


class Loop:
    """A pool ready to be walked with a proxy."""

    def __init__(
        self,
        pool: Pool,
        labeler: Labeler,
        loaded: LoadedModel,
        config: RunConfig,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Survey the pool, and check method and budget before any work.

        Args:
            pool: the rows.
            labeler: the label rule.
            loaded: the proxy, without adapters.
            config: its section `selection` names the method, `gradients` says what is taken of a gradient.
            progress: called as (stage, rows done, tokens done, tokens in all).

        Raises:
            ConfigurationError: options that do not exist, or that mean nothing here.
            BudgetError: a budget that cannot be met.
        """
        from spicerack.gradients.survey import survey
        from spicerack.models.limits import check_fits

        self.pool, self.labeler, self.loaded, self.config, self.progress = pool, labeler, loaded, config, progress
        self.options = read_loop_options(config)
        self.survey: Survey = survey(pool, labeler, progress)
        check_fits(loaded.model, self.survey.tokens, self.survey.largest_id, pool.where)
        self.eligible = self.survey.trained_tokens > 0
        self.tokens = self.survey.tokens.astype(np.int64)
        self.budget: ResolvedBudget = resolve(config.selection.budget, self.eligible, self.tokens)

    def room(self) -> Room:
        """What may be picked, none taken yet."""
        return Room(self.eligible, count=self.budget.count, capacity=self.budget.tokens, tokens=self.tokens)

    def sample(self, i: int) -> Encoded:
        """Tokens and labels of a pool row."""
        return self.labeler.encode(self.pool.sample(i), where=self.pool.where(i))

    def run(self, folder: Path) -> Selection:
        """Select; the same call again goes on where the last was interrupted.

        Args:
            folder: where the journal is kept.

        Raises:
            StoreMismatchError: the folder holds a selection with other settings.
            StoreLockedError: another process walks there.
        """
        from spicerack.store.locks import alone
        from spicerack.training.proxy import Proxy

        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / LOCK_FILE, f"the walk {folder}"):
            self._begin(folder)
            proxy = Proxy(self.loaded, self.options, self.config.gradients)
            try:
                found = self._walk(proxy, folder)
            finally:
                proxy.release()
        return self._selection(found, proxy.learning_rate)

    def _walk(self, proxy: Any, folder: Path) -> Found:
        if self.config.selection.method == "lead":
            from spicerack.training.lead import LeadOptions, lead

            assert isinstance(self.options, LeadOptions)
            return lead(self, proxy, self.options, folder=folder)
        from spicerack.training.online import OnlineOptions, walk

        assert isinstance(self.options, OnlineOptions)
        done = walk(self.sample, proxy, self.options, self.room(), folder=folder, done=self._say)
        findings = {"proxy_steps": len(done.losses), "proxy_losses": list(done.losses)}
        choices = []
        if done.short:
            asked = ", ".join(f"{value} {unit}" for unit, value in self.budget.to_dict().items())
            reason = f"the walk ended before the budget ({asked}): more pool_picks of each candidate pool reach it"
            choices = [Choice("picks", len(done.indices), reason)]
        return Found(done.indices, done.scores, done.trace, done.not_finite, findings, choices)

    def _say(self, done: int, of: int) -> None:
        if self.progress is not None:
            total = int(self.tokens[self.eligible].sum())
            rows = int(self.eligible.sum())
            self.progress("walk", done * rows // of, done * total // of, total)

    def _begin(self, folder: Path) -> None:
        settings = {
            "model": {key: value for key, value in model_summary(self.loaded).items() if key != "name"},
            "pool": self.pool.fingerprint(),
            "label_rule": self.labeler.rule(),
            "gradients": self.config.gradients.model_dump(mode="json"),
            "options": self.options.model_dump(mode="json"),
            "budget": self.budget.to_dict(),
        }
        path = folder / SETTINGS_FILE
        if path.is_file() and (other := differences(read_json(path, f"delete {folder}, and select again"), settings)):
            raise StoreMismatchError(
                f"{folder} holds a walk with other settings: {other}; give another output folder, or delete it"
            )
        write_json(path, settings)

    def rows_table(self) -> pa.Table:
        """The columns of `scores.parquet` that a store would give."""
        import pyarrow as pa

        return pa.table(
            {
                "id": list(self.pool.ids),
                "source": list(self.pool.sources),
                "tokens": self.survey.tokens.astype(np.int32),
                "trained_tokens": self.survey.trained_tokens.astype(np.int32),
            }
        )

    def _selection(self, found: Found, learning_rate: float) -> Selection:
        excluded = [(int(i), WITHOUT_TRAINED_TOKENS) for i in np.flatnonzero(~self.eligible)]
        excluded = sorted([*excluded, *((i, "non-finite gradient") for i in found.not_finite)])
        choices = [*self.pool.choices, *self.loaded.choices]
        choices += found.choices
        if self.options.learning_rate is None:
            reason = "the usual rate for adapters" if self.options.use_peft else "the usual rate for all weights"
            choices.append(Choice("learning_rate", learning_rate, reason))
        manifest = {
            "method": self.config.selection.method,
            "budget": self.budget.to_dict(),
            "seed": self.options.seed,
            "options": {**self.options.model_dump(), "learning_rate": learning_rate},
            "findings": dict(found.findings),
            "choices": [choice._asdict() for choice in choices],
            "gradients": {
                "kind": "online",
                "rows": len(self.pool),
                "model": model_summary(self.loaded),
                **self.config.gradients.model_dump(mode="json"),
            },
            "quotas": None,
            "include": [],
            "excluded_by_caller": 0,
            "target": None,
            "excluded_counts": dict(Counter(reason for _, reason in excluded)),
            "versions": {
                "spicerack": version("spicerack"),
                "numpy": np.__version__,
                "torch": version("torch"),
                "python": platform.python_version(),
            },
        }
        rows = np.array(excluded, dtype=EXCLUDED_DTYPE).view(np.recarray)
        return Selection(found.indices, found.scores, found.trace, None, rows, manifest)


def is_in_the_loop(config: RunConfig) -> bool:
    """Whether the method needs a model while it selects."""
    chosen = config.selection
    return chosen.method == "lead" or (chosen.method == "spice" and chosen.method_options.get("schedule") == "online")


def read_loop_options(config: RunConfig) -> ProxyOptions:
    """The options of the online schedule or of lead, checked.

    Raises:
        UnknownNameError: an option that does not exist.
        ConfigurationError: a value that cannot be, a target, or a budget that is no budget.
    """
    from spicerack.selectors.reading import OF_THE_POOL
    from spicerack.training.lead import LeadOptions
    from spicerack.training.online import OnlineOptions

    chosen = config.selection
    parse_budget(chosen.budget)
    if chosen.target is not None:
        raise ConfigurationError(f"{chosen.method} with a proxy in the loop reads no target; leave it out")
    for name in (*OF_THE_POOL, "subtask_column"):
        if getattr(chosen, name) != type(chosen).model_fields[name].get_default(call_default_factory=True):
            raise ConfigurationError(f"{name} is no option of {chosen.method} with a proxy in the loop; leave it out")
    for name in ("checkpoints", "optimizer_state"):
        if getattr(config.gradients, name) is not None:
            raise ConfigurationError(f"{chosen.method} with a proxy in the loop reads no {name}; leave it out")
    model = LeadOptions if chosen.method == "lead" else OnlineOptions
    return make_options(model, {**chosen.method_options, "seed": chosen.seed})
