"""Where the assistant's turns stand in a rendered conversation.

A conversation is rendered once. The span of turn i begins where the rendering of the messages before it, with the
generation prompt, ends; it ends where the rendering of the messages up to it ends. Templates that rewrite earlier
turns (Qwen3 drops their thinking blocks) break the second: then the turn ends at the first end-of-turn token after
its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spicerack.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from spicerack.data.formats import Chat


@dataclass(frozen=True)
class Turn:
    """Characters `start` to `stop` of the rendered text; the end-of-turn token ends at `end_of_turn`, or is missing."""

    start: int
    stop: int
    end_of_turn: int | None


class ConversationRenderer:
    """A tokenizer's chat template, and the tokens that end a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        """Take the tokenizer's template, or `template` instead."""
        self.tokenizer = tokenizer
        self.template = template or tokenizer.chat_template
        self.end_tokens = end_of_turn_tokens(tokenizer)

    @property
    def marks_generation(self) -> bool:
        """Whether the template says itself which part the assistant generated."""
        return isinstance(self.template, str) and "{% generation %}" in self.template.replace("{%-", "{%").replace(
            "-%}", "%}"
        )

    def render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, up to where the assistant would go on."""
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tools=tools, chat_template=self.template, tokenize=False, add_generation_prompt=prompt
        )
        return text

    def turns(self, chat: Chat, text: str, where: str) -> list[Turn]:
        """The assistant's turns in the rendered text, in order.

        Raises:
            DataError: the start of a turn cannot be found.
        """
        found = []
        for i, message in enumerate(chat.messages):
            if message["role"] == "assistant":
                found.append(self._turn(chat, text, i, where))
        return found

    def _turn(self, chat: Chat, text: str, i: int, where: str) -> Turn:
        before = self.render(chat.messages[:i], chat.tools, prompt=True) if i else ""
        if not text.startswith(before):
            before = self.render(chat.messages[:i], chat.tools)
            if not text.startswith(before):
                raise DataError(
                    f"{where}: the chat template does not keep the text before message {i}, so the assistant's turn "
                    "cannot be located; give a chat_template with {% generation %} markers, or labels of your own"
                )
        start = len(before)
        upto = self.render(chat.messages[: i + 1], chat.tools)
        if text.startswith(upto):
            return Turn(start, len(upto), self._end(text, start, len(upto)))
        end = self._end(text, start, len(text))
        stop = len(text) if end is None else end + len(text[end:]) - len(text[end:].lstrip())
        return Turn(start, stop, end)

    def _end(self, text: str, start: int, stop: int) -> int | None:
        """One past the turn's end-of-turn token: the first one that closes it with nothing but space behind."""
        ends = [
            place + len(token)
            for token in self.end_tokens
            for place in _places(text, token, start, stop)
            if stop == len(text) or not text[place + len(token) : stop].strip()
        ]
        return min(ends) if ends else None


def end_of_turn_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the special tokens that end a turn: the end token, and those named for it in the common families."""
    named = (
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "</s>",
        "<|endoftext|>",
        "<|return|>",
    )
    known = tokenizer.get_added_vocab()
    found = [tokenizer.eos_token] if tokenizer.eos_token else []
    return tuple(dict.fromkeys([*(str(token) for token in found), *(token for token in named if token in known)]))


def _places(text: str, token: str, start: int, stop: int) -> list[int]:
    places, place = [], text.find(token, start, stop)
    while place >= 0:
        places.append(place)
        place = text.find(token, place + 1, stop)
    return places
