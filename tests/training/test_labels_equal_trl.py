"""The labels that we train on are those that TRL makes of the same rows, where TRL can make them."""

import datasets
import numpy as np
import pytest
import torch
from trl import SFTConfig, SFTTrainer

from spicerack.config import DataConfig, LabelConfig
from spicerack.data.labels import Labeler
from spicerack.data.records import load_pool
from spicerack.models.loading import LoadedModel
from spicerack.testing import tiny_model, tiny_tokenizer
from spicerack.training.options import TrainConfig
from spicerack.training.samples import label_rows
from spicerack.training.trainer import make_trainer, quiet_libraries

MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turn(role, content):
    return {"role": role, "content": content}


CHATS = [
    {"messages": [turn("user", "two and two"), turn("assistant", "four")]},
    {
        "messages": [
            turn("system", "be short"),
            turn("user", "name a river"),
            turn("assistant", "Rhône"),
            turn("user", "another"),
            turn("assistant", "the Po, which is long enough to be cut"),
        ]
    },
]
COMPLETIONS = [
    {"prompt": "two and two are", "completion": " four"},
    {"prompt": "a river:", "completion": " Rhône, and much more that is cut off at the end of the length"},
]
CHAT_COMPLETIONS = [
    {"prompt": [turn("user", "hello")], "completion": [turn("assistant", "hello yourself")]},
    {
        "prompt": [turn("user", "hello"), turn("assistant", "not trained"), turn("user", "why")],
        "completion": [turn("assistant", "it is the prompt's")],
    },
]
TEXTS = [{"text": "a plain text, all of it trained"}, {"text": "a"}]

CASES = {
    "chat, assistant only": (CHATS, {"assistant_only_loss": True}, {}, MARKED),
    "chat, all tokens": (CHATS, {}, {"assistant_only_loss": False}, None),
    "completion": (COMPLETIONS, {}, {}, None),
    "completion, all tokens": (COMPLETIONS, {"completion_only_loss": False}, {"completion_only_loss": False}, None),
    "chat completion": (CHAT_COMPLETIONS, {}, {}, None),
    "text": (TEXTS, {}, {}, None),
}


def tokenizer(template):
    return tiny_tokenizer() if template is None else tiny_tokenizer(chat_template=template)


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def labels_of_trl(rows, options, template, max_length, folder):
    args = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        max_length=max_length, **options,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=tiny_model(vocab_size=300),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(template),
    )
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


@pytest.mark.parametrize("max_length", [512, 48])
@pytest.mark.parametrize("case", CASES)
def test_our_labels_are_those_of_trl(case, max_length, tmp_path):
    rows, options, section, template = CASES[case]
    with quiet_libraries():
        theirs = labels_of_trl(rows, options, template, max_length, tmp_path)
    pool = load_pool(rows, DataConfig())
    labeler = Labeler(tokenizer(template), LabelConfig(max_length=max_length, **section))
    data = label_rows(pool, labeler)
    assert len(theirs) == len(data) == len(rows) - len(data.left_out)  # both leave out what is fully masked
    for (ids, labels), sample in zip(theirs, data.samples, strict=True):
        assert sample.input_ids.tolist() == ids
        assert sample.labels.tolist() == labels


def test_what_reaches_the_model_are_the_samples_and_pads(tmp_path):
    """Every batch of the trainer's own loader, against the samples one by one."""
    data = label_rows(load_pool(CHATS * 3, DataConfig()), Labeler(tiny_tokenizer(), LabelConfig()))
    loaded = LoadedModel(tiny_model(vocab_size=300), tiny_tokenizer(), "tiny", torch.device("cpu"))
    with quiet_libraries():
        trainer = make_trainer(
            loaded.model, data, loaded, TrainConfig(per_device_train_batch_size=4, use_peft=False), tmp_path
        )
        batches = list(trainer.get_train_dataloader())
    seen = []
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            assert mask[:length].all()
            assert (labels[length:] == -100).all()
            seen.append((ids[:length].tolist(), labels[:length].tolist()))
    wanted = [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in data.samples]
    assert sorted(seen) == sorted(wanted)
    assert np.sum([batch["labels"][:, 1:].ne(-100).sum() for batch in batches]) == data.trained_tokens
