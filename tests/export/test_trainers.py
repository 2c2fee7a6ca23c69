"""What a trainer reads: conversations stay what they mean, and the files are those that each trainer names."""

import json

import pytest
import yaml

from spicerack.config import DataConfig
from spicerack.data.records import load_pool
from spicerack.errors import DataError, FormatError, UnknownNameError
from spicerack.export.trainers import export_rows

ALPACA = [{"instruction": f"say {i}", "input": "", "output": f"ä{i}"} for i in range(4)]
TURNS = [
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": f"q{i}"},
            {"role": "assistant", "content": f"a{i}"},
        ]
    }
    for i in range(4)
]
PAIRS = [{"prompt": f"p{i} ", "completion": f"c{i}"} for i in range(4)]
PROMPTED = [
    {
        "prompt": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "r"},
        ],
        "completion": [{"role": "assistant", "content": "b"}],
    }
]
TEXTS = [{"text": f"t{i}"} for i in range(4)]
TOKENS = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def export(trainer, rows, folder, order=(2, 0)):
    return export_rows(trainer, load_pool(rows, DataConfig()), order, folder)


def test_rows_are_converted_in_the_order_asked_for(tmp_path):
    files = export("trl", ALPACA, tmp_path)
    assert lines(files["train.jsonl"]) == [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"ä{i}"}]}
        for i in (2, 0)
    ]
    assert lines(export("trl", PAIRS, tmp_path)["train.jsonl"])[0] == {"prompt": "p2 ", "completion": "c2"}
    assert lines(export("trl", TEXTS, tmp_path)["train.jsonl"])[1] == {"text": "t0"}
    assert lines(export("trl", TOKENS, tmp_path, [0])["train.jsonl"]) == TOKENS
    assert lines(export("trl", PROMPTED, tmp_path, [0])["train.jsonl"]) == PROMPTED


def test_trl_trains_on_the_tokens_that_we_label(tmp_path):
    """TRL's own preparation of the exported rows gives the label rule's tokens."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from spicerack.config import LabelConfig
    from spicerack.data.labels import Labeler
    from spicerack.testing import tiny_model, tiny_tokenizer
    from spicerack.training.trainer import quiet_libraries

    path = export("trl", PAIRS, tmp_path, range(4))["train.jsonl"]
    pool, tokenizer = load_pool(PAIRS, DataConfig()), tiny_tokenizer()
    labeler = Labeler(tokenizer, LabelConfig())
    with quiet_libraries():
        trainer = SFTTrainer(
            tiny_model(vocab_size=300),
            args=SFTConfig(output_dir=str(tmp_path / "t"), use_cpu=True, bf16=False, report_to="none"),
            train_dataset=datasets.Dataset.from_list(lines(path)),
            processing_class=tokenizer,
        )
    for i, row in enumerate(trainer.train_dataset):
        assert row["input_ids"] == labeler.encode(pool.sample(i), where="row").input_ids.tolist()


def test_llamafactory_is_told_what_the_columns_are(tmp_path):
    files = export("llamafactory", TURNS, tmp_path)
    info = json.loads(files["dataset_info.json"].read_text())["spicerack"]
    assert info["formatting"] == "sharegpt"
    assert info["file_name"] == "train.jsonl"
    row = lines(tmp_path / info["file_name"])[0]
    for turn in row[info["columns"]["messages"]]:
        assert turn[info["tags"]["role_tag"]] in ("system", "user", "assistant")
        assert isinstance(turn[info["tags"]["content_tag"]], str)
    pairs = json.loads(export("llamafactory", PAIRS, tmp_path)["dataset_info.json"].read_text())["spicerack"]
    row = lines(tmp_path / "train.jsonl")[0]
    assert (row[pairs["columns"]["prompt"]], row[pairs["columns"]["response"]]) == ("p2 ", "c2")


def test_axolotl_is_told_which_turns_are_trained_on(tmp_path):
    files = export("axolotl", PROMPTED, tmp_path, [0])
    (entry,) = yaml.safe_load(files["axolotl.yaml"].read_text())["datasets"]
    assert entry["type"] == "chat_template"
    row = lines(tmp_path / entry["path"])[0]
    assert [turn[entry["message_field_training"]] for turn in row[entry["field_messages"]]] == [
        False,
        False,
        False,
        True,
    ]
    files = export("axolotl", PAIRS, tmp_path)
    assert yaml.safe_load(files["axolotl.yaml"].read_text())["datasets"][0]["type"] == "input_output"
    assert lines(files["train.jsonl"])[0]["segments"] == [
        {"label": False, "text": "p2 "},
        {"label": True, "text": "c2"},
    ]


@pytest.mark.parametrize(
    ("trainer", "rows", "order", "error", "message"),
    [
        ("trll", ALPACA, [0], UnknownNameError, "did you mean 'trl'"),
        ("axolotl", TOKENS, [0], FormatError, "reads no tokens with labels"),
        ("llamafactory", PROMPTED, [0], FormatError, "export for trl or axolotl"),
        ("trl", ALPACA, [], DataError, "no row"),
    ],
)
def test_what_cannot_be_exported_is_said(trainer, rows, order, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(trainer, rows, tmp_path, order)
