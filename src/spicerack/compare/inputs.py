"""What the selections read: gradients of the pool and of a target, taken once, and the features methods ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.compare.plan import WITH_TARGET, Method
from spicerack.config import Choice, DataConfig, RunConfig, SelectionConfig, with_options
from spicerack.errors import ConfigurationError, DataError
from spicerack.selectors.budget import BudgetLike, TokenBudget
from spicerack.store.files import write_json
from spicerack.store.layout import read_manifest
from spicerack.store.read_back import read_json
from spicerack.store.reader import GradientStore

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel
    from spicerack.selectors.base import MethodOptions, Needs

COST_FILE = "cost.json"


@dataclass(frozen=True)
class Inputs:
    """Stores of the pool and of the target, None where no method reads one, what was decided, seconds of the passes."""

    store: GradientStore
    target: GradientStore | None
    choices: tuple[Choice, ...]
    seconds: dict[str, float]


class Preparation:
    """Makes what is missing with one loaded model; where nothing is, none is loaded."""

    def __init__(self, config: RunConfig, progress: Progress | None = None) -> None:
        """Bind the configuration, whose `output_dir` is the comparison's folder."""
        self.config, self.progress = config, progress
        self.choices: list[Choice] = []
        self._tools: tuple[LoadedModel, Labeler] | None = None

    def run(
        self,
        pool: Pool,
        methods: Sequence[Method],
        *,
        budgets: Sequence[BudgetLike] = (),
        store: Path | None = None,
        target: str | Path | None = None,
        selected: bool = False,
    ) -> Inputs:
        """Everything that the methods read.

        Args:
            pool: the rows selected from.
            methods: their needs decide on features, and whether the target is needed at all.
            budgets: of every method; what cannot be met is refused before the pass.
            store: a gradient store of the pool, made there if it is not finished; default: in the comparison's folder.
            target: a gradient store of target rows, or a data file whose gradients are taken if a method reads them.
            selected: whether all that is asked for is selected already, so that features are read by nobody.

        Raises:
            DataError: the store is of another pool.
            ConfigurationError: a method reads what neither pass can give, or quotas, groups or fixed rows that the pool
                cannot meet.
        """
        needs = [need for method in methods if not selected and (need := needs_of_method(method)) is not None]
        of_target = [need for method in methods if (need := own_needs(method)) and reads_target(method)]
        folder = store or self.config.output_dir / "gradients"
        opened = self.gradients(pool, folder, [section_of(self.config, m, b) for m in methods for b in budgets])
        if self.features(pool, opened, needs):
            opened = GradientStore.open(folder, verify=False)
        if target is not None and not of_target:
            reason = "no method reads one; target=true hands it to a method that may"
            self.choices.append(Choice("target", "not read", reason))
        goal = self._target(target, of_target) if target is not None and of_target else None
        self._tools = None
        return Inputs(opened, goal, tuple(self.choices), self._seconds())

    def gradients(self, pool: Pool, folder: Path, selections: Sequence[RunConfig | None] = ()) -> GradientStore:
        """The finished store in `folder`, else the pass that makes it, once its rows can serve `selections`."""
        from spicerack.gradients.collect import GradientPass
        from spicerack.gradients.description import is_store_of
        from spicerack.selecting import check_rows

        manifest = read_manifest(folder)
        if manifest is not None and ("checkpoints" in manifest or manifest["complete"]):
            opened = GradientStore.open(folder)
            if not is_store_of(opened, pool):
                raise DataError(
                    f"{folder} is a gradient store of other rows than {pool.source.name}: {opened.n} there, "
                    f"{len(pool)} here, other ids, or other content; name the file that it was made from, or give the "
                    "comparison another output folder"
                )
            if opened.column("source").tolist() != list(pool.sources):
                raise DataError(
                    f"{folder} names the sources of {pool.source.name} by another column than this comparison does; "
                    "give --source-column as when it was made, or the comparison another output folder"
                )
            return opened
        gradient_pass: GradientPass | CheckpointPasses
        if self.config.gradients.checkpoints is not None:
            gradient_pass = self._checkpoint_passes(pool)
        else:
            loaded, labeler = self._model()
            gradient_pass = GradientPass(pool, labeler, loaded, self.config.gradients, progress=self.progress)
        for config in selections:
            if config is not None:
                check_rows(config, gradient_pass)
        made = gradient_pass.run(folder)
        self._note(f"gradients of {pool.source.name}", gradient_pass.choices, gradient_pass.cost)
        return made

    def _checkpoint_passes(self, pool: Pool) -> CheckpointPasses:
        """Passes at every checkpoint of a warm-up."""
        from spicerack.data.labels import Labeler
        from spicerack.gradients.checkpoints import CheckpointPasses
        from spicerack.models.checkpoints import CheckpointModels
        from spicerack.training.checkpoints import read_checkpoints

        trained, section = read_checkpoints(str(self.config.gradients.checkpoints)), self.config.model
        models = CheckpointModels(section.model_name_or_path or trained.base, section)
        loaded = models.load(trained.checkpoints[0])
        labeler = Labeler(loaded.tokenizer, self.config.labels, chat_template=section.chat_template)
        return CheckpointPasses(
            pool, labeler, models, trained.checkpoints, self.config.gradients, loaded=loaded, progress=self.progress
        )

    def features(self, pool: Pool, store: GradientStore, needs: Sequence[Needs]) -> bool:
        """Run the features that the methods read and the store does not have; whether there were any."""
        from spicerack.features.beside import gives_losses
        from spicerack.features.collect import FeaturePass
        from spicerack.features.needed import missing_features
        from spicerack.features.options import make_feature_config

        wanted = missing_features(store, needs)
        if not wanted:
            return False
        loaded, labeler = self._model()
        config = make_feature_config({"compute": wanted})
        has_losses = gives_losses(store, pool, labeler, loaded)
        feature_pass = FeaturePass(pool, labeler, loaded, config, has_losses=has_losses, progress=self.progress)
        feature_pass.run(store.more_features, store)
        self._note(f"features of {pool.source.name}", [], feature_pass.cost)
        return True

    def _target(self, target: str | Path, needs: Sequence[Needs]) -> GradientStore:
        if read_manifest(Path(target)) is not None:
            return GradientStore.open(target)
        from spicerack.data.records import load_pool

        pool = load_pool(str(target), target_section(self.config))
        folder = self.config.output_dir / "target"
        store = self.gradients(pool, folder)
        return GradientStore.open(folder, verify=False) if self.features(pool, store, needs) else store

    def _model(self) -> tuple[LoadedModel, Labeler]:
        from spicerack.data.labels import Labeler
        from spicerack.models.loading import load_model

        section = self.config.model
        if self._tools is None:
            if section.model_name_or_path is None:
                raise ConfigurationError("no model is named; give a hub id, folder or GGUF file (--model)")
            loaded = load_model(section.model_name_or_path, section)
            labeler = Labeler(loaded.tokenizer, self.config.labels, chat_template=section.chat_template)
            self._tools = loaded, labeler
        return self._tools

    def _note(self, what: str, choices: Sequence[Choice], cost: Any) -> None:
        self.choices += choices
        if cost is not None:  # a pass that found everything done leaves what the one before it took
            write_json(self.config.output_dir / COST_FILE, self._seconds() | {what: round(cost.seconds, 3)})

    def _seconds(self) -> dict[str, float]:
        path = self.config.output_dir / COST_FILE
        seconds: dict[str, float] = read_json(path, "delete it") if path.is_file() else {}
        return seconds


def target_section(config: RunConfig) -> DataConfig:
    """How a target's file is read: as the pool, but for the columns that it may not have."""
    return config.data.model_copy(update={"source_column": None, "id_column": None})


def section_of(config: RunConfig, method: Method, budget: BudgetLike) -> RunConfig | None:
    """The configuration with a method's selection in it; None for a control, which selects nothing.

    Raises:
        ConfigurationError: an option of the selection out of its range.
    """
    if method.is_control:
        return None
    options = {name: value for name, value in method.options.items() if name != WITH_TARGET}
    value = f"{budget.tokens} tokens" if isinstance(budget, TokenBudget) else budget
    fresh = config.model_copy(update={"selection": SelectionConfig()})
    return with_options(fresh, {"method": method.name, "budget": value, **options}, sections=["selection"])


def own_needs(method: Method) -> Needs | None:
    """What a method reads with its options; None for a control."""
    from spicerack.selectors import get_selector
    from spicerack.selectors.base import needs_of

    return None if method.is_control else needs_of(get_selector(method.name), options_of_method(method))


def needs_of_method(method: Method) -> Needs | None:
    """What is read of the pool: by the method, and by a trim beside it; None for a control."""
    from spicerack.selectors.trim import Trim

    needs = own_needs(method)
    return needs and replace(needs, columns=(*needs.columns, *Trim.of(method.options).columns))


def reads_target(method: Method) -> bool:
    """Whether a method is given the target: because it needs one, or because `target=true` says so."""
    needs = own_needs(method)
    return needs is not None and (bool(method.options.get(WITH_TARGET, False)) or needs.target == "required")


def options_of_method(method: Method) -> MethodOptions:
    """The options that are the method's own, read."""
    import inspect

    from spicerack.selectors import get_selector, select
    from spicerack.selectors.base import read_options

    shared = {*inspect.signature(select).parameters}
    own = {name: value for name, value in method.options.items() if name not in shared}
    return read_options(get_selector(method.name), own)
