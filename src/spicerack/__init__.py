"""Pick the part of an instruction pool that is worth fine-tuning on.

    store = spicerack.collect_gradients(pool, model=..., output_dir=...)
    chosen = spicerack.select(store, method="spice", budget=0.1)
    run = spicerack.run("config.yaml")

Names are loaded when first used: importing spicerack imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spicerack.config import RunConfig as RunConfig
    from spicerack.errors import SpicerackError as SpicerackError
    from spicerack.features.collect import collect_features as collect_features
    from spicerack.pipeline import Run as Run
    from spicerack.pipeline import collect_gradients as collect_gradients
    from spicerack.pipeline import run as run
    from spicerack.selectors import methods as methods
    from spicerack.selectors import select as select
    from spicerack.selectors.base import Selection as Selection
    from spicerack.selectors.budget import TokenBudget as TokenBudget
    from spicerack.store.reader import GradientStore as GradientStore

_HOMES = {
    "GradientStore": "spicerack.store.reader",
    "Run": "spicerack.pipeline",
    "RunConfig": "spicerack.config",
    "Selection": "spicerack.selectors.base",
    "SpicerackError": "spicerack.errors",
    "TokenBudget": "spicerack.selectors.budget",
    "collect_features": "spicerack.features.collect",
    "collect_gradients": "spicerack.pipeline",
    "methods": "spicerack.selectors",
    "run": "spicerack.pipeline",
    "select": "spicerack.selectors",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spicerack' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
