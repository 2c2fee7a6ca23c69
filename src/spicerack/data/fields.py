"""Reading the fields of a row: each helper takes what a format needs, or says where it is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from spicerack.errors import FormatError

Row = Mapping[str, Any]

INT32 = np.iinfo(np.int32)
OUTPUTS = ("output", "response", "completion", "answer")  # what an instruction's answer may be called
EXTRAS = ("input", "context")  # what the text beside an instruction may be called
TURNS = ("messages", "conversations", "conversation")  # what a list of turns may be called


def need(row: Row, name: str, kind: type, where: str) -> Any:
    """A field of a type.

    Raises:
        FormatError: it is missing, null, or of another type.
    """
    if row.get(name) is None:
        raise FormatError(f"{where}: field {name!r} is missing; found {found(row)}")
    value = row[name]
    if not isinstance(value, kind):
        raise FormatError(f"{where}: field {name!r} is a {type(value).__name__}; expected a {kind.__name__}")
    return value


def first_present(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of `names` that the row has and that is not null: tables have nulls for what a row does not have."""
    return next((name for name in names if row.get(name) is not None), None)


def first_filled(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of `names` under which the row has something: an empty text counts for none."""
    return next((name for name in names if row.get(name)), None)


def turns_of(row: Row, key: str, where: str) -> list[Any]:
    """A list of turns, or the JSON text of one: CSV knows no lists.

    Raises:
        FormatError: it is missing, or is neither.
    """
    turns: list[Any] = need({key: as_list(row.get(key))}, key, list, where)
    return turns


def as_list(value: Any) -> Any:
    """A list where a text is the JSON of one; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def text_of(value: Any, name: str, where: str) -> str:
    """A value that must be a text.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(value, str):
        raise FormatError(f"{where}: {name} is a {type(value).__name__}; expected a text")
    return value


def turn_of(turn: Any, fields: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """A turn of a conversation, with at least the first of `fields`.

    Raises:
        FormatError: it is no object, or has no such field.
    """
    if not isinstance(turn, Mapping) or turn.get(fields[0]) is None:
        what = found(turn) if isinstance(turn, Mapping) else f"a {type(turn).__name__}"
        raise FormatError(f"{where}: a turn has no {fields[0]!r}; expected {'/'.join(fields)}, found {what}")
    return turn


def system_of(row: Row, where: str) -> list[dict[str, Any]]:
    """The system message of a row with a `system` column, or nothing."""
    text = row.get("system")
    return [{"role": "system", "content": text_of(text, "system", where)}] if text else []


def history_of(row: Row, where: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's `history`: earlier questions and answers, in pairs.

    Raises:
        FormatError: it is not a list of pairs of texts.
    """
    messages: list[dict[str, Any]] = []
    for pair in need(row, "history", list, where) if row.get("history") else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError(f"{where}: history holds {str(pair)[:40]!r}; expected pairs of a question and an answer")
        messages.append({"role": "user", "content": text_of(pair[0], "a question in history", where)})
        messages.append({"role": "assistant", "content": text_of(pair[1], "an answer in history", where)})
    return messages


def tools_of(row: Row, where: str) -> list[Any] | None:
    """The tools a conversation may call: a list, or the JSON text of one, as many data sets and LLaMA-Factory have it.

    Raises:
        FormatError: it is neither.
    """
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise FormatError(f"{where}: tools is a text but not JSON: {error}") from error
    if not tools or (isinstance(tools, str) and not tools.strip()):
        return None
    if not isinstance(tools, list):
        raise FormatError(f"{where}: tools is a {type(tools).__name__}; expected a list, or the JSON text of one")
    return tools


def tokens_of(row: Row, name: str, where: str, *, ignored: int | None = None) -> list[int]:
    """A list of whole numbers from 0 up that fit into 32 bits, and of `ignored`.

    Raises:
        FormatError: another type, a fraction, a text, or a number out of range.
    """
    values: list[int] = need(row, name, list, where)
    if not all(type(value) is int for value in values):
        odd = next(value for value in values if type(value) is not int)
        raise FormatError(f"{where}: {name} has {odd!r}, a {type(odd).__name__}; expected whole numbers")
    outside = [value for value in values if not 0 <= value <= INT32.max and value != ignored]
    if outside:
        also = "" if ignored is None else f", or {ignored} where no loss is"
        raise FormatError(f"{where}: {name} has {outside[0]}; expected numbers from 0 to {INT32.max}{also}")
    return values


def clean(message: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the nulls that a table puts where a message has no such field."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def without_nulls(value: Any) -> Any:
    """Drop the nulls that a table puts into objects at every depth, so that tool calls read as they did in JSON."""
    if isinstance(value, Mapping):
        kept = {key: without_nulls(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry is not None or key == "content"}
    if isinstance(value, list) and value and isinstance(value[0], Mapping | list):
        return [without_nulls(entry) for entry in value]
    return value


def found(row: Row) -> str:
    """The fields of a row, for an error."""
    return f"the fields {', '.join(map(str, row))}" if row else "no fields"
