"""The trained tokens are the assistant's words and end-of-turn tokens, whatever the template."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spicerack.config import LabelConfig
from spicerack.data.formats import Chat, Completion, Text, Tokenized
from spicerack.data.labels import Labeler
from spicerack.errors import DataError
from spicerack.testing import CHATML, tiny_tokenizer

LLAMA3 = (
    "{{ '<|bos|>' }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
GEMMA = (
    "{{ '<|bos|>' }}{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|bos|>[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
# the last turn gets an empty thinking block, earlier turns lose it, as in Qwen3
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {  # template, what stands before and behind a turn's words in the loss
    "chatml": (CHATML, "", "<|im_end|>\n"),
    "llama3": (LLAMA3, "", "<|im_end|>"),
    "gemma": (GEMMA, "", "<|im_end|>\n"),
    "llama2": (LLAMA2, " ", " <|im_end|>"),
    "marked": (MARKED, "", "<|im_end|>"),
}
CHAT = Chat(
    (
        {"role": "user", "content": "two and two?"},
        {"role": "assistant", "content": "four, naïvely"},
        {"role": "user", "content": "and three?"},
        {"role": "assistant", "content": "five 🦊"},
    )
)


def labeler(template=CHATML, **options):
    return Labeler(tiny_tokenizer(chat_template=template), LabelConfig(**options))


def trained_text(rule, sample):
    encoded = rule.encode(sample, where="here")
    assert encoded.labels.shape == encoded.input_ids.shape
    trained = encoded.labels != -100
    assert np.array_equal(encoded.labels[trained], encoded.input_ids[trained])
    return rule.tokenizer.decode(encoded.input_ids[trained].tolist())


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_assistant_turn_carries_loss(name):
    template, before, behind = TEMPLATES[name]
    assert trained_text(labeler(template), CHAT) == f"{before}four, naïvely{behind}{before}five 🦊{behind}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_turn_alone(name):
    template, before, behind = TEMPLATES[name]
    assert trained_text(labeler(template, turns="last"), CHAT) == f"{before}five 🦊{behind}"


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_what_follows_the_end_of_turn_can_be_left_out(name):
    assert (
        trained_text(labeler(TEMPLATES[name][0], train_on_turn_suffix=False), CHAT)
        == "four, naïvely<|im_end|>five 🦊<|im_end|>"
    )


def test_a_template_that_rewrites_earlier_turns_is_followed():
    expected = "four, naïvely<|im_end|>\n<think>\n\n</think>\n\nfive 🦊<|im_end|>\n"
    assert trained_text(labeler(QWEN3), CHAT) == expected


def test_loss_on_everything():
    rule = labeler(assistant_only_loss=False)
    encoded = rule.encode(CHAT, where="here")
    assert np.array_equal(encoded.labels, encoded.input_ids)
    assert encoded.trained_tokens == len(encoded.input_ids) - 1


words = st.text(st.characters(codec="utf-8", exclude_characters="<|>", exclude_categories=("Cs", "Cc")), min_size=1)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.none() | words)
def test_trained_tokens_are_the_answers_for_any_conversation(turns, system):
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    expected = "".join(f"{answer}<|im_end|>\n" for _, answer in turns)
    assert trained_text(labeler(max_length=100_000), Chat(tuple(messages))) == expected


def test_a_chat_without_an_assistant_has_no_trained_token():
    encoded = labeler().encode(Chat(({"role": "user", "content": "hello?"},)), where="here")
    assert encoded.trained_tokens == 0


def test_completion_and_end_token():
    assert trained_text(labeler(), Completion("2 + 2 =", " 4")) == " 4<|im_end|>"
    assert trained_text(labeler(completion_only_loss=False), Completion("2 + 2 =", " 4")) == "2 + 2 = 4<|im_end|>"


@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_a_completion_of_messages_leaves_the_prompts_turns_out(name):
    chat = Chat(CHAT.messages, context=3)
    template, _, behind = TEMPLATES[name]
    assert trained_text(labeler(template), chat) == f"five 🦊{behind}"
    everything = labeler(template, completion_only_loss=False)
    assert trained_text(everything, chat) == f"four, naïvely{behind}five 🦊{behind}"


def test_plain_text_and_end_token():
    assert trained_text(labeler(), Text("once upon")) == "once upon<|im_end|>"


def test_tokenized_labels_are_taken_as_they_are():
    encoded = Labeler(None, LabelConfig(max_length=3)).encode(Tokenized([5, 6, 7, 8], [-100, 6, -100, 8]), where="here")
    assert encoded.labels.tolist() == [-100, 6, -100]
    assert (encoded.cut_tokens, encoded.trained_tokens) == (1, 1)


def test_truncation_keeps_the_start_and_reports_the_rest():
    whole = labeler().encode(CHAT, where="here")
    cut = labeler(max_length=40).encode(CHAT, where="here")
    assert np.array_equal(cut.input_ids, whole.input_ids[:40])
    assert cut.cut_tokens == len(whole.input_ids) - 40
    assert (whole.missing_end_of_turn, cut.missing_end_of_turn) == (False, True)


def test_a_pad_token_that_is_the_end_token_stays_in_the_loss():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    rule = Labeler(tokenizer, LabelConfig())
    assert trained_text(rule, CHAT).count("<|im_end|>") == 2


def test_a_template_can_be_given_as_text_or_file(tmp_path):
    (tmp_path / "t.jinja").write_text(LLAMA3)
    for given_template in (LLAMA3, str(tmp_path / "t.jinja")):
        rule = Labeler(tiny_tokenizer(chat_template=None), LabelConfig(), chat_template=given_template)
        assert trained_text(rule, CHAT) == "four, naïvely<|im_end|>five 🦊<|im_end|>"


def test_chat_data_without_a_template_names_the_option():
    with pytest.raises(DataError, match=r"row 3.*chat_template"):
        labeler(None).encode(CHAT, where="row 3")
    with pytest.raises(DataError, match="no such chat template"):
        Labeler(tiny_tokenizer(), LabelConfig(), chat_template="nowhere.jinja")


def test_a_rule_says_how_it_is_not_the_default():
    assert labeler(None).rule() == f"default options (rule {labeler(None).rule_hash()[:16]})"
    told = labeler(turns="last", max_length=77).rule()
    assert told.startswith("max_length=77, turns=last, template ")
    assert labeler(LLAMA3).rule().split(" (")[0] != labeler().rule().split(" (")[0]


@pytest.mark.parametrize(("answer", "empty"), [("", True), ("  ", True), ("no", False), ("ab" * 40, False)])
def test_a_response_without_words_is_empty(answer, empty):
    rule = labeler()
    chat = Chat(({"role": "user", "content": "q"}, {"role": "assistant", "content": answer}))
    assert rule.says_nothing(rule.encode(chat, where="row")) is empty


def test_a_sample_without_trained_tokens_is_not_an_empty_response():
    rule = labeler(max_length=4)
    chat = Chat(({"role": "user", "content": "a long question"}, {"role": "assistant", "content": ""}))
    assert not rule.says_nothing(rule.encode(chat, where="row"))


def test_the_rule_hash_tells_rules_apart():
    hashes = {labeler().rule_hash(), labeler(turns="last").rule_hash(), labeler(LLAMA3).rule_hash()}
    assert len(hashes) == 3
    assert labeler().rule_hash() == labeler().rule_hash()


def test_a_tokenizer_without_offsets_gives_the_same_loss(monkeypatch):
    rule = labeler()
    fast = rule.encode(CHAT, where="here")
    monkeypatch.setattr(type(rule.tokenizer), "is_fast", False)
    slow = rule.encode(CHAT, where="here")
    assert np.array_equal(fast.labels, slow.labels)


CALLING = MARKED.replace("{% generation %}", "{% if m.get('tool_calls') %}CALL{% else %}{% generation %}").replace(
    "{% endgeneration %}", "{% endgeneration %}{% endif %}"
)
IN_TWO_PARTS = MARKED.replace(
    "{% generation %}", "<think>{% generation %}{{ m.thought }}{% endgeneration %}</think>{% generation %}"
)


def test_a_turn_without_marked_words_counts_as_the_turn_that_it_is():
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    asked = {"role": "user", "content": "and now?"}
    answer = {"role": "assistant", "content": "twelve"}
    chat = Chat((asked, call, {"role": "tool", "content": "12"}, answer), context=3)
    assert trained_text(labeler(CALLING), chat) == "twelve<|im_end|>"
    assert trained_text(labeler(CALLING), Chat((asked, answer, asked, call), context=1)) == "twelve<|im_end|>"
    assert trained_text(labeler(CALLING, turns="last"), Chat((asked, answer, asked, call))) == ""


def test_several_marked_parts_are_one_turn():
    messages = [{**message, "thought": f"t{i}"} for i, message in enumerate(CHAT.messages)]
    assert trained_text(labeler(IN_TWO_PARTS), Chat(tuple(messages), context=3)) == "t3five 🦊<|im_end|>"
    assert trained_text(labeler(IN_TWO_PARTS, turns="last"), Chat(tuple(messages))) == "t3five 🦊<|im_end|>"
    whole = "t1four, naïvely<|im_end|>t3five 🦊<|im_end|>"
    assert trained_text(labeler(IN_TWO_PARTS), Chat(tuple(messages))) == whole
