"""The features that a run's method reads: of the pool beside its gradients, and of targets given as data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spicerack.config import Choice, GradientConfig
from spicerack.features.collect import FeaturePass
from spicerack.features.needed import missing_features, needed_features
from spicerack.features.options import FeatureConfig, make_feature_config
from spicerack.gradients.description import common_settings
from spicerack.gradients.targets import ONLY, by_name
from spicerack.store.layout import TABLE_SCHEMA, norm_column
from spicerack.store.reader import GradientStore

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.targets import Target
    from spicerack.models.loading import LoadedModel
    from spicerack.selectors.base import Needs


def feature_options(compute: Sequence[str], gradients: GradientConfig) -> FeatureConfig:
    """Options of a run's feature pass: shards and storage are those of its gradients."""
    options = {"shard_rows": gradients.shard_rows, "storage_dtype": gradients.storage_dtype}
    return make_feature_config({"compute": list(compute), **options})


def features_beside(gradient_pass: GradientPass | CheckpointPasses, needs: Needs) -> list[str]:
    """The features that a method reads and a planned gradient pass will not give.

    Raises:
        ConfigurationError: the method reads what no pass gives.
    """
    arrays = gradient_pass.current.arrays
    return needed_features([needs], arrays=arrays, columns=[*TABLE_SCHEMA.names, *map(norm_column, arrays)])


def plan_beside(gradient_pass: GradientPass | CheckpointPasses, needs: Needs) -> FeaturePass | None:
    """The feature pass that a run adds to a planned gradient pass; None where the method reads gradients alone.

    Raises:
        ConfigurationError: the method reads what no pass gives.
    """
    from spicerack.gradients.checkpoints import CheckpointPasses

    wanted = features_beside(gradient_pass, needs)
    has_losses = not isinstance(gradient_pass, CheckpointPasses)
    return _beside(gradient_pass, gradient_pass.loaded, wanted, has_losses=has_losses) if wanted else None


def _beside(
    gradient_pass: GradientPass | CheckpointPasses, loaded: LoadedModel, wanted: Sequence[str], *, has_losses: bool
) -> FeaturePass:
    return FeaturePass(
        gradient_pass.pool,
        gradient_pass.labeler,
        loaded,
        feature_options(wanted, gradient_pass.config),
        surveyed=gradient_pass.survey,
        has_losses=has_losses,
        progress=gradient_pass.progress,
    )


def gives_losses(store: GradientStore, pool: Pool, labeler: Labeler, loaded: LoadedModel) -> bool:
    """Whether a gradient store's losses are those that a feature pass of this model and these labels would find."""
    same = common_settings(pool, labeler, loaded)
    return all(store.settings.get(name) == same[name] for name in ("model", "dtype", "label_rule", "pool"))


def add_features(
    store: GradientStore, folder: Path, needs: Needs, gradient_pass: GradientPass | CheckpointPasses
) -> tuple[GradientStore, list[Choice]]:
    """The store in `folder` with the features that a method reads beside it, computed now if they are missing.

    Args:
        store: of the pool's gradients, finished.
        folder: its folder.
        needs: of the method.
        gradient_pass: that made it; its model serves here too, at the last checkpoint.

    Raises:
        ConfigurationError: the method reads what no pass gives.
    """
    from spicerack.gradients.checkpoints import CheckpointPasses

    wanted = missing_features(store, [needs])
    if not wanted:
        return store, []
    if isinstance(gradient_pass, CheckpointPasses):
        loaded = gradient_pass.models.load(gradient_pass.checkpoints[-1])
    else:
        loaded = gradient_pass.loaded
    has_losses = gives_losses(store, gradient_pass.pool, gradient_pass.labeler, loaded)
    _beside(gradient_pass, loaded, wanted, has_losses=has_losses).run(store.more_features, store)
    reason = "the method reads them, and the gradient pass does not give them: one more pass, forward only"
    return GradientStore.open(folder, verify=False), [Choice("features", ", ".join(wanted), reason)]


def take_target_features(
    targets: Sequence[Target], feature_pass: FeaturePass, folder: Path
) -> GradientStore | dict[str, GradientStore]:
    """The features of every target, computed where they are not there, into `folder`/name.

    Args:
        targets: as opened.
        feature_pass: the pool's, whose model, labels and options serve here too.
        folder: where the stores are made.

    Returns:
        The one store of a target without a name; else the stores by name.
    """
    stores = {}
    for target in targets:
        store = target.store
        if store is None:
            assert target.pool is not None
            work = FeaturePass(
                target.pool,
                feature_pass.labeler,
                feature_pass.loaded,
                feature_pass.config,
                progress=feature_pass.progress,
            )
            store = work.run(folder / (target.name or ONLY))
        stores[target.name] = store
    return by_name(stores)
