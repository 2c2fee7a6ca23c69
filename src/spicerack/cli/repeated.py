"""Options that may be given several times: `--target math=a.jsonl --target shell=b.jsonl`, `--exclude row:3`."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from spicerack.errors import ConfigurationError

ROW = "row:"
OF_GROUPS = "--quotas"  # whose names may hold a slash or an equals sign; its values are ranges, which hold neither
FILE = "@"


def takes_several(annotation: Any) -> type | None:
    """`dict` or `list` where a field's annotation holds one, else None."""
    origin = get_origin(annotation)
    if origin in (dict, list):
        return dict if origin is dict else list
    if origin is Annotated:
        return takes_several(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return next((kind for part in get_args(annotation) if (kind := takes_several(part))), None)
    return None


def read_several(kind: type | None, option: str, words: Any) -> Any:
    """What was given for an option, as its field takes it; options that are given once stay as they are."""
    if option == OF_GROUPS:
        return _read_quotas(option, words)
    if kind is dict:
        return _read_named(option, words)
    return _read_rows(option, words) if kind is list else words


def _read_named(option: str, words: Sequence[str]) -> str | dict[str, str]:
    """`NAME=VALUE` each; one value without a name stands alone, of several the name is the file's."""
    named: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            if len(words) == 1:
                return word
            name, value = Path(word).stem, word
        if name in named:
            raise ConfigurationError(f"{option} has two values named {name!r}; give each a name of its own, NAME=VALUE")
        named[name] = value
    return named


def _read_quotas(option: str, words: Sequence[str]) -> str | dict[str, str]:
    """`GROUP=RANGE` each, cut at the last equals sign; one word without any stands alone."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    named: dict[str, str] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if not equals:
            raise ConfigurationError(f"{option} has {word!r}; expected GROUP=RANGE, as in shell=..30%")
        if name in named:
            raise ConfigurationError(f"{option} has two ranges of {name!r}; give one")
        named[name] = value
    return named


def _read_rows(option: str, words: Sequence[str]) -> list[int | str]:
    """Sample ids and row numbers, from the line and from files with one a line."""
    found: list[int | str] = []
    for word in words:
        found += [_row(option, item) for item in (_lines(option, word) if word.startswith(FILE) else [word])]
    return found


def _lines(option: str, word: str) -> list[str]:
    try:
        text = Path(word[len(FILE) :]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} cannot read {word[len(FILE) :]}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _row(option: str, word: str) -> int | str:
    if not word.startswith(ROW):
        return word
    try:
        return int(word[len(ROW) :])
    except ValueError:
        raise ConfigurationError(f"{option} has {word!r}; expected a sample id, or {ROW}NUMBER") from None
