"""What a row means: a conversation, a prompt with its completion, a text, or tokens with labels.

Each format knows the fields it needs and turns a row into a `Sample`. Rows are never changed; the conversion is for
the labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from spicerack.data.fields import (
    EXTRAS,
    OUTPUTS,
    Row,
    as_list,
    clean,
    first_filled,
    first_present,
    found,
    history_of,
    need,
    system_of,
    text_of,
    tokens_of,
    tools_of,
    turn_of,
    turns_of,
)
from spicerack.errors import FormatError, UnknownNameError

if TYPE_CHECKING:
    from spicerack.data.sources import Source

DETECTION_ROWS = 100
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "model", "function_call"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response", "function"), "tool"),
}


@dataclass(frozen=True)
class Chat:
    """Messages as OpenAI has them: role, content, and whatever else a template reads (tool calls, names).

    The first `context` messages are a prompt: their assistant turns carry no loss.
    """

    messages: tuple[dict[str, Any], ...]
    tools: list[Any] | None = None
    context: int = 0


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
    """A way of writing samples: what of it a row has (nothing where it is of another), and how the row is read."""

    name: str
    fields: str
    recognizes: Callable[[Row], tuple[str, ...]]
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


def detect_format(source: Source) -> Detection:
    """The first format that recognizes every one of the first hundred rows.

    Args:
        source: the pool's rows.

    Raises:
        FormatError: none does; the first row that is unlike the others, or the fields found and those wanted, are
            named.
    """
    sample = [source[i] for i in islice(range(len(source)), DETECTION_ROWS)]
    likely: list[tuple[int, Format]] = []
    for candidate in FORMATS.values():
        hits = [candidate.recognizes(row) for row in sample]
        if all(hits):
            read = ", ".join(dict.fromkeys(chain.from_iterable(hits)))
            return Detection(candidate.name, f"the first {len(sample)} rows have the fields {read}")
        if any(hits):
            likely.append((hits.index(()), candidate))
    if likely:
        odd, candidate = max(likely, key=lambda pair: pair[0])
        raise FormatError(
            f"cannot tell the format of {source.name}: other rows are of the format {candidate.name} "
            f"({candidate.fields}), but {source.where(odd)} has {found(sample[odd])}, or an empty one; "
            f"mend the row, or state the format (--format {candidate.name})"
        )
    wanted = "; ".join(f"{f.name}: {f.fields}" for f in FORMATS.values())
    raise FormatError(f"cannot tell the format of {source.name}: its rows have {found(sample[0])}. Expected {wanted}")


# --- the formats ------------------------------------------------------------------------------------------------------


def _tokenized(row: Row, where: str) -> Sample:
    ids = tokens_of(row, "input_ids", where)
    labels = tokens_of(row, "labels", where, ignored=-100)
    if len(ids) != len(labels):
        raise FormatError(f"{where}: {len(ids)} input_ids but {len(labels)} labels; expected as many")
    mask = row.get("attention_mask")
    if mask is not None and not all(mask):
        raise FormatError(f"{where}: attention_mask has zeros; give rows without padding")
    return Tokenized(ids, labels)


def _messages(row: Row, where: str) -> Chat:
    key = first_present(row, ("messages", "conversations")) or "messages"
    messages = tuple(clean(turn_of(turn, ("role", "content"), where)) for turn in turns_of(row, key, where))
    for message in messages:
        if message.get("content") is None and not message.get("tool_calls"):
            raise FormatError(f"{where}: a message has neither content nor tool_calls; found {found(message)}")
    return Chat(messages, tools_of(row, where))


def _sharegpt(row: Row, where: str) -> Sample:
    key = first_present(row, ("conversations", "conversation")) or "conversations"
    messages = system_of(row, where)
    for turn in turns_of(row, key, where):
        named = turn_of(turn, ("from", "value"), where)
        role = ROLES.get(str(named["from"]).lower())
        if role is None:
            raise FormatError(f"{where}: unknown speaker {named['from']!r}; expected one of {', '.join(ROLES)}")
        messages.append({"role": role, "content": text_of(named.get("value"), "value", where)})
    return Chat(tuple(messages), tools_of(row, where))


def _alpaca(row: Row, where: str) -> Sample:
    instruction = need(row, "instruction", str, where)
    output = first_present(row, OUTPUTS)
    if output is None:
        raise FormatError(f"{where}: no {' or '.join(OUTPUTS)}; found {found(row)}")
    beside = first_filled(row, EXTRAS)
    extra = text_of(row[beside], beside, where) if beside else ""
    question = {"role": "user", "content": f"{instruction}\n\n{extra}" if extra else instruction}
    answer = {"role": "assistant", "content": need(row, output, str, where)}
    return Chat((*system_of(row, where), *history_of(row, where), question, answer))


def _completion(row: Row, where: str) -> Sample:
    answer = first_present(row, ("completion", "response")) or "response"
    prompt, completion = row.get("prompt"), row.get(answer)
    if isinstance(prompt, list) and isinstance(completion, list):
        chat = _messages({"messages": [*prompt, *completion], "tools": row.get("tools")}, where)
        return replace(chat, context=len(prompt))
    return Completion(need(row, "prompt", str, where), need(row, answer, str, where))


def _plain_text(row: Row, where: str) -> Sample:
    return Text(need(row, "text", str, where))


def _has(*names: str | tuple[str, ...], also: tuple[tuple[str, ...], ...] = ()) -> Callable[[Row], tuple[str, ...]]:
    """Recognize rows that have a field of every name, or of one of several; those of `also` are read where given."""

    def recognize(row: Row) -> tuple[str, ...]:
        needed = [first_present(row, (name,) if isinstance(name, str) else name) for name in names]
        if None in needed:
            return ()
        return tuple(filter(None, [*needed, *(first_filled(row, options) for options in also)]))

    return recognize


def _has_turns(keys: tuple[str, ...], *fields: str) -> Callable[[Row], tuple[str, ...]]:
    """Recognize rows with a list of turns under one of `keys`, each turn with `fields`."""

    def recognize(row: Row) -> tuple[str, ...]:
        for key in keys:
            turns = as_list(row.get(key))
            if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and set(fields) <= set(turns[0]):
                return (f"{key} of {'/'.join(fields)}",)
        return ()

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
        Format(
            "alpaca",
            f"instruction, {' | '.join(OUTPUTS)}, perhaps {' | '.join(EXTRAS)}",
            _has("instruction", OUTPUTS, also=(EXTRAS, ("system",), ("history",))),
            _alpaca,
        ),
        Format("completion", "prompt, completion | response", _has("prompt", ("completion", "response")), _completion),
        Format("text", "text", _has("text"), _plain_text),
    )
}
