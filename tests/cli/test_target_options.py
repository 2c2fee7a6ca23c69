"""Targets, quotas and fixed rows on the command line, and the configuration that repeats them."""

import json

import numpy as np
import pytest
import yaml
from test_commands import spicerack

from spicerack.cli.repeated import read_several, takes_several
from spicerack.errors import ConfigurationError


@pytest.fixture
def files(tmp_path):
    def write(name, numbers, labels):
        rows = [
            {"instruction": f"say {i}", "output": f"{i * 7919 % 1000} is {i}", "capability": label}
            for i, label in zip(numbers, labels, strict=True)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write("math.jsonl", [1, 2, 3], ["add", "mul", "add"]), write("shell.jsonl", [30], ["find"])


def test_several_targets_by_name_and_column(tiny_pool, tiny_folder, files, tmp_path):
    math, shell = files
    model = ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "--max-length", 64, "--dimension", 64]
    done = spicerack(
        *("run", tiny_pool, *model, "--method", "less", "--budget", 8, "--output", tmp_path / "a"),
        *("--target", f"math={math}", "--target", f"shell={shell}", "--subtask-column", "capability"),
        *("--quotas", "s0=..3", "--quotas", "*=1..5", "--include", "t9", "--exclude", "row:3"),
    )
    assert "picks by subtask: math/add" in done.stdout
    assert "NO ADAM-FORM ROWS" in done.stdout
    section = yaml.safe_load((tmp_path / "a/config.yaml").read_text())["selection"]
    assert section["target"] == {"math": str(math), "shell": str(shell)}
    assert (section["quotas"], section["include"], section["exclude"]) == ({"s0": "..3", "*": "1..5"}, ["t9"], [3])
    first = np.load(tmp_path / "a/indices.npy")
    assert first[0] == 9
    assert 3 not in first
    taken = [f"{name}={tmp_path / 'a/targets' / name}" for name in ("math", "shell")]
    select = ["select", tmp_path / "a/gradients", "--method", "bids", "--budget", 4, "--output", tmp_path / "c"]
    done = spicerack(*select, "--target", taken[0], "--target", taken[1], "--task-weights", "{math: 2}")
    assert "picks by subtask: math" in done.stdout


def test_what_an_option_given_several_times_means(tmp_path):
    assert read_several(dict, "--target", ["a.jsonl"]) == "a.jsonl"
    assert read_several(dict, "--target", ["x=a.jsonl"]) == {"x": "a.jsonl"}
    assert read_several(dict, "--target", ["d/a.jsonl", "b.jsonl"]) == {"a": "d/a.jsonl", "b": "b.jsonl"}
    assert read_several(dict, "--target", ["runs/lr=1/store"]) == "runs/lr=1/store"
    assert read_several(dict, "--quotas", ["proportional"]) == "proportional"
    assert read_several(dict, "--quotas", ["a=1..2", "*=5%.."]) == {"a": "1..2", "*": "5%.."}
    ids = tmp_path / "ids.txt"
    ids.write_text("t1\n\nrow:4\n")
    assert read_several(list, "--exclude", ["17", f"@{ids}", "row:2"]) == ["17", "t1", 4, 2]
    assert read_several(None, "--budget", "10%") == "10%"
    assert takes_several(str | dict[str, str] | None) is dict
    assert takes_several(list[int | str]) is list
    assert takes_several(int | None) is None


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (dict, ["x=a", "x=b"], "two values named 'x'"),
        (list, ["row:one"], "row:NUMBER"),
        (list, ["@nowhere.txt"], "cannot read nowhere.txt"),
    ],
)
def test_what_cannot_be_read(kind, words, message):
    with pytest.raises(ConfigurationError, match=message):
        read_several(kind, "--option", words)


def test_a_quotas_group_may_be_any_name():
    words = ["org/math=..3", "a=b=1..2", "*=..50%"]
    assert read_several(dict, "--quotas", words) == {"org/math": "..3", "a=b": "1..2", "*": "..50%"}
    assert read_several(dict, "--quotas", ["org/math=..3"]) == {"org/math": "..3"}
    for words, told in ((["a=1", "b"], "expected GROUP=RANGE"), (["a=1", "a=2"], "two ranges of 'a'")):
        with pytest.raises(ConfigurationError, match=told):
            read_several(dict, "--quotas", words)
