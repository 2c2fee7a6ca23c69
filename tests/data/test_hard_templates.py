"""No header, system prompt or user's words ever carry loss, whatever the template does to the conversation."""

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.config import LabelConfig
from spicerack.data.formats import Chat, Text, convert_row
from spicerack.data.labels import Labeler
from spicerack.errors import DataError
from spicerack.testing import CHATML, tiny_tokenizer

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}" + CHATML
NO_PROMPT = CHATML.split("{% if add_generation_prompt")[0]
# the prompt opens a thinking block that the conversation does not have, as in DeepSeek-R1 and Qwen3-Thinking
THINKING_PROMPT = NO_PROMPT + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
# the end token is put once, behind the whole conversation, as in Phi-3
END_AT_LAST = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}<|im_start|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% else %}<|im_end|>{% endif %}"
)
# each part of an answer is closed by the end token, as in gpt-oss
IN_PARTS = CHATML.replace(
    "{{ message['content'] }}",
    "{{ message['thinking'] ~ '<|im_end|>' if message['thinking'] }}{{ message['content'] }}",
)
REWRITING_UNKNOWN_END = (
    "{% for m in messages %}[{{ m.role }}]\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}@@\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "default system": DEFAULT_SYSTEM,
    "no prompt": NO_PROMPT,
    "thinking prompt": THINKING_PROMPT,
    "tight markers": CHATML.replace(
        "{{ message['content'] }}<|im_end|>\n",
        "{%- if message['role'] == 'assistant' -%}\n{%generation%}{{ message['content'] }}<|im_end|>\n{%endgeneration%}"
        "{%- else -%}{{ message['content'] }}<|im_end|>\n{%- endif -%}",
    ),
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def trained_text(template, messages, **options):
    rule = Labeler(tiny_tokenizer(chat_template=template), LabelConfig(max_length=100_000, **options))
    encoded = rule.encode(Chat(tuple(messages)), where="row 5")
    return rule.tokenizer.decode(encoded.input_ids[encoded.labels != -100].tolist())


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "tight markers"])
def test_a_conversation_that_the_assistant_opens(name):
    chat = [assistant("hello"), user("hi"), assistant("yo")]
    assert trained_text(TEMPLATES[name], chat) == "hello<|im_end|>\nyo<|im_end|>\n"


words = st.text(st.characters(codec="utf-8", exclude_characters="<|>@[]", exclude_categories=("Cs", "Cc", "Co", "Z")))
conversations = st.lists(st.builds(user, words) | st.builds(assistant, words), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(conversations, st.sampled_from([name for name in TEMPLATES if name != "tight markers"]))
def test_turns_in_any_order_train_the_answers_alone(messages, name):
    expected = "".join(f"{m['content']}<|im_end|>\n" for m in messages if m["role"] == "assistant")
    assert trained_text(TEMPLATES[name], messages) == expected


def test_markers_count_however_they_are_spaced():
    assert "{%generation%}" in TEMPLATES["tight markers"]
    trained = trained_text(TEMPLATES["tight markers"], [user("hi"), assistant("yo")])
    assert trained.rstrip() == "yo<|im_end|>"


def test_an_end_token_behind_the_whole_conversation_belongs_to_the_last_turn():
    rule = Labeler(tiny_tokenizer(chat_template=END_AT_LAST), LabelConfig(turns="last"))
    encoded = rule.encode(Chat((user("a"), assistant("b"))), where="here")
    text = rule.tokenizer.decode(encoded.input_ids[encoded.labels != -100].tolist())
    assert (text, encoded.missing_end_of_turn) == ("b<|im_start|>\n<|im_end|>", False)


@pytest.mark.parametrize(
    ("template", "answer"),
    [(IN_PARTS, {"thinking": "hm", "content": "yo"}), (CHATML, {"content": "hm<|im_end|>yo"})],
)
def test_the_end_token_within_an_answer_does_not_cut_it(template, answer):
    answer = {"role": "assistant", **answer}
    trained = trained_text(template, [user("hi"), answer, user("and?"), answer], train_on_turn_suffix=False)
    assert trained == "hm<|im_end|>yo<|im_end|>" * 2


def test_words_that_end_in_another_end_token_do_not_end_the_turn():
    tokenizer = tiny_tokenizer(chat_template=TEMPLATES["chatml"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|im_end|>"]})
    rule = Labeler(tokenizer, LabelConfig(train_on_turn_suffix=False))
    encoded = rule.encode(Chat((user("a"), assistant("x<|end|>"), user("b"), assistant("y<|end|>"))), where="here")
    assert (
        tokenizer.decode(encoded.input_ids[encoded.labels != -100].tolist()) == "x<|end|><|im_end|>y<|end|><|im_end|>"
    )


def test_a_token_that_ends_the_conversation_is_not_the_turns():
    tokenizer = tiny_tokenizer(chat_template=END_AT_LAST.replace("<|im_start|>", "<|end|>"))  # as in Phi-3
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    rule = Labeler(tokenizer, LabelConfig(train_on_turn_suffix=False))
    encoded = rule.encode(Chat((user("a"), assistant("b"))), where="here")
    assert tokenizer.decode(encoded.input_ids[encoded.labels != -100].tolist()) == "b<|end|>"


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("written", "shown"), [("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26"), ("%B %-d, %y", "July 26, 24")]
)
def test_a_template_that_prints_the_date_prints_the_same_every_day(marked, written, shown):
    dated = "  {% if strftime_now is defined %}{% set d = strftime_now('" + written + "') %}{% endif %}\n[{{ d }}]\n"
    template = dated + TEMPLATES["tight markers" if marked else "chatml"]
    rule = Labeler(tiny_tokenizer(chat_template=template), LabelConfig())
    encoded = rule.encode(Chat((user("hi"), assistant("yo"))), where="here")
    assert rule.tokenizer.decode(encoded.input_ids.tolist()).startswith(f"[{shown}]\n<|im_start|>user")
    assert trained_text(template, [user("hi"), assistant("yo")]) == "yo<|im_end|>\n"


def test_the_rule_hash_holds_the_date_where_it_is_printed(monkeypatch):
    templates = [
        CHATML,
        CHATML + "{{ strftime_now('%Y') }}",
        {"default": CHATML, "tool_use": "{{ strftime_now('%Y') }}"},
    ]
    rules = [Labeler(tiny_tokenizer(chat_template=template), LabelConfig()) for template in templates]
    hashes = [rule.rule_hash() for rule in rules]
    monkeypatch.setattr("spicerack.data.labels.TODAY", datetime(2025, 1, 1))
    assert [rule.rule_hash() == before for rule, before in zip(rules, hashes, strict=True)] == [True, False, False]


def test_a_turn_whose_end_is_unknown_is_refused_and_not_guessed():
    chat = [user("hi"), assistant("yo"), user("my secret"), assistant("ok")]
    with pytest.raises(DataError, match=r"row 5: .* no known end-of-turn token closes message 1") as caught:
        trained_text(REWRITING_UNKNOWN_END, chat)
    assert "chat_template" in str(caught.value)
    assert trained_text(REWRITING_UNKNOWN_END, chat[:2]) == "<think></think>yo@@\n"  # the last turn ends with the text


def test_a_template_that_hides_the_words_is_refused():
    with pytest.raises(DataError, match=r"row 5: .* cannot be located"):
        trained_text("{% for m in messages %}{{ m.role }};{% endfor %}", [user("hi"), assistant("yo")])


def test_a_tokenizer_with_several_templates_uses_the_one_for_tools():
    templates = {"default": CHATML, "tool_use": "{{ tools | length }} tools\n" + CHATML}
    rule = Labeler(tiny_tokenizer(chat_template=templates), LabelConfig(assistant_only_loss=False))
    chat = (user("hi"), assistant("yo"))
    plain, with_tools = Chat(chat), Chat(chat, [{"type": "function", "function": {"name": "f"}}])
    texts = [rule.tokenizer.decode(rule.encode(c, where="h").input_ids.tolist()) for c in (plain, with_tools)]
    assert texts[1] == "1 tools\n" + texts[0]
    assert rule.rule_hash() != Labeler(tiny_tokenizer(), LabelConfig(assistant_only_loss=False)).rule_hash()


def test_tools_may_be_json_text():
    row = {"messages": [user("hi"), assistant("yo")], "tools": '[{"type": "function", "function": {"name": "f"}}]'}
    rule = Labeler(tiny_tokenizer(chat_template="{{ tools[0].function.name }}:" + CHATML), LabelConfig())
    encoded = rule.encode(convert_row(row, "messages", where="here"), where="here")
    assert rule.tokenizer.decode(encoded.input_ids.tolist()).startswith("f:<|im_start|>user")


def test_half_an_emoji_is_named():
    rule = Labeler(tiny_tokenizer(), LabelConfig())
    for sample in (Text("a\ud83d"), Chat((user("a"), assistant("\ud83d")))):
        with pytest.raises(DataError, match=r"row 9: '\\ud83d' is half of a surrogate pair"):
            rule.encode(sample, where="row 9")


def test_an_empty_conversation_has_no_tokens():
    encoded = Labeler(tiny_tokenizer(), LabelConfig()).encode(Chat(()), where="here")
    assert (len(encoded.input_ids), encoded.trained_tokens) == (0, 0)
    assert encoded.labels.dtype == np.int32
