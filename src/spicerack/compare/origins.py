"""What picks depend on beside method, budget and seed: what was read of the pool, of which model, and which target.

All are told apart by content, so that two machines agree on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.compare.inputs import needs_of_method, reads_target, target_section
from spicerack.errors import StoreMismatchError
from spicerack.features.needed import COUNTED
from spicerack.selectors.grouping import count_clusters
from spicerack.selectors.trim import GROUPS
from spicerack.store.layout import read_manifest
from spicerack.store.reader import GradientStore
from spicerack.store.settings import differences, flatten

if TYPE_CHECKING:
    from spicerack.compare.outcomes import Outcome
    from spicerack.compare.plan import Method
    from spicerack.config import RunConfig

OF_THE_MODEL = ("model", "label_rule")
OF_THE_GRADIENTS = ("parameters", "projection", "reduction", "optimizer_state")
CONTENT = re.compile(r"\((?:weights|content) ([0-9a-f]+)\)")


def origin_of(method: Method, store: GradientStore | None, target: str | None) -> dict[str, Any]:
    """What a method's picks were made by, by name.

    Args:
        method: no control reads anything.
        store: of the pool; None: it is not known which.
        target: what `target_content` says.
    """
    found: dict[str, Any] = {"target": target} if reads_target(method) else {}
    needs = needs_of_method(method)
    if needs is None or store is None:
        return found
    arrays, columns = {*needs.read_arrays}, {*needs.columns} - {*COUNTED}
    if _reads_directions(method):
        arrays.add("gradient")
    of_gradients = arrays & {"gradient", "adam"}
    for checkpoint in store.checkpoints if of_gradients and needs.checkpoints == "all" else ():
        found[f"checkpoint {checkpoint.name}"] = [checkpoint.weight, _content(checkpoint.store.settings.get("model"))]
    if of_gradients:
        found |= _told(store, (*OF_THE_MODEL, *OF_THE_GRADIENTS))
    elif arrays:
        found |= _told(store.holder(sorted(arrays)[0]), OF_THE_MODEL)
    elif columns:
        found |= _told(store, OF_THE_MODEL)
    return found


def target_content(target: str | Path | None, config: RunConfig) -> str | None:
    """The content of target rows, whether they are named themselves or a store of them; None where it is not known."""
    if target is None:
        return None
    if read_manifest(Path(target)) is not None:
        rows = GradientStore.open(target, verify=False).settings.get("pool", "")
        return str(_content(rows)) if CONTENT.search(str(rows)) else None
    from spicerack.data.records import load_pool

    return load_pool(str(target), target_section(config)).fingerprint()[:16]


def check_origins(outcomes: Iterable[Outcome], origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Find out whether the cells of a label from elsewhere were selected by one thing, the one that is read here.

    Args:
        outcomes: from elsewhere.
        origins: of this comparison, by the method's label. What one side does not tell is not compared.

    Raises:
        StoreMismatchError: by another model, other gradients, or towards another target.
    """
    known = {label: flatten(origin) for label, origin in origins.items()}
    for outcome in outcomes:
        label, before = outcome.cell.method.label, flatten(outcome.origin or {})
        now = known.setdefault(label, {})
        shared = {name: value for name, value in before.items() if None not in (value, now.get(name))}
        if other := differences(shared, {name: now[name] for name in shared}):
            raise StoreMismatchError(
                f"the cell {outcome.cell} of another comparison was selected by something else than what is read here, "
                f"or for other cells of {label!r}: {other}; give the method another label here, or leave that table "
                "out of --also"
            )
        known[label] = before | now


def _reads_directions(method: Method) -> bool:
    """Whether an option of any method has gradients read: near-duplicates, or clusters as groups."""
    options = method.options
    groups = [str(options[name]) for name in ("groups", "trim_groups") if options.get(name) is not None]
    if options.get("trim") and options.get("trim_groups") is None:
        groups.append(GROUPS)
    return options.get("dedup") is not None or any(map(count_clusters, groups))


def _told(store: GradientStore, names: Iterable[str]) -> dict[str, Any]:
    return {name: _content(store.settings.get(name, "none")) for name in names}


def _content(value: Any) -> Any:
    """A setting without the name of the file or folder whose content it tells."""
    found = CONTENT.search(value) if isinstance(value, str) else None
    return found[1] if found else value
