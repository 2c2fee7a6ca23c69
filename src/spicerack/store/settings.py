"""Settings of what lies in a folder beside those asked for: which differ, each with both values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, so that `projection.seed` can be named alone."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{within}.{key}" if within else str(key)
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> str:
    """Every setting that differs, with both values; nothing where none does.

    Args:
        before: settings as a file gave them, or flat ones.
        now: those asked for.
        but: dotted names that may differ.
    """
    was, is_now = flatten(before), flatten(now)
    names = [name for name in {**was, **is_now} if name not in but and was.get(name) != is_now.get(name)]
    return "; ".join(f"{name} was {shorten(was.get(name))}, now {shorten(is_now.get(name))}" for name in names)


def shorten(value: Any, width: int = 80) -> str:
    """A value as a message shows it; of a long list the beginning, and how many there are."""
    text = str(value)
    if len(text) <= width:
        return text
    return f"{text[:width]}... ({len(value)} in all)" if isinstance(value, (list, tuple)) else f"{text[:width]}..."
