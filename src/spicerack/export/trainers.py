"""Selected rows as a trainer reads them: one data file, and the few lines that name it to the trainer.

    trl            train.jsonl: messages, prompt and completion, text, or input_ids and labels
    llamafactory   train.jsonl and dataset_info.json, to be named as dataset_dir
    axolotl        train.jsonl and axolotl.yaml, the section `datasets` of a configuration

Rows become what they mean (`data.formats`), so that alpaca, sharegpt and messages pools all end as conversations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import yaml

from spicerack.data.formats import Chat, Completion, Sample, Text
from spicerack.errors import DataError, FormatError, UnknownNameError
from spicerack.store.files import write_atomically, write_json

if TYPE_CHECKING:
    from spicerack.data.records import Pool

Trainer = Literal["trl", "llamafactory", "axolotl"]
TRAINERS = ("trl", "llamafactory", "axolotl")
DATA_FILE = "train.jsonl"
DATASET = "spicerack"


def export_rows(trainer: str, pool: Pool, rows: Sequence[int], output_dir: Path) -> dict[str, Path]:
    """Write rows of a pool for a trainer.

    Args:
        trainer: one of `TRAINERS`.
        pool: where the rows are.
        rows: which, in the order wanted.
        output_dir: an existing folder.

    Returns:
        The files by name.

    Raises:
        UnknownNameError: no such trainer.
        FormatError: rows of one file of different kinds, or of a kind that the trainer cannot read.
    """
    if trainer not in TRAINERS:
        raise UnknownNameError("trainer", trainer, TRAINERS)
    if not len(rows):
        raise DataError(f"no row of {pool.source.name} is to be exported")
    kinds = {type(pool.sample(i)) for i in rows}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__.lower() for kind in kinds))
        raise FormatError(f"the rows of {pool.source.name} are of several kinds ({names}); export them one by one")
    kind = kinds.pop()
    tools = kind is Chat and any(_tools(pool.sample(i)) for i in rows)
    convert, describe = _writers(trainer, kind, pool, tools=tools)
    paths = {DATA_FILE: output_dir / DATA_FILE}
    write_atomically(paths[DATA_FILE], lambda file: _write_lines(file, (convert(pool.sample(i)) for i in rows)))
    if describe is not None:
        name = "dataset_info.json" if trainer == "llamafactory" else "axolotl.yaml"
        paths[name] = output_dir / name
        if trainer == "llamafactory":
            write_json(paths[name], describe)
        else:
            text = yaml.safe_dump(describe, sort_keys=False)
            write_atomically(paths[name], lambda file: file.write(text.encode()))
    return paths


def _writers(
    trainer: str, kind: type, pool: Pool, *, tools: bool
) -> tuple[Callable[[Any], dict[str, Any]], dict[str, Any] | None]:
    """How a sample is written, and what describes the file."""
    if trainer == "trl":
        return _for_trl, None
    if trainer == "llamafactory":
        if kind is Chat:
            return _for_llamafactory, _sharegpt(tools)
        if kind is Completion:
            columns = {"prompt": "prompt", "response": "completion"}
            return _prompt_completion, {DATASET: {"file_name": DATA_FILE, "formatting": "alpaca", "columns": columns}}
        if kind is Text:
            return _text, {DATASET: {"file_name": DATA_FILE, "columns": {"prompt": "text"}}}
    if trainer == "axolotl":
        entry: dict[str, Any] = {"path": DATA_FILE, "ds_type": "json"}
        if kind is Chat:
            entry |= {"type": "chat_template", "field_messages": "messages"}
            entry |= {"message_property_mappings": {"role": "role", "content": "content"}}
            entry |= {"message_field_training": "training", "roles_to_train": ["assistant"], "train_on_eos": "turn"}
            return _for_axolotl, {"datasets": [entry]}
        if kind is Completion:
            return _segments, {"datasets": [entry | {"type": "input_output"}]}
        if kind is Text:
            return _text, {"datasets": [entry | {"type": "completion", "field": "text"}]}
    raise FormatError(f"{trainer} reads no tokens with labels, which {pool.source.name} holds; export for trl")


def _for_trl(sample: Sample) -> dict[str, Any]:
    if isinstance(sample, Chat):
        tools = {"tools": sample.tools} if sample.tools else {}
        messages = list(sample.messages)
        if sample.context:
            return {"prompt": messages[: sample.context], "completion": messages[sample.context :], **tools}
        return {"messages": messages, **tools}
    if isinstance(sample, Completion):
        return _prompt_completion(sample)
    if isinstance(sample, Text):
        return _text(sample)
    return {"input_ids": [int(i) for i in sample.input_ids], "labels": [int(i) for i in sample.labels]}


def _for_llamafactory(sample: Chat) -> dict[str, Any]:
    """Messages with tools as a JSON text; a loss on later turns alone cannot be told."""
    if sample.context:
        raise FormatError("llamafactory cannot leave earlier assistant turns without a loss; export for trl or axolotl")
    row: dict[str, Any] = {"messages": [_plain_turn(turn) for turn in sample.messages]}
    return row | {"tools": json.dumps(sample.tools, ensure_ascii=False)} if sample.tools else row


def _for_axolotl(sample: Chat) -> dict[str, Any]:
    """Messages, each saying whether it is trained on."""
    trained = [
        {**turn, "training": turn["role"] == "assistant" and place >= sample.context}
        for place, turn in enumerate(sample.messages)
    ]
    return {"messages": trained, "tools": sample.tools} if sample.tools else {"messages": trained}


def _plain_turn(turn: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(turn.get("content"), str) or turn.keys() - {"role", "content"}:
        raise FormatError(
            f"a turn has the keys {', '.join(turn)}; llamafactory reads role and content alone: export for trl"
        )
    return turn


def _prompt_completion(sample: Completion) -> dict[str, Any]:
    return {"prompt": sample.prompt, "completion": sample.completion}


def _segments(sample: Completion) -> dict[str, Any]:
    """Axolotl's template-free form: which stretches carry a loss."""
    return {"segments": [{"label": False, "text": sample.prompt}, {"label": True, "text": sample.completion}]}


def _text(sample: Text) -> dict[str, Any]:
    return {"text": sample.text}


def _tools(sample: Sample) -> bool:
    return isinstance(sample, Chat) and bool(sample.tools)


def _sharegpt(tools: bool) -> dict[str, Any]:
    columns = {"messages": "messages", **({"tools": "tools"} if tools else {})}
    tags = {
        **{"role_tag": "role", "content_tag": "content"},
        **{"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"},
        **({"observation_tag": "tool"} if tools else {}),
    }
    return {DATASET: {"file_name": DATA_FILE, "formatting": "sharegpt", "columns": columns, "tags": tags}}


def _write_lines(file: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
