"""CSV as people write it: lists as JSON texts, quotes that are never closed, rows of another length."""

import json

import pytest

from spicerack.config import DataConfig
from spicerack.data.records import load_pool
from spicerack.data.sources import open_source
from spicerack.errors import DataError, FormatError

AUTO = DataConfig()
TURNS = [{"role": "user", "content": 'say "hi",\nplease'}, {"role": "assistant", "content": "hi"}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("column", "turns"), [("messages", TURNS), ("conversations", TURNS)])
def test_turns_may_be_the_json_text_of_a_list(tmp_path, column, turns):
    text = json.dumps(turns).replace('"', '""')
    pool = load_pool(write(tmp_path / "a.csv", f'id,{column}\na,"{text}"\n'), AUTO)
    assert pool.format == "messages"
    assert pool.sample(0) == load_pool([{"id": "a", "messages": turns}], AUTO).sample(0)


def test_sharegpt_turns_too(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    text = json.dumps(turns).replace('"', '""')
    pool = load_pool(write(tmp_path / "a.csv", f'conversations\n"{text}"\n'), AUTO)
    assert pool.format == "sharegpt"
    assert [m["content"] for m in pool.sample(0).messages] == ["q", "a"]


def test_a_text_that_is_no_list_of_turns_is_told(tmp_path):
    path = write(tmp_path / "a.csv", "messages\n[not json\n")
    with pytest.raises(FormatError, match="field 'messages' is a str; expected a list"):
        load_pool(path, DataConfig(format="messages")).sample(0)


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path):
    """Arrow takes everything behind it for one value, and says nothing."""
    rows = "".join(f"say {i},ok\n" for i in range(50))
    path = write(tmp_path / "a.csv", f'instruction,output\n{rows}say "x",ok\n"say y,ok\n{rows}')
    with pytest.raises(DataError, match=r"a\.csv:53: a quote is opened in this row and never closed"):
        open_source(path, AUTO)
    longer = write(tmp_path / "b.csv", f'instruction,output\na,b\n"say y,ok\n{rows * 400}')
    with pytest.raises(DataError, match=r"b\.csv:3: a quote"):
        open_source(longer, AUTO)


def test_an_odd_quote_within_a_value_is_no_fault(tmp_path):
    path = write(tmp_path / "a.csv", 'instruction,output\n5" of pipe,ok\n"a ""b"", c",d\n')
    assert [open_source(path, AUTO)[i]["instruction"] for i in range(2)] == ['5" of pipe', 'a "b", c']


def test_a_row_of_another_length_is_named(tmp_path):
    rows = "".join(f"{i},ok\n" for i in range(30))
    path = write(tmp_path / "a.csv", f"instruction,output\n{rows}one,two,three\n{rows}")
    with pytest.raises(DataError, match=r"cannot read .*a\.csv: .*Row #32: Expected 2 columns, got 3"):
        open_source(path, AUTO)


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "instruction,output,output\na,b,c\n")
    with pytest.raises(DataError, match=r"a\.csv has two columns named 'output'; rename"):
        open_source(path, AUTO)
