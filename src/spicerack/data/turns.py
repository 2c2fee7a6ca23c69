"""Where the assistant's turns stand in a rendered conversation.

A conversation is rendered once. A turn begins where the rendering of the messages before it, with the generation
prompt, ends. Where the template writes another header into the conversation than into the prompt (DeepSeek-R1 and
Qwen3-Thinking prompt with `<think>`), has no generation prompt, or the conversation begins with the assistant, the turn
is rendered again with other words in it: it begins at the first character that differs. A turn ends where the rendering
of the messages up to it ends. Templates that rewrite earlier turns (Qwen3 drops their thinking blocks) break that: then
it ends at the first end-of-turn token after its start.

Templates that print today's date print `TODAY` instead: else the tokens, and all that is made of them, would be others
tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from spicerack.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from spicerack.data.formats import Chat

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it
OTHER_WORDS = "\ue000"  # a private-use character: no conversation's words begin with it
TODAY = datetime(2024, 7, 26)  # what Llama 3.1's template falls back on
_DIRECTIVES = {f"%{code}": TODAY.strftime(f"%{code}") for code in "aAwdbBmyYHIpMSj"} | {"%-d": "26", "%-m": "7"}
_WRITTEN = "".join(f" | replace('{directive}', '{text}')" for directive, text in _DIRECTIVES.items())
# A macro, since transformers makes a text of any function that is passed as a variable. The newline belongs to the tag.
_STRFTIME_TODAY = f"{{% macro strftime_now(format) %}}{{{{ format{_WRITTEN} }}}}{{% endmacro %}}\n"
HELP = "give a chat_template with {% generation %} markers, or labels of your own"


@dataclass(frozen=True)
class Turn:
    """Characters `start` to `stop` of the rendered text; the end-of-turn token ends at `end_of_turn`, or is missing."""

    start: int
    stop: int
    end_of_turn: int | None


class ConversationRenderer:
    """A tokenizer's chat template, and the tokens that end a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        """Take the tokenizer's template or templates (one may be for tools), or `template` instead."""
        self.tokenizer = tokenizer
        self.template: str | dict[str, str] | None = template or tokenizer.chat_template
        self.end_tokens = end_of_turn_tokens(tokenizer)

    def template_for(self, tools: list[Any] | None) -> str:
        """The one template of a conversation, with or without tools, and with `TODAY` as the date."""
        given = self.template if isinstance(self.template, str) else None
        template: str = self.tokenizer.get_chat_template(given, tools)
        return _STRFTIME_TODAY + template if asks_the_date(template) else template

    def marks_generation(self, tools: list[Any] | None) -> bool:
        """Whether the template says itself which part the assistant generated."""
        return GENERATION.search(self.template_for(tools)) is not None

    def render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, up to where the assistant would go on."""
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            chat_template=self.template_for(tools),
            tokenize=False,
            add_generation_prompt=prompt,
        )
        return text

    def turns(self, chat: Chat, text: str, where: str) -> list[Turn]:
        """The assistant's turns in the rendered text that may carry loss, in order: those after the context.

        Raises:
            DataError: the start or the end of a turn cannot be found.
        """
        places = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        return [self._turn(chat, text, i, where) for i in places if i >= chat.context]

    def _turn(self, chat: Chat, text: str, i: int, where: str) -> Turn:
        start = self.start(chat, text, i, where)
        upto = self._render_or_none(chat.messages[: i + 1], chat.tools)
        if upto is not None and text.startswith(upto):
            words = _behind_words(text, start, len(upto), chat.messages[i].get("content"))
            return Turn(start, len(upto), self._closing_end(text, words, len(upto)))
        end = min(self._ends(text, start, len(text)), default=None)
        if end is None and i + 1 < len(chat.messages):  # what follows is someone else's: never guess
            raise DataError(
                f"{where}: the chat template rewrites earlier turns and no known end-of-turn token closes message {i}; "
                f"expected one of {', '.join(self.end_tokens) or 'none'}; {HELP}"
            )
        stop = len(text) if end is None else end + len(text[end:]) - len(text[end:].lstrip())
        return Turn(start, stop, end)

    def start(self, chat: Chat, text: str, i: int, where: str) -> int:
        """The character of the rendered text at which message `i`, an assistant's, begins.

        Raises:
            DataError: it cannot be found.
        """
        before = self._render_or_none(chat.messages[:i], chat.tools)
        prompted = self._render_or_none(chat.messages[:i], chat.tools, prompt=True)
        if prompted is not None and prompted != before and text.startswith(prompted):
            return len(prompted)
        other = {"role": "assistant", "content": OTHER_WORDS}
        changed = self._render_or_none([*chat.messages[:i], other, *chat.messages[i + 1 :]], chat.tools)
        if changed is None or OTHER_WORDS not in changed:
            raise DataError(
                f"{where}: the chat template has no generation prompt that fits message {i}, and does not show its "
                f"words, so the assistant's turn cannot be located; {HELP}"
            )
        start = next((k for k, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b), len(text))
        # A space that the template puts before the words, as Llama 2's does, is the assistant's to write.
        if before is not None and text.startswith(before) and not text[len(before) : start].strip():
            return len(before)
        return start

    def _render_or_none(
        self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, prompt: bool = False
    ) -> str | None:
        """The text, or None where the template refuses a part of a conversation whose whole it accepts."""
        try:
            return self.render(messages, tools, prompt=prompt)
        except Exception:  # templates raise what they like; the callers have another way or an error of their own
            return None

    def _ends(self, text: str, start: int, stop: int) -> dict[int, str]:
        """The end-of-turn tokens in a part of the text, by the place behind each."""
        return {place + len(token): token for token in self.end_tokens for place in _places(text, token, start, stop)}

    def _closing_end(self, text: str, start: int, stop: int) -> int | None:
        """One past the token that closes a turn with nothing but space behind, or another one (as in Phi-3).

        A turn may hold the same token earlier: behind a part of it (gpt-oss), or in its words.
        """
        for end, token in sorted(self._ends(text, start, stop).items()):
            behind = text[end:stop]
            for other in self.end_tokens:
                behind = behind if other == token else behind.replace(other, "")
            if not behind.strip():
                return end
        return None


def _behind_words(text: str, start: int, stop: int, words: object) -> int:
    """One past a message's words, where they stand at the beginning of its turn as they are; else that beginning."""
    stripped = words.strip() if isinstance(words, str) else ""
    at = text.find(stripped, start, stop)
    return at + len(stripped) if at >= 0 and not text[start:at].strip() else start


def asks_the_date(template: object) -> bool:
    """Whether a template, or one of several, prints the date of the day."""
    return "strftime_now" in str(template)


def end_of_turn_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the special tokens that end a turn: the end token, and those named for it in the common families."""
    named = (
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "</s>",
        "<|endoftext|>",
        "<|return|>",
        "<|call|>",
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
