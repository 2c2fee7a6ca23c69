"""Batch sizes found on this machine, kept in the user's cache folder so that the next pass need not look for them.

One JSON file, `spicerack/batch.json` in the folder that XDG_CACHE_HOME names, else in ~/.cache. Losing it costs a
probe; whatever is wrong with it is said and never stops a pass.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spicerack.config import Choice
from spicerack.errors import OutputError
from spicerack.store.files import write_json

VERSION = 4


@dataclass(frozen=True)
class Answer:
    """What was found: tokens of a batch, the longest sample that it was found for, and why it is that many.

    An answer holds for every pool whose samples are no longer.
    """

    tokens_per_batch: int
    longest: int
    reason: str


def cache_path() -> Path:
    """Where the answers are: XDG_CACHE_HOME, else ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "spicerack" / "batch.json"


class Remembered:
    """The answers in the cache file. Both methods give a Choice where something is wrong with it, else None.

    A question keeps its answers for shorter samples when one for longer ones is found, and `get` takes the one for the
    shortest that holds: a pool's answer stays what it was, so that the same pass gives the same bytes again.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Use a file, by default the user's."""
        self.path = path or cache_path()

    def get(self, question: Mapping[str, Any], longest: int) -> tuple[Answer | None, Choice | None]:
        """The answer to a question, if it was asked before.

        Args:
            question: all that the answer depends on, as JSON: model, dtype, device, tracked parameters, dimension.
            longest: tokens of the longest sample.
        """
        answers, trouble = self._read()
        return next((answer for answer in answers.get(_key(question), []) if answer.longest >= longest), None), trouble

    def put(self, question: Mapping[str, Any], answer: Answer) -> Choice | None:
        """Keep an answer; of two for equally long samples, and of two processes that write at once, the last stays."""
        answers, _ = self._read()
        others = [kept for kept in answers.get(_key(question), []) if kept.longest != answer.longest]
        answers[_key(question)] = sorted([*others, answer], key=lambda kept: kept.longest)
        value = {"version": VERSION, "answers": {key: [*map(asdict, kept)] for key, kept in answers.items()}}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, value)
        except (OSError, OutputError) as error:
            return Choice("batch_cache", "not written", f"{error}; the batch size will be looked for again")
        return None

    def _read(self) -> tuple[dict[str, list[Answer]], Choice | None]:
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
            if value["version"] != VERSION:
                return {}, None  # of another release: written anew
            return {key: [_answer(**one) for one in kept] for key, kept in value["answers"].items()}, None
        except FileNotFoundError:
            return {}, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{self.path} cannot be read ({type(error).__name__}: {error}); it will be written anew"
            return {}, Choice("batch_cache", "ignored", reason)


def _answer(tokens_per_batch: int, longest: int, reason: str) -> Answer:
    """An answer from a file that anyone may have edited."""
    if not (isinstance(tokens_per_batch, int) and isinstance(longest, int) and min(tokens_per_batch, longest) >= 1):
        raise ValueError(f"tokens_per_batch {tokens_per_batch!r}, longest {longest!r}; expected positive integers")
    return Answer(tokens_per_batch, longest, str(reason))


def _key(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
