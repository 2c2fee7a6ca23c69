"""What a row means: a conversation, a prompt with its completion, a text, or tokens with labels.

Each format knows the fields it needs and turns a row into a `Sample`. Rows are never changed; the conversion is for
the labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from spicerack.errors import FormatError, UnknownNameError

Row = Mapping[str, Any]

DETECTION_ROWS = 100
OUTPUTS = ("output", "response", "completion", "answer")
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "model", "function_call"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response", "function"), "tool"),
}


@dataclass(frozen=True)
class Chat:
    """Messages as OpenAI has them: role, content, and whatever else a template reads (tool calls, names)."""

    messages: tuple[dict[str, Any], ...]
    tools: list[Any] | None = None


@dataclass(frozen=True)
class Completion:
    """A prompt and what follows it, without a chat template."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """A text, all of it trained on."""

    text: str


@dataclass(frozen=True)
class Tokenized:
    """Tokens with labels of the same length, -100 where no loss is."""

    input_ids: Sequence[int]
    labels: Sequence[int]


Sample = Chat | Completion | Text | Tokenized


@dataclass(frozen=True)
class Format:
    """A way of writing samples: when a row looks like it, and how it is read."""

    name: str
    fields: str
    recognizes: Callable[[Row], str | None]
    convert: Callable[[Row, str], Sample]


@dataclass(frozen=True)
class Detection:
    """The format that `auto` settled on, and why."""

    format: str
    reason: str


def convert_row(row: Row, name: str, *, where: str) -> Sample:
    """Read a row as a format.

    Args:
        row: the row.
        name: a key of `FORMATS`.
        where: the row's place, for the error.

    Raises:
        UnknownNameError: no such format.
        FormatError: a field is missing or of another type.
    """
    return get_format(name).convert(row, where)


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        UnknownNameError: there is none; the nearest is named.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, [*FORMATS, "auto"])
    return FORMATS[name]


def detect_format(rows: Sequence[Row] | Any, name: str) -> Detection:
    """The first format that recognizes every one of the first hundred rows.

    Args:
        rows: the pool's rows.
        name: the pool's name, for the error.

    Raises:
        FormatError: none does; the fields found and those wanted are listed.
    """
    sample = [rows[i] for i in islice(range(len(rows)), DETECTION_ROWS)]
    for candidate in FORMATS.values():
        reasons = [candidate.recognizes(row) for row in sample]
        if all(reasons):
            return Detection(candidate.name, f"the first {len(sample)} rows have {reasons[0]}")
    wanted = "; ".join(f"{f.name}: {f.fields}" for f in FORMATS.values())
    raise FormatError(f"cannot tell the format of {name}: its rows have {_fields(sample[0])}. Expected {wanted}")


# --- the formats ------------------------------------------------------------------------------------------------------


def _tokenized(row: Row, where: str) -> Sample:
    ids, labels = _need(row, "input_ids", list, where), _need(row, "labels", list, where)
    if len(ids) != len(labels):
        raise FormatError(f"{where}: {len(ids)} input_ids but {len(labels)} labels; expected as many")
    mask = row.get("attention_mask")
    if mask is not None and not all(mask):
        raise FormatError(f"{where}: attention_mask has zeros; give rows without padding")
    return Tokenized(ids, labels)


def _messages(row: Row, where: str) -> Sample:
    key = "messages" if "messages" in row else "conversations"
    turns = _need(row, key, list, where)
    messages = tuple(_clean(_turn(turn, ("role", "content"), where)) for turn in turns)
    for message in messages:
        if message.get("content") is None and not message.get("tool_calls"):
            raise FormatError(f"{where}: a message has neither content nor tool_calls; found {_fields(message)}")
    return Chat(messages, row.get("tools"))


def _sharegpt(row: Row, where: str) -> Sample:
    turns = _need(row, "conversations" if "conversations" in row else "conversation", list, where)
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for turn in turns:
        named = _turn(turn, ("from", "value"), where)
        role = ROLES.get(str(named["from"]).lower())
        if role is None:
            raise FormatError(f"{where}: unknown speaker {named['from']!r}; expected one of {', '.join(ROLES)}")
        messages.append({"role": role, "content": _text(named["value"], "value", where)})
    return Chat(tuple(messages), row.get("tools") or None)


def _alpaca(row: Row, where: str) -> Sample:
    instruction = _need(row, "instruction", str, where)
    output = next((name for name in OUTPUTS if name in row), None)
    if output is None:
        raise FormatError(f"{where}: no {' or '.join(OUTPUTS)}; found {_fields(row)}")
    answer = _need(row, output, str, where)
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for asked, answered in row.get("history") or []:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    extra = row.get("input") or ""
    question = f"{instruction}\n\n{_text(extra, 'input', where)}" if extra else instruction
    return Chat((*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def _completion(row: Row, where: str) -> Sample:
    answer = "completion" if "completion" in row else "response"
    prompt, completion = row.get("prompt"), row.get(answer)
    if isinstance(prompt, list) and isinstance(completion, list):
        return _messages({"messages": [*prompt, *completion], "tools": row.get("tools")}, where)
    return Completion(_need(row, "prompt", str, where), _need(row, answer, str, where))


def _plain_text(row: Row, where: str) -> Sample:
    return Text(_need(row, "text", str, where))


def _has(*names: str | tuple[str, ...]) -> Callable[[Row], str | None]:
    """Recognize rows that have a field of every name, or of one of several."""

    def recognize(row: Row) -> str | None:
        found = []
        for name in names:
            options = (name,) if isinstance(name, str) else name
            hit = next((option for option in options if row.get(option) is not None), None)
            if hit is None:
                return None
            found.append(hit)
        return f"the fields {', '.join(found)}"

    return recognize


def _has_turns(keys: tuple[str, ...], *fields: str) -> Callable[[Row], str | None]:
    """Recognize rows with a list of turns under one of `keys`, each turn with `fields`."""

    def recognize(row: Row) -> str | None:
        for key in keys:
            turns = row.get(key)
            if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and set(fields) <= set(turns[0]):
                return f"{key} of {'/'.join(fields)}"
        return None

    return recognize


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("tokenized", "input_ids, labels", _has("input_ids", "labels"), _tokenized),
        Format("messages", "messages of role/content", _has_turns(("messages", "conversations"), "role"), _messages),
        Format(
            "sharegpt",
            "conversations of from/value",
            _has_turns(("conversations", "conversation"), "from", "value"),
            _sharegpt,
        ),
        Format("alpaca", f"instruction, {' | '.join(OUTPUTS)}", _has("instruction", OUTPUTS), _alpaca),
        Format("completion", "prompt, completion | response", _has("prompt", ("completion", "response")), _completion),
        Format("text", "text", _has("text"), _plain_text),
    )
}


# --- reading fields ---------------------------------------------------------------------------------------------------


def _need(row: Row, name: str, kind: type, where: str) -> Any:
    if row.get(name) is None:
        raise FormatError(f"{where}: field {name!r} is missing; found {_fields(row)}")
    value = row[name]
    if not isinstance(value, kind):
        raise FormatError(f"{where}: field {name!r} is a {type(value).__name__}; expected a {kind.__name__}")
    return value


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: {name} is a {type(value).__name__}; expected a text")
    return value


def _turn(turn: Any, fields: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(turn, Mapping) or turn.get(fields[0]) is None:
        found = _fields(turn) if isinstance(turn, Mapping) else f"a {type(turn).__name__}"
        raise FormatError(f"{where}: a turn has no {fields[0]!r}; expected {'/'.join(fields)}, found {found}")
    return turn


def _clean(message: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the nulls that a table puts where a message has no such field."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def _fields(row: Mapping[str, Any]) -> str:
    return f"the fields {', '.join(map(str, row))}" if row else "no fields"
