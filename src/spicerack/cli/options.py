"""Command-line options made from the configuration: one name, one default, one help text."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spicerack.cli.repeated import read_several, takes_several
from spicerack.config import SECTIONS, read_value
from spicerack.errors import ConfigurationError

SHORT = {"model_name_or_path": "--model", "adapter_name_or_path": "--adapter", "output_dir": "--output"}
ELSEWHERE = {"pool"}  # the positional argument
METHOD_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def configured(
    *sections: str | type[BaseModel], without: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that takes `options: dict` so that it has an option for every field of `sections`.

    The dictionary holds only what the user gave: what is left out is inherited.

    Args:
        sections: names of `config.SECTIONS`, or models of options that live elsewhere.
        without: fields that the command asks for in another way.
    """
    hidden = {*ELSEWHERE, *without}
    models = {_panel(section): SECTIONS[section] if isinstance(section, str) else section for section in sections}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        first: dict[str, inspect.Parameter] = {}  # a name that two models share is asked for once
        for panel, model in models.items():
            for name, field in model.model_fields.items():
                if name not in hidden:
                    first.setdefault(name, _parameter(panel, name, field))
        added = list(first.values())
        fields = {name: field for model in models.values() for name, field in model.model_fields.items()}
        several = {name: takes_several(fields[name].annotation) for name in first}

        @functools.wraps(command)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            given = {name: value for name in first if (value := kwargs.pop(name)) not in (None, [])}
            options = {name: read_several(several[name], _flag(name), value) for name, value in given.items()}
            command(*args, options=options, **kwargs)

        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return wrapper

    return decorate


def _panel(section: str | type[BaseModel]) -> str:
    """Heading of a section's options in the help."""
    return (section if isinstance(section, str) else section.__name__.removesuffix("Config")).capitalize()


def _parameter(panel: str, name: str, field: FieldInfo) -> inspect.Parameter:
    flag = _flag(name)
    flags = [SHORT[name], flag] if name in SHORT else [flag]
    kind: Any = list[str] if takes_several(field.annotation) else _plain_type(field.annotation)
    if field.default is not None and type(None) in get_args(field.annotation):
        kind = str  # a number or `none`, which the configuration reads
    if kind is bool:
        flags = [f"{flag}/--no-{flag[2:]}"]
    shown = "" if field.default in (None, []) else f"(default: {field.default})"
    choices = " | ".join(literals(field.annotation))
    described = ": ".join(part for part in (field.description, choices) if part)
    text = " ".join(part for part in (described, shown) if part)
    option = typer.Option(*flags, help=text, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Union[kind, None], option],  # noqa: UP007
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain_type(annotation: Any) -> type:
    """The type the command line reads: the configuration checks the rest."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = {_plain_type(part) for part in get_args(annotation) if part is not type(None)}
        return inner.pop() if len(inner) == 1 else str
    return annotation if annotation in (int, float, bool) else str


def literals(annotation: Any) -> list[str]:
    """What a field may be, where it is one of a few words."""
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []


def method_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `--penalty 0.2 --no-certify --rows=unit` as options of the selection method; values are YAML.

    Raises:
        ConfigurationError: a word that is neither an option nor an option's value.
    """
    options: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigurationError(f"did not expect {word!r}; options of the method are written --name value")
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            options[name] = read_value(text, word.partition("=")[0])
        elif words and not words[0].startswith("--"):
            options[name] = read_value(words.pop(0), word)
        elif name.startswith("no_"):
            options[name.removeprefix("no_")] = False
        else:
            options[name] = True
    return options
