"""Awkward rows are read as the user wrote them, whatever keeps them, or are refused by name."""

import json

import datasets
import pyarrow.parquet as pq
import pytest

from spicerack.config import DataConfig
from spicerack.data.formats import Chat, convert_row
from spicerack.data.records import count_duplicates, load_pool
from spicerack.data.sources import open_source
from spicerack.errors import DataError, FormatError

AUTO = DataConfig()


def call(**arguments):
    function = {"name": "f", "arguments": arguments}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
    ]
    return {"messages": turns}


CALLS = [call(a=1), call(b="s")]


@pytest.mark.parametrize("kind", ["dataset", "json columns", "arrow", "parquet", "jsonl", "list"])
def test_tool_calls_mean_the_same_whatever_keeps_them(tmp_path, kind):
    mixed = [call(a=1), call(a="s")]  # an argument of two types: datasets keeps it as JSON text
    rows = CALLS if kind in ("dataset", "jsonl", "list") else mixed
    pool = rows
    if kind == "dataset":
        pool = datasets.Dataset.from_list(rows)
    elif kind == "jsonl":
        pool = tmp_path / "pool.jsonl"
        pool.write_text("\n".join(map(json.dumps, rows)))
    elif kind != "list":
        pool = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
        assert "arrow.json" in str(pool.data.table.schema)
        if kind == "arrow":
            pool.save_to_disk(tmp_path / "pool")
            pool = tmp_path / "pool"
        elif kind == "parquet":
            pq.write_table(pool.data.table, tmp_path / "pool.parquet")
            pool = tmp_path / "pool.parquet"
    opened = load_pool(pool, AUTO)
    assert [opened.sample(i) for i in range(2)] == [Chat(tuple(row["messages"])) for row in rows]
    assert opened.source.arrow([1, 0]).num_rows == 2


def test_csv_texts_stay_texts(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,instruction,context,output,uid,score\n007,1 + 2,1,3,01,0.5\n008,2 + 2,2,4,02,1.5\n"
    )
    pool = load_pool(tmp_path / "a.csv", AUTO)
    assert pool.ids == ["007", "008"]
    assert [message["content"] for message in pool.sample(1).messages] == ["2 + 2\n\n2", "4"]
    assert pool.source[0]["score"] == 0.5
    assert load_pool(tmp_path / "a.csv", DataConfig(id_column="uid")).ids == ["01", "02"]


def test_csv_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\nab\xff\n")
    with pytest.raises(DataError, match=r"cannot read .*a\.csv.*UTF8"):
        open_source(tmp_path / "a.csv", AUTO)


def test_a_csv_row_may_be_long(tmp_path):
    text = "line\n" * 600_000
    (tmp_path / "a.csv").write_text(f'text,n\n"{text}",1\n')
    assert open_source(tmp_path / "a.csv", AUTO)[0]["text"] == text


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_half_an_emoji_does_not_stop_a_pool_from_loading(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text({"jsonl": '{"text": "\\ud83d"}\n', "json": '[{"text": "\\ud83d"}]'}[suffix])
    pool = load_pool(path, AUTO)
    assert len(pool.ids) == 1
    assert len(pool.fingerprint()) == 64
    assert count_duplicates(pool) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"a":' + "[" * 100_000, "nested too deep"), ('{"a":' + "1" * 5000 + "}", "Exceeds the limit")],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_that_python_cannot_hold_is_named(tmp_path, suffix, line, message):
    (tmp_path / f"a.{suffix}").write_text(line)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / f"a.{suffix}", AUTO)


def test_a_damaged_arrow_folder_is_named(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read the Arrow folder .*; save it again"):
        open_source(tmp_path, AUTO)


def test_nan_is_read_as_python_reads_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "score": NaN}\n')
    assert load_pool(tmp_path / "a.jsonl", AUTO).source[0]["score"] != 0


def test_compressed_files_are_refused_by_name(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="compressed, which is not supported; unpack it first"):
        open_source(tmp_path / "a.jsonl.gz", AUTO)


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl.gz"])
def test_a_missing_file_is_not_looked_for_on_the_hub(monkeypatch, name):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no such file"):
        open_source(name, AUTO)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("alpaca", {"instruction": "i", "output": "o", "history": ["abc"]}, "history holds 'abc'; expected pairs"),
        ("alpaca", {"instruction": "i", "output": "o", "history": [[1, "b"]]}, "a question in history is a int"),
        ("alpaca", {"instruction": "i", "output": "o", "system": 3}, "system is a int"),
        ("sharegpt", {"conversations": [{"from": "gpt"}]}, "value is a NoneType"),
        ("messages", {"messages": [], "tools": "[{"}, "tools is a text but not JSON"),
        ("messages", {"messages": [], "tools": {"a": 1}}, "tools is a dict; expected a list"),
        ("tokenized", {"input_ids": [1.5], "labels": [1]}, "input_ids has 1.5, a float"),
        ("tokenized", {"input_ids": [1], "labels": ["1"]}, "labels has '1', a str"),
        ("tokenized", {"input_ids": [2**40], "labels": [1]}, "input_ids has 1099511627776; expected numbers from 0"),
        ("tokenized", {"input_ids": [-1], "labels": [1]}, "input_ids has -1; expected numbers from 0"),
        ("tokenized", {"input_ids": [-100], "labels": [1]}, "input_ids has -100; expected numbers from 0"),
        (
            "tokenized",
            {"input_ids": [1, 1], "labels": [-100, -1]},
            "labels has -1; expected .* or -100 where no loss is",
        ),
        ("tokenized", {"input_ids": [1], "labels": [-99]}, "labels has -99; expected"),
        ("tokenized", {"input_ids": [1], "labels": [-101]}, "labels has -101; expected"),
        ("alpaca", {"instruction": "i", "output": "o", "context": ["c"]}, "context is a list"),
    ],
)
def test_fields_of_another_type_are_named(name, row, message):
    with pytest.raises(FormatError, match=f"line 7: .*{message}"):
        convert_row(row, name, where="line 7")


def test_nulls_of_a_table_are_fields_that_are_not_there():
    pool = load_pool(datasets.Dataset.from_list([{"instruction": "i", "output": None, "response": "r"}]), AUTO)
    assert pool.sample(0).messages[1]["content"] == "r"
    rows = [{"text": "a", "source": None}, {"text": "b", "source": "web"}]
    assert load_pool(rows, AUTO).sources == ["list of dicts", "web"]


def test_the_row_that_keeps_a_format_from_being_told_is_named():
    rows = [{"messages": [{"role": "user", "content": "x"}]}, {"messages": []}]
    with pytest.raises(FormatError, match=r"format messages .* but row 1 of list of dicts .*--format messages"):
        load_pool(rows, AUTO)
    assert load_pool(rows, DataConfig(format="messages")).sample(1) == Chat(())


@pytest.mark.parametrize("column", ["id", "source"])
def test_half_an_emoji_in_a_name_is_told_with_its_line(tmp_path, column):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a", "{column}": "b"}}\n{{"text": "a", "{column}": "\\ud83d"}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: '\\ud83d' is half of a surrogate pair"):
        load_pool(path, AUTO)
