"""Tokens and labels of a sample: which tokens carry loss.

Labels stand at the tokens themselves, -100 elsewhere, as in Hugging Face's models (which shift them); the first token
is never predicted. Chat data: loss on the assistant's turns, end-of-turn tokens included. Prompt and completion: on
the completion and the end token. Text: on all of it and the end token. Tokens are told by where they stand, never by
their id, so a pad token that is the end token too does no harm.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import LabelConfig
from spicerack.data.formats import Chat, Completion, Sample, Tokenized
from spicerack.data.turns import TODAY, ConversationRenderer, asks_the_date, end_of_turn_tokens
from spicerack.data.unicode import writable
from spicerack.errors import DataError, FormatError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from spicerack.data.records import Pool

IGNORED = -100
MOST_OF_AN_END = 8  # trained tokens of a response that may be empty
LABEL_VERSION = 4  # raised when equal settings would give other labels

Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """A sample as the model sees it: input_ids and labels (t,) int32, and what was lost on the way."""

    input_ids: np.ndarray
    labels: np.ndarray
    cut_tokens: int
    missing_end_of_turn: bool

    @property
    def trained_tokens(self) -> int:
        """Tokens with a loss."""
        return int((self.labels[1:] != IGNORED).sum())

    @property
    def largest_id(self) -> int:
        """The largest id among the tokens and the labels with a loss, -1 where there is no token."""
        return int(max(self.input_ids.max(initial=-1), self.labels[1:].max(initial=-1)))


class Labeler:
    """The label rule: samples to tokens and labels, for one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, config: LabelConfig, *, chat_template: str | None = None
    ) -> None:
        """Prepare the rule.

        Args:
            tokenizer: may be None for tokenized pools.
            config: which tokens carry loss.
            chat_template: a Jinja file or its text, instead of the tokenizer's template.
        """
        self.tokenizer = tokenizer
        self.config = config
        self._template = _read_template(chat_template)
        self._renderer = ConversationRenderer(tokenizer, self._template) if tokenizer is not None else None
        self._end_ids: set[int] = set()
        if tokenizer is not None:
            self._end_ids = {int(tokenizer.convert_tokens_to_ids(token)) for token in end_of_turn_tokens(tokenizer)}

    def encode(self, sample: Sample, *, where: str) -> Encoded:
        """Tokens and labels of a sample, cut to `max_length` from the start.

        Args:
            sample: what the row means.
            where: the row's place, for errors.

        Raises:
            DataError: chat data without a chat template, text without a tokenizer, or a template that cannot be
            followed.
        """
        if isinstance(sample, Tokenized):
            ids = np.asarray(sample.input_ids, dtype=np.int32)
            labels = np.asarray(sample.labels, dtype=np.int32)
        elif self.tokenizer is None:
            raise DataError(f"{where}: a tokenizer is needed for this format; give tokenizer= with a loaded model")
        elif isinstance(sample, Chat):
            ids, labels = self._chat(sample if self.config.completion_only_loss else replace(sample, context=0), where)
        elif isinstance(sample, Completion):
            start = len(sample.prompt) if self.config.completion_only_loss else 0
            ids, labels = self._ended(writable(sample.prompt + sample.completion, where), start)
        else:
            ids, labels = self._ended(writable(sample.text, where), 0)
        kept = slice(self.config.max_length)
        cut = max(0, len(ids) - self.config.max_length)
        return Encoded(ids[kept], labels[kept], cut, not self._ends_a_turn(ids[kept], labels[kept]))

    def rule(self) -> str:
        """The label rule as settings name it: the options that are not the defaults, the template, and its hash."""
        stated = self.config.model_dump(exclude_defaults=True)
        parts = [f"{name}={value}" for name, value in stated.items()] or ["default options"]
        if self._renderer is not None and self._renderer.template:
            digest = hashlib.sha256(str(self._renderer.template).encode()).hexdigest()
            parts.append(f"template {digest[:8]}")
        return f"{', '.join(parts)} (rule {self.rule_hash()[:16]})"

    def rule_hash(self) -> str:
        """SHA-256 of what fixes the labels: options, template and date, the tokenizer's size and special tokens."""
        tokenizer = self.tokenizer
        content: dict[str, Any] = {"version": LABEL_VERSION, "config": self.config.model_dump()}
        if tokenizer is not None and self._renderer is not None:
            special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
            content |= {"template": self._renderer.template, "size": len(tokenizer), "special": special}
            content |= {"today": TODAY.date().isoformat()} if asks_the_date(self._renderer.template) else {}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def says_nothing(self, encoded: Encoded) -> bool:
        """Whether the trained tokens are ends of turns and white space alone: an empty response."""
        if self.tokenizer is None or not 0 < encoded.trained_tokens <= MOST_OF_AN_END:
            return False
        ids = encoded.input_ids[1:][encoded.labels[1:] != IGNORED].tolist()
        return all(i in self._end_ids or not self.tokenizer.decode([i]).strip() for i in ids)

    def _ends_a_turn(self, ids: np.ndarray, labels: np.ndarray) -> bool:
        """Whether the last trained token ends a turn, but for the space that the template puts behind it.

        True where there is nothing to tell by: no trained token, or no tokenizer.
        """
        trained = ids[labels != IGNORED]
        if self.tokenizer is None or not self._end_ids or len(trained) == 0:
            return True
        for token in map(int, trained[::-1]):
            if token in self._end_ids:
                return True
            if self.tokenizer.decode([token]).strip():
                return False
        return False

    def _chat(self, chat: Chat, where: str) -> tuple[np.ndarray, np.ndarray]:
        assert self._renderer is not None
        if not self._renderer.template:
            raise DataError(
                f"{where}: chat data, but the tokenizer has no chat template; give a Jinja file with chat_template "
                "(--chat-template FILE)"
            )
        if not chat.messages:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        try:
            text = self._renderer.render(chat.messages, chat.tools)
        except Exception as error:  # templates raise what they like
            raise FormatError(f"{where}: the chat template refuses the conversation: {first_line(error)}") from error
        writable(text, where)
        if not self.config.assistant_only_loss:
            spans = [(0, len(text))]
        elif self._renderer.marks_generation(chat.tools):
            return self._by_markers(chat, text, where)
        else:
            spans = self._spans(chat, text, where)
        return self._tokens(text, spans, special=False)

    def _spans(self, chat: Chat, text: str, where: str) -> list[Span]:
        assert self._renderer is not None
        turns = self._renderer.turns(chat, text, where)
        if self.config.turns == "last":
            turns = turns[-1:]
        keep_suffix = self.config.train_on_turn_suffix
        return [(t.start, t.stop if keep_suffix or t.end_of_turn is None else t.end_of_turn) for t in turns]

    def _begins(self, chat: Chat, text: str, where: str) -> int:
        """The character at which loss may begin: that of the last turn, or of the first one behind the context."""
        assert self._renderer is not None
        replies = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if self.config.turns == "last":
            replies = replies[-1:]
        elif not any(i < chat.context for i in replies):
            return 0
        replies = [i for i in replies if i >= chat.context]
        return self._renderer.start(chat, text, replies[0], where) if replies else len(text)

    def _by_markers(self, chat: Chat, text: str, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Let the template's own `{% generation %}` markers decide, as TRL does."""
        assert self.tokenizer is not None
        assert self._renderer is not None
        encoded = self.tokenizer.apply_chat_template(
            list(chat.messages),
            tools=chat.tools,
            chat_template=self._renderer.template_for(chat.tools),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        mask = np.asarray(encoded["assistant_masks"], dtype=bool)
        if start := self._begins(chat, text, where):
            mask &= self._tokens(text, [(start, len(text))], special=False)[1] != IGNORED
        return ids, np.where(mask, ids, IGNORED).astype(np.int32)

    def _ended(self, text: str, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Text with the tokenizer's own special tokens and one end token, loss from character `start` on."""
        assert self.tokenizer is not None
        ids, labels = self._tokens(text, [(start, len(text))], special=True)
        end = self.tokenizer.eos_token_id
        if end is not None and (len(ids) == 0 or ids[-1] != end):
            ids, labels = np.append(ids, np.int32(end)), np.append(labels, np.int32(end))
        elif end is not None:
            labels[-1] = end
        return ids, labels

    def _tokens(self, text: str, spans: Sequence[Span], *, special: bool) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize once; a token carries loss if it overlaps a span."""
        assert self.tokenizer is not None
        if not self.tokenizer.is_fast:
            return self._by_segments(text, spans, special=special)
        encoded = self.tokenizer(
            text, add_special_tokens=special, return_offsets_mapping=True, truncation=False, verbose=False
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        trained = np.zeros(len(ids), dtype=bool)
        for start, stop in spans:
            trained |= (offsets[:, 1] > start) & (offsets[:, 0] < stop)
        return ids, np.where(trained, ids, IGNORED).astype(np.int32)

    def _by_segments(self, text: str, spans: Sequence[Span], *, special: bool) -> tuple[np.ndarray, np.ndarray]:
        """A tokenizer that does not say where its tokens stand: the pieces between the spans' borders, one by one."""
        assert self.tokenizer is not None
        borders = sorted({0, len(text), *(place for span in spans for place in span)})
        ids: list[int] = []
        labels: list[int] = []
        for start, stop in itertools.pairwise(borders):
            piece = self.tokenizer(text[start:stop], add_special_tokens=special and start == 0)["input_ids"]
            inside = any(low <= start and stop <= high for low, high in spans)
            ids += piece
            labels += piece if inside else [IGNORED] * len(piece)
        return np.asarray(ids, dtype=np.int32), np.asarray(labels, dtype=np.int32)


def nothing_to_train(pool: Pool, cut: int, config: LabelConfig) -> DataError:
    """The error where not one row has a trained token, `cut` of them for want of room."""
    what = f"no row of {pool.source.name} has a trained token (format {pool.format})"
    if cut:
        return DataError(
            f"{what}: {cut:,} of {len(pool):,} rows were cut to max_length={config.max_length} tokens, before or at "
            "their answers; raise it (--max-length)"
        )
    return DataError(f"{what}; expected assistant turns or completions")


def _read_template(template: str | None) -> str | None:
    """A Jinja file's text, or the text itself.

    Raises:
        DataError: it looks like a path and there is no such file.
    """
    if template is None or "{" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise DataError(f"no such chat template: {template}; expected a Jinja file or its text")
    return path.read_text(encoding="utf-8")
