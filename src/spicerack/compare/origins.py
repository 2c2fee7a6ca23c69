"""What picks depend on beside method, budget and seed: whose gradients were read, and which target.

Both are told apart by content, so that two machines agree on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spicerack.compare.inputs import own_needs, reads_target, target_section
from spicerack.errors import StoreMismatchError
from spicerack.store.layout import read_manifest
from spicerack.store.reader import GradientStore
from spicerack.store.settings import differences, flatten

if TYPE_CHECKING:
    from spicerack.compare.outcomes import Outcome
    from spicerack.compare.plan import Method
    from spicerack.config import RunConfig

OF_THE_GRADIENTS = ("model", "label_rule", "parameters", "projection", "reduction", "optimizer_state")
CONTENT = re.compile(r"\((?:weights|content) ([0-9a-f]+)\)")


def origin_of(method: Method, store: GradientStore | None, target: str | None) -> dict[str, Any]:
    """Settings of the gradients that a method reads, and the target's content where it reads one.

    Args:
        method: no control reads anything.
        store: of the pool; None: it is not known which.
        target: what `target_content` says.
    """
    needs, found = own_needs(method), {}
    if needs is not None and needs.gradients and store is not None:
        found = {name: _content(store.settings[name]) for name in OF_THE_GRADIENTS if name in store.settings}
    return found | ({"target": target} if reads_target(method) else {})


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
    """Find out whether cells from elsewhere were selected by what this comparison reads.

    Args:
        outcomes: from elsewhere.
        origins: of this comparison, by the method's label. What one side does not know is not compared.

    Raises:
        StoreMismatchError: by other gradients, or towards another target.
    """
    for outcome in outcomes:
        before = flatten(outcome.origin or {})
        now = flatten(origins.get(outcome.cell.method.label, {}))
        shared = {name: value for name, value in before.items() if None not in (value, now.get(name))}
        if other := differences(shared, {name: now[name] for name in shared}):
            raise StoreMismatchError(
                f"the cell {outcome.cell} of another comparison was selected by something else than what is read here: "
                f"{other}; give the method another label here, or leave that table out of --also"
            )


def _content(value: Any) -> Any:
    """A setting without the name of the file or folder whose content it tells."""
    found = CONTENT.search(value) if isinstance(value, str) else None
    return found[1] if found else value
