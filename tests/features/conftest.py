"""A tiny model with its tokenizer, and a pool of pairs, conversations and rows without an answer."""

import pytest

from spicerack.testing import tiny_model, tiny_tokenizer

PROMPTS = "Rate it 1 to 5.\nHow good, 1 to 5?\nGrade 1 to 5:\n"


@pytest.fixture(scope="session")
def model():
    return tiny_model("llama", vocab_size=300)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text(PROMPTS)
    return path


@pytest.fixture(scope="session")
def chats():
    """Rows of different lengths; the seventh has no answer, the eighth two turns."""
    pool = [pair(f"say {'very ' * (i % 4)}{i}", f"{i} is {'so ' * (i % 5)}nice") for i in range(6)]
    pool.append({"messages": [{"role": "user", "content": "nobody answers"}]})
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "more"), ("assistant", "no")]
    pool.append({"messages": [{"role": role, "content": words} for role, words in turns]})
    pool.append(pair("q", "a"))
    return pool


def pair(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
