"""What a selection leaves: valid files, every column, nothing of an earlier run, the same bytes each time."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import spicerack
from spicerack.config import DataConfig
from spicerack.data.records import load_pool
from spicerack.errors import DataError
from spicerack.export.rows import write_selection

G = np.random.default_rng(0).standard_normal((6, 4))
G[4] = np.nan
ROWS = [{"text": f"täxt {i}", "n": {"a": [i, None]}, "f": i / 3} for i in range(6)]


def write(folder, rows=ROWS, budget=3, **options):
    selection = spicerack.select(G, "spice", budget)
    pool = load_pool(rows, DataConfig(format="text"))
    return selection, write_selection(folder, pool, selection, config_yaml="a: 1\n", **options)


def test_rows_are_unchanged_and_ours_stand_behind(tmp_path):
    selection, files = write(tmp_path)
    lines = [json.loads(line) for line in files["selected.jsonl"].read_text(encoding="utf-8").splitlines()]
    assert [list(line) for line in lines] == [
        ["text", "n", "f", *(f"spicerack_{name}" for name in ("rank", "index", "id", "score", "gain"))]
    ] * 3
    for line, i in zip(lines, selection.indices, strict=True):
        assert {name: line[name] for name in ROWS[i]} == ROWS[i]
        assert line["spicerack_score"] == selection.scores[i]
    table = pq.read_table(files["selected.parquet"])
    assert table.to_pylist() == lines


def test_every_sample_has_a_score_or_a_reason(tmp_path):
    selection, files = write(tmp_path, rows_table=pa.table({"id": list("abcdef"), "tokens": range(6)}))
    scores = pq.read_table(files["scores.parquet"]).to_pylist()
    assert [row["id"] for row in scores] == list("abcdef")
    assert [row["index"] for row in scores if row["selected"]] == sorted(selection.indices.tolist())
    assert [row["rank"] for row in scores if not row["selected"]] == [None] * 3
    assert scores[4]["excluded"] == "non-finite gradient"
    assert scores[4]["score"] is None
    assert [row["excluded"] for i, row in enumerate(scores) if i != 4] == [None] * 5


def test_the_manifest_is_json_with_the_certificate(tmp_path):
    selection, files = write(tmp_path)
    manifest = json.loads(files["manifest.json"].read_text())
    assert manifest["certificate"]["share"] == pytest.approx(selection.certificate.share)
    assert manifest["options"]["alpha"] > 0
    assert manifest["excluded_counts"] == {"non-finite gradient": 1}


def test_the_same_selection_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = write(tmp_path / "a")[1], write(tmp_path / "b")[1]
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in second.items()
    }


def test_mixed_types_leave_jsonl_alone_and_say_so(tmp_path):
    (tmp_path / "selected.parquet").write_text("of an earlier run")
    mixed = [{**row, "x": i if i % 2 else f"{i}"} for i, row in enumerate(ROWS)]
    _, files = write(tmp_path, mixed, budget=5)
    assert "selected.parquet" not in files
    assert not (tmp_path / "selected.parquet").exists()
    assert "column 'x' of list of dicts mixes types" in json.loads(files["manifest.json"].read_text())["notes"][0]
    assert len(files["selected.jsonl"].read_text().splitlines()) == 5


def test_selecting_from_a_selected_file_replaces_our_columns(tmp_path):
    again = [{**row, "spicerack_rank": 99, "spicerack_score": 1.0} for row in ROWS]
    _, files = write(tmp_path, again)
    assert [json.loads(line)["spicerack_rank"] for line in files["selected.jsonl"].read_text().splitlines()] == [
        0,
        1,
        2,
    ]
    assert "spicerack_rank" in json.loads(files["manifest.json"].read_text())["notes"][0]


def test_times_and_bytes_become_text_and_other_things_are_refused(tmp_path):
    rows = [{**row, "when": datetime.date(2026, 1, 2), "raw": b"\x00\xff"} for row in ROWS]
    _, files = write(tmp_path, rows)
    line = json.loads(files["selected.jsonl"].read_text().splitlines()[0])
    assert (line["when"], line["raw"]) == ("2026-01-02", "AP8=")
    with pytest.raises(DataError, match="a set cannot be written as JSON"):
        write(tmp_path, [{**row, "odd": {1, 2}} for row in ROWS])


def test_half_an_emoji_stays_the_escape_that_it_came_as(tmp_path):
    rows = [{"text": f"täxt {i}", "meta": "\ud83d" if i == 2 else "ok"} for i in range(4)] + ROWS[4:]
    _, files = write(tmp_path, rows, budget=5)
    text = files["selected.jsonl"].read_bytes().decode()
    assert "\\ud83d" in text
    assert "täxt 1" in text  # every other row as it can be read
    assert rows[2] in [{name: json.loads(line).get(name) for name in ("text", "meta")} for line in text.splitlines()]
    assert "selected.parquet" not in files
    assert "half of a surrogate pair" in json.loads(files["manifest.json"].read_text())["notes"][0]
