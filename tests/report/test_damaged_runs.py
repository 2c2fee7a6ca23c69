"""A run's folder with a damaged file: each command that reads it names the file and says what to do."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spicerack.cli.app import main
from spicerack.config import DataConfig, RunConfig, dump_config
from spicerack.data.records import load_pool
from spicerack.errors import DataError, StoreCorruptError
from spicerack.export.rows import write_selection
from spicerack.exports import export_selection
from spicerack.report.folder import RunFolder
from spicerack.selectors import select
from spicerack.training.selection import read_selection


@pytest.fixture
def run(tmp_path):
    rows = [{"id": f"r{i}", "instruction": f"say {i}", "output": f"{i}"} for i in range(20)]
    folder = tmp_path / "run"
    folder.mkdir()
    pool = load_pool(rows, DataConfig())
    selection = select(np.random.default_rng(0).standard_normal((20, 5)), "spice", 6)
    table = pa.table({"id": pool.ids, "source": pool.sources, "tokens": list(range(20))})
    write_selection(folder, pool, selection, config_yaml=dump_config(RunConfig()), rows_table=table)
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Exit code and message of a command that is refused."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["spicerack", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr().err.replace("\n", "")

    return call


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["manifest.json", "scores.parquet", "trace.parquet", "indices.npy"])
@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"")])
def test_a_file_that_is_cut_is_named(run, command, name, damage):
    damage(run / name)
    with pytest.raises(StoreCorruptError, match=rf"{name} is truncated or altered .*select again"):
        RunFolder.open(run)
    for words in (("report", run), ("export", run, "--to", "weights")):
        code, message = command(*words)
        assert code == 4
        assert name in message
    assert not (run / "weights").exists()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([0, 1, 99, 2, 3, 4]), "names row 99, scores.parquet has 20 rows"),
        (np.array([0, 1, 2]), "trace.parquet has 6 values of .*, indices.npy 3 picks"),
        (np.array([0.5] * 6), "does not hold row numbers"),
        (np.array([-1, 1, 2, 3, 4, 5]), "does not hold row numbers"),
    ],
)
def test_files_of_two_selections_are_told(run, indices, message):
    np.save(run / "indices.npy", indices)
    with pytest.raises(StoreCorruptError, match=message):
        RunFolder.open(run)


def test_rows_that_were_deleted_from_the_picks_are_missed(run):
    path = run / "selected.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    selected = read_selection(run)
    with pytest.raises(StoreCorruptError, match=r"selected\.jsonl has 4 rows, and indices\.npy .* 6 picks"):
        selected.pool(selected.config)
    with pytest.raises(StoreCorruptError, match="one of them was changed"):
        export_selection(run, "trl", run)
    alone = read_selection(path)
    assert len(alone.pool(alone.config)) == 4


def test_a_cut_comparison_is_named(tmp_path, command):
    (tmp_path / "results.json").write_text('{"cells": [')
    code, message = command("report", tmp_path)
    assert code == 4
    assert "results.json is truncated" in message


def test_an_unknown_trainer_leaves_no_folder_and_hears_of_weights(run, command):
    code, message = command("export", run, "--to", "nosuch")
    assert code == 2
    assert "weights" in message
    assert not (run / "nosuch").exists()
    assert command("export", run / "none", "--to", "trl")[0] == DataError.exit_code
    assert not (run / "none").exists()


def test_tables_and_manifests_that_are_whole_open(run):
    folder = RunFolder.open(run)
    assert folder.indices.tolist() == np.load(run / "indices.npy").tolist()
    assert folder.scores.equals(pq.read_table(run / "scores.parquet"))
    assert folder.manifest == json.loads((run / "manifest.json").read_text())
