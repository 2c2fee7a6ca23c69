"""`spicerack compare` and `spicerack report` as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from spicerack.cli.app import app, register_commands
from spicerack.cli.compare import read_seeds
from spicerack.errors import ConfigurationError


def run(*arguments):
    register_commands()
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_comparison_prints_its_table_and_leaves_its_page(compare_data, tiny_folder, tmp_path):
    options = ["--model", tiny_folder, "--dtype", "float32", "--max-length", 64, "--dimension", 32]
    options += ["--methods", "spice:rows=unit,random", "--budgets", "25%", "--seeds", "7", "--flag-column", "noise"]
    options += ["--lora-r", 2, "--max-steps", 2, "--by", "source", "--resamples", 200]
    command = ["compare", compare_data / "pool.jsonl", "--test", compare_data / "test.jsonl", *options]
    output = run(*command, "--seeds", "7,9", "--output", tmp_path)
    for words in ("budget 25%, 95% intervals", "against random", "spice-unit", "noise", "compare.html"):
        assert words in output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == [7, 9]
    assert results["settings"]["recipe"]["save_strategy"] == "no"
    page = (tmp_path / "compare.html").read_text()
    (tmp_path / "compare.html").unlink()
    assert "compare.html" in run("report", tmp_path)
    assert (tmp_path / "compare.html").read_text() == page
    selection = tmp_path / "selections/spice-unit/rows-6/seed-7"
    assert "report.html" in run("report", selection)
    assert "&lt;b&gt;math&lt;/b&gt;" in (selection / "report.html").read_text()


def test_seeds_are_a_number_or_a_list():
    assert read_seeds("3") == (0, 1, 2)
    assert read_seeds("4,7") == (4, 7)
    for text in ("0", "x", "1,", "-2"):
        with pytest.raises(ConfigurationError, match="expected how many"):
            read_seeds(text)
