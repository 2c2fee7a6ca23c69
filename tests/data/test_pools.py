"""Pools of every kind keep their rows, order and columns; broken ones say where and why."""

import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spicerack.config import DataConfig
from spicerack.data.formats import FORMATS, Chat, Completion, Text, Tokenized, convert_row
from spicerack.data.records import count_duplicates, load_pool
from spicerack.data.sources import open_source
from spicerack.errors import DataError, FormatError, UnknownNameError

ROWS = [
    {"instruction": "add 1 and 2", "input": "", "output": "3", "extra": 0.5},
    {"instruction": "name a color", "input": "warm,\nplease", "output": "réd", "extra": 1.5},
    {"instruction": "add 1 and 2", "input": "", "output": "3", "extra": 2.5},
]


def write(tmp_path, kind):
    if kind == "list":
        return ROWS
    if kind == "dataset":
        return datasets.Dataset.from_list(ROWS)
    if kind == "arrow":
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "pool")
        return tmp_path / "pool"
    path = tmp_path / f"pool.{kind}"
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        datasets.Dataset.from_list(ROWS).to_csv(path)
    return path


KINDS = ["list", "dataset", "arrow", "jsonl", "json", "parquet", "csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_order_and_columns_survive(tmp_path, kind):
    source = open_source(write(tmp_path, kind), DataConfig())
    assert source.kind == kind
    assert source.columns == ("instruction", "input", "output", "extra")
    rows = [source[i] for i in range(len(source))]
    assert [{**row, "input": row["input"] or ""} for row in rows] == ROWS
    assert source.arrow([2, 0]).column("extra").to_pylist() == [2.5, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprints_tell_contents_apart(tmp_path, kind):
    pool = write(tmp_path, kind)
    assert open_source(pool, DataConfig()).fingerprint() == open_source(pool, DataConfig()).fingerprint()
    assert open_source(pool, DataConfig()).fingerprint() != open_source(ROWS[:2], DataConfig()).fingerprint()


def test_a_shuffled_dataset_keeps_its_own_order():
    shuffled = datasets.Dataset.from_list(ROWS).select([2, 1, 0])
    source = open_source(shuffled, DataConfig())
    assert [source[i]["extra"] for i in range(3)] == [2.5, 1.5, 0.5]


def test_a_folder_of_splits(tmp_path):
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    assert len(open_source(tmp_path / "d", DataConfig(split="dev"))) == 3
    with pytest.raises(DataError, match="no split 'train'; it has dev"):
        open_source(tmp_path / "d", DataConfig())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2 is not valid JSON: .* at column 9"),
        ("a.jsonl", b'{"text": "a"}\n\n[1, 2]\n', r"a\.jsonl:3 holds a list"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl:1 is not UTF-8"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.json", b'{"text": "a"}', "expected an array of objects"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}', "JSON Lines"),
        ("a.json", b'[{"text": "a"}, 3]', "row 1 of a.json is a int"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "cannot read"),
        ("a.parquet", b"PAR1 but no more", "cannot read"),
        ("a.txt", b"hello", "of no known kind"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path / name, DataConfig())
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for missing in (tmp_path / "none.jsonl", tmp_path / "folder" / "x", "nobody/no-such-data"):
        with pytest.raises(DataError, match="no such file"):
            open_source(str(missing), DataConfig())
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        open_source(tmp_path / "plain", DataConfig())


def test_a_hub_data_set_loads_by_split_and_subset(tmp_path, monkeypatch):
    """The same call as for a hub id, on a folder of the hub's layout."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part, rows in [("train", ROWS), ("dev", ROWS[:1])]:
        (tmp_path / "hub" / part).mkdir(parents=True)
        (tmp_path / "hub" / part / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "  - {split: train, path: train/*}\n  - {split: dev, path: dev/*}\n"
    card = f"configs:\n- config_name: all\n  data_files:\n{files}"
    (tmp_path / "hub/README.md").write_text(f"---\n{card}---\n")
    source = open_source(tmp_path / "hub", DataConfig(subset="all"))
    assert (source.kind, len(source)) == ("hub", 3)
    assert len(open_source(tmp_path / "hub", DataConfig(subset="all", split="dev"))) == 1
    with pytest.raises(DataError, match="cannot be loaded"):
        open_source(tmp_path / "hub", DataConfig(subset="all", split="nope"))


TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("name", "row", "sample"),
    [
        ("alpaca", {"instruction": "hi", "input": "", "output": "yo"}, Chat(tuple(TURNS))),
        ("alpaca", {"instruction": "hi", "response": "yo"}, Chat(tuple(TURNS))),
        (
            "alpaca",
            {"instruction": "b", "input": "c", "output": "d", "system": "s", "history": [["hi", "yo"]]},
            Chat(
                (
                    {"role": "system", "content": "s"},
                    *TURNS,
                    {"role": "user", "content": "b\n\nc"},
                    {"role": "assistant", "content": "d"},
                )
            ),
        ),
        ("sharegpt", {"conversations": SHAREGPT}, Chat(tuple(TURNS))),
        (
            "alpaca",
            {"instruction": "b", "context": "c", "response": "d", "category": "closed_qa"},
            Chat(({"role": "user", "content": "b\n\nc"}, {"role": "assistant", "content": "d"})),
        ),
        (
            "sharegpt",
            {"conversations": SHAREGPT, "system": "s"},
            Chat(({"role": "system", "content": "s"}, *TURNS)),
        ),
        ("messages", {"messages": TURNS}, Chat(tuple(TURNS))),
        ("messages", {"messages": [TURNS[0], CALL], "tools": [{"x": 1}]}, Chat((TURNS[0], CALL), [{"x": 1}])),
        ("completion", {"prompt": "hi", "completion": "yo"}, Completion("hi", "yo")),
        ("completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, Chat(tuple(TURNS), context=1)),
        ("text", {"text": "hi"}, Text("hi")),
        ("tokenized", {"input_ids": [1, 2], "labels": [-100, 2]}, Tokenized([1, 2], [-100, 2])),
    ],
)
def test_formats_are_recognized_and_read(name, row, sample):
    pool = load_pool([row], DataConfig())
    assert pool.format == name
    assert pool.detection_reason
    assert pool.sample(0) == sample
    assert load_pool([row], DataConfig(format=name)).sample(0) == sample


def test_the_choice_names_the_fields_that_are_read():
    dolly = [{"instruction": "a", "context": text, "response": "c", "category": "d"} for text in ("", "b")]
    assert load_pool(dolly, DataConfig()).detection_reason.endswith("have the fields instruction, response, context")
    assert load_pool(ROWS, DataConfig()).detection_reason.endswith("have the fields instruction, output, input")
    assert load_pool(ROWS[:1], DataConfig()).detection_reason.endswith("have the fields instruction, output")
    both = load_pool([{"instruction": "a", "input": "i", "context": "c", "output": "o"}], DataConfig())
    assert both.detection_reason.endswith("have the fields instruction, output, input")
    assert both.sample(0).messages[0]["content"] == "a\n\ni"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("alpaca", {"instruction": "hi"}, "line 7: no output or response .* found the fields instruction"),
        ("alpaca", {"instruction": 3, "output": "x"}, "'instruction' is a int; expected a str"),
        ("sharegpt", {"conversations": [{"from": "martian", "value": "x"}]}, "unknown speaker 'martian'"),
        ("sharegpt", {"conversations": [{"value": "x"}]}, "a turn has no 'from'"),
        ("messages", {"messages": [{"role": "user"}]}, "neither content nor tool_calls"),
        ("completion", {"prompt": "x"}, "'response' is missing"),
        ("tokenized", {"input_ids": [1], "labels": []}, "1 input_ids but 0 labels"),
        ("tokenized", {"input_ids": [1], "labels": [1], "attention_mask": [0]}, "without padding"),
    ],
)
def test_a_row_that_is_not_of_its_format_is_named(name, row, message):
    with pytest.raises(FormatError, match=message):
        convert_row(row, name, where="line 7")


def test_an_unrecognized_pool_lists_what_it_has():
    with pytest.raises(FormatError, match=r"the fields question, answer\. Expected tokenized: input_ids"):
        load_pool([{"question": "x", "answer": "y"}], DataConfig())
    with pytest.raises(UnknownNameError, match="did you mean 'alpaca'"):
        load_pool(ROWS, DataConfig(format="alpacca"))


def test_ids_are_the_column_or_the_content():
    with_ids = [{"id": i, "text": "x"} for i in range(3)]
    assert load_pool(with_ids, DataConfig()).ids == ["0", "1", "2"]
    hashed = load_pool(ROWS, DataConfig()).ids
    assert len(set(hashed)) == 3
    assert load_pool([ROWS[2], ROWS[0]], DataConfig()).ids == [hashed[2], hashed[0]]
    twice = load_pool([ROWS[0]] * 3, DataConfig()).ids
    assert twice == [hashed[0], f"{hashed[0]}-1", f"{hashed[0]}-2"]


@pytest.mark.parametrize(
    ("ids", "reason"), [([1, 2, 1], "row 2 of list of dicts has the 1 of row 0"), ([1, None, 3], "row 1 .* has none")]
)
def test_ids_that_name_no_row_for_sure_are_told(ids, reason):
    pool = load_pool([{"id": i, "text": f"x{place}"} for place, i in enumerate(ids)], DataConfig())
    assert [choice.name for choice in pool.choices] == ["format", "ids"]
    assert re.search(reason, pool.choices[1].reason)
    assert all(len(name) == 16 for name in pool.ids)


def test_a_bad_id_column_is_named():
    with pytest.raises(DataError, match=r"row 0 of list of dicts has no 'uid'"):
        load_pool(ROWS, DataConfig(id_column="uid"))
    with pytest.raises(DataError, match=r"row 0 .* and row 2 .* have the same output '3'"):
        load_pool(ROWS, DataConfig(id_column="output"))


def test_sources_come_from_the_column_or_the_pool():
    assert load_pool(ROWS, DataConfig(source_column="output")).sources == ["3", "réd", "3"]
    assert set(load_pool(ROWS, DataConfig()).sources) == {"list of dicts"}


def test_duplicates_are_counted_whatever_their_other_columns():
    assert count_duplicates(load_pool(ROWS, DataConfig())) == 1


texts = st.text(max_size=20)


@given(st.lists(st.dictionaries(texts, texts | st.integers() | st.none() | st.lists(texts)), min_size=1, max_size=5))
def test_json_lines_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(path, DataConfig())
    assert [source[i] for i in range(len(source))] == rows


def test_every_format_says_what_it_wants():
    assert all(form.fields for form in FORMATS.values())
