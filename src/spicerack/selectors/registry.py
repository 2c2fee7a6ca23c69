"""The selection methods by name: built-in ones by module path, others through the entry point group.

A package adds a method by pointing an entry point of the group `spicerack.selectors`, named like the method, at an
object with the attributes of `Selector`. Nothing is imported before its name is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from spicerack.errors import ConfigurationError, UnknownNameError
from spicerack.selectors.base import MethodOptions, Needs, Selector

GROUP = "spicerack.selectors"

BUILT_IN = {
    "bids": "spicerack.selectors.bids:BIDS",
    "dpp": "spicerack.selectors.dpp:DPP",
    "fisher": "spicerack.selectors.fisher:FISHER",
    "grad_norm": "spicerack.selectors.grad_norm:GRAD_NORM",
    "ifd": "spicerack.selectors.ifd:IFD",
    "in2core": "spicerack.selectors.in2core:IN2CORE",
    "k_center": "spicerack.selectors.k_center:K_CENTER",
    "length": "spicerack.selectors.length:LENGTH",
    "less": "spicerack.selectors.less:LESS",
    "loss": "spicerack.selectors.loss:LOSS",
    "random": "spicerack.selectors.random:RANDOM",
    "rds": "spicerack.selectors.rds:RDS",
    "selectit": "spicerack.selectors.selectit:SELECTIT",
    "spice": "spicerack.selectors.spice:SPICE",
    "tsds": "spicerack.selectors.tsds:TSDS",
    "unimax": "spicerack.selectors.unimax:UNIMAX",
}

IN_THE_LOOP = ("lead",)  # of the package `training`: they are no selectors


@dataclass(frozen=True)
class MethodInfo:
    """What `spicerack.methods()` says of a method; `options` is the pydantic model of its options."""

    name: str
    summary: str
    paper: str
    needs: Needs
    options: type[MethodOptions]


def methods() -> list[MethodInfo]:
    """Every method, built-in and installed, by name."""
    found = (get_selector(name) for name in _known())
    return [MethodInfo(s.name, s.summary, s.paper, s.needs, s.Options) for s in found]


def get_selector(name: str) -> Selector:
    """The method called `name`.

    Raises:
        UnknownNameError: no such method; names the nearest.
        ConfigurationError: an installed method that cannot be loaded, or is no selector.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast(Selector, getattr(import_module(module), attribute))
    third_party = _third_party()
    if name in IN_THE_LOOP and name not in third_party:
        raise ConfigurationError(
            f"method {name!r} keeps a model in the loop and selects from no store; use `spicerack run`, or "
            f"spicerack.training.{name}"
        )
    if name not in third_party:
        raise UnknownNameError("method", name, [*_known(), *IN_THE_LOOP])
    point = third_party[name]
    try:
        selector = point.load()
    except Exception as error:
        raise ConfigurationError(f"method {name!r} ({point.value}) cannot be loaded: {error}") from error
    missing = [
        part for part in ("name", "summary", "paper", "needs", "Options", "select") if not hasattr(selector, part)
    ]
    if missing:
        raise ConfigurationError(f"method {name!r} ({point.value}) is no selector: it lacks {', '.join(missing)}")
    return cast(Selector, selector)


def _known() -> list[str]:
    return sorted({*BUILT_IN, *_third_party()})


@cache
def _third_party() -> dict[str, EntryPoint]:
    """Installed methods; a name that is built in cannot be replaced from outside."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}
