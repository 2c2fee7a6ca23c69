"""Templates to text: everything that comes from data is escaped, and equal values give equal bytes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spicerack.store.files import write_atomically


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values."""
    return _environment().get_template(template).render(version=version("spicerack"), **values)


def write_page(path: Path, text: str) -> Path:
    """Write a page; it is whole or not there."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    return path
