"""The section `selection` of a run: checked before any work, what its method reads, and the arguments of `select`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spicerack.config import RunConfig
from spicerack.errors import ConfigurationError

if TYPE_CHECKING:
    from spicerack.features.collect import FeaturePass
    from spicerack.gradients.checkpoints import CheckpointPasses
    from spicerack.gradients.collect import GradientPass
    from spicerack.gradients.targets import Target
    from spicerack.selectors.base import Needs


def check_selection(config: RunConfig) -> list[Target]:
    """Find out before any work whether the method takes its budget, options and targets; the targets, opened."""
    from spicerack.gradients.targets import open_targets, target_groups
    from spicerack.selectors import get_selector, parse_budget
    from spicerack.selectors.base import read_options, subtask_names
    from spicerack.selectors.foreseen import check_given
    from spicerack.selectors.targets import require_target

    chosen = config.selection
    parse_budget(chosen.budget)
    selector = get_selector(chosen.method)
    options = read_options(selector, chosen.method_options)
    require_target(selector, chosen.target is not None, chosen.subtask_column is not None)
    targets = [] if chosen.target is None else open_targets(chosen.target, chosen.subtask_column, config.data)
    labels = target_groups(targets) or [target.name for target in targets if target.name]
    check_given(selector, options, subtask_names(bool(targets), labels or None))
    return targets


def check_rows(config: RunConfig, planned: GradientPass | CheckpointPasses | FeaturePass) -> None:
    """Find out before a planned pass what the selection asks of rows, groups and counts that its pool cannot give.

    Raises:
        ConfigurationError: as `select` would raise after the pass.
        GradientError: `exclude` leaves no row.
    """
    from spicerack.features.collect import FeaturePass
    from spicerack.features.options import FEATURES
    from spicerack.features.shard import COLUMNS
    from spicerack.selectors import get_selector
    from spicerack.selectors.base import read_options
    from spicerack.selectors.foreseen import Foreseen, check_foreseen
    from spicerack.selectors.reading import OF_THE_POOL
    from spicerack.store.layout import TABLE_SCHEMA, norm_column

    pool, survey, chosen = planned.pool, planned.survey, config.selection
    known: dict[str, Any] = {
        "id": pool.ids,
        "source": pool.sources,
        "tokens": survey.tokens,
        "trained_tokens": survey.trained_tokens,
        "cut_tokens": survey.cut_tokens,
    }
    if isinstance(planned, FeaturePass):
        late = {*planned.layout.columns, *map(norm_column, planned.layout.arrays)}
    else:  # a folder `features` may be there already, whatever the method reads
        beside = {name for columns in COLUMNS.values() for name in columns}
        late = {*TABLE_SCHEMA.names, *beside, *map(norm_column, [*planned.current.arrays, *FEATURES])}
    given = {name: getattr(chosen, name) for name in OF_THE_POOL}
    rows = Foreseen(known, late | {"finite"}, pool.source.name)
    room = check_foreseen(rows, chosen.budget, **given)
    selector = get_selector(chosen.method)
    if check := getattr(selector, "check_room", None):
        check(read_options(selector, chosen.method_options), room)


def method_needs(config: RunConfig) -> Needs:
    """What the method reads with its options, and a trim beside it."""
    from spicerack.selectors import get_selector
    from spicerack.selectors.base import needs_of, read_options
    from spicerack.selectors.trim import Trim

    chosen = config.selection
    selector = get_selector(chosen.method)
    needs = needs_of(selector, read_options(selector, chosen.method_options))
    return replace(needs, columns=(*needs.columns, *Trim.of(dict(chosen)).columns))


def features_read(config: RunConfig) -> list[str] | None:
    """The features that stand for everything the selection reads; None where it reads gradients.

    Near-duplicates, a trim of a share, and quotas by clusters are of gradients, whatever the method reads.

    Raises:
        ConfigurationError: checkpoints, which have no use without gradients.
    """
    from spicerack.features.needed import features_alone

    chosen = config.selection
    if chosen.dedup is not None or chosen.trim > 0.0 or (chosen.groups or "").startswith("clusters:"):
        return None
    compute = features_alone(method_needs(config))
    if compute is not None and config.gradients.checkpoints is not None:
        raise ConfigurationError(
            f"method {chosen.method!r} reads no gradients, so checkpoints have no use; leave them out"
        )
    return compute


def select_options(config: RunConfig) -> dict[str, Any]:
    """The section as arguments of `select`, but for the target."""
    from spicerack.selectors.reading import OF_THE_POOL

    chosen = config.selection
    return {name: getattr(chosen, name) for name in ("method", "budget", "seed", *OF_THE_POOL)} | chosen.method_options
