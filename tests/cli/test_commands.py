"""The commands as a user runs them: output, files, exit codes, and how fast help is."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spicerack.cli.app import app, register_commands
from spicerack.errors import UnknownNameError

SPICERACK = [sys.executable, "-m", "spicerack.cli.app"]


def spicerack(*arguments, check=0, **options):
    done = subprocess.run([*SPICERACK, *map(str, arguments)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == check, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def model(tiny_folder):
    return ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "--max-length", "64"]


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['spicerack', '--help']\nfrom spicerack.cli import app\n"
    code += "try: app.main()\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("run", "gradients", "select", "inspect", "plan", "methods", "demo"):
        assert re.search(rf"\b{command}\b", done.stdout)


def test_run_then_repeat_from_its_configuration(tiny_pool, model, tmp_path):
    options = ["--budget", "25%", "--output", tmp_path / "a", "--dimension", 64, "--penalty", "0.2"]
    done = spicerack("run", tiny_pool, *model, *options)
    assert "selected 10 of 40 samples by spice" in done.stdout
    assert "alpha = " in done.stdout
    first = np.load(tmp_path / "a/indices.npy")
    spicerack("run", tmp_path / "a/config.yaml", "--output", tmp_path / "b")
    assert np.array_equal(np.load(tmp_path / "b/indices.npy"), first)
    spicerack(
        "run", tmp_path / "a/config.yaml", "--output", tmp_path / "c", "--set", "selection.method=random", check=2
    )


def test_gradients_then_select(tiny_pool, model, tmp_path):
    spicerack("gradients", tiny_pool, *model, "--dimension", 64, "--output", tmp_path / "g")
    done = spicerack(
        "select", tmp_path / "g", "--pool", tiny_pool, "--budget", 5, "--output", tmp_path / "s", "--rows", "unit"
    )
    assert "selected 5 of 40" in done.stdout
    assert (tmp_path / "s/selected.jsonl").read_text().count("\n") == 5
    spicerack("select", tmp_path / "g", "--method", "random", "--budget", "50%", "--output", tmp_path / "r")
    assert len(np.load(tmp_path / "r/indices.npy")) == 20


def test_inspect_marks_the_trained_tokens_and_counts(tiny_pool, model):
    done = spicerack("inspect", tiny_pool, "--model", model[1], "-n", 1)
    assert "[[0 is 0<|im_end|>\n]]" in done.stdout
    assert re.search(r"exact duplicates\s*│\s*0", done.stdout)
    assert "format: alpaca" in done.stdout


def test_plan_prints_cost_and_reasons(tiny_pool, model):
    done = spicerack("plan", tiny_pool, *model)
    for part in ("tokens/s", "store on disk", "tokens_per_batch = ", "sketch = ", "gradient pass"):
        assert part in done.stdout
    done = spicerack("plan", tiny_pool, *model, "--method", "dpp", "--quality", "ifd")
    for part in ("gradients, and one forward pass for ifd", "gradient pass", "forward pass: ifd"):
        assert part in done.stdout


def test_methods_lists_what_each_needs():
    done = spicerack("methods", env={**os.environ, "COLUMNS": "200"})
    for part in ("spice", "random", "column ifd", "required", "one forward pass", "arXiv 2410.11303"):
        assert part in done.stdout


def test_methods_prints_the_options_of_one():
    def said(name):
        done = CliRunner().invoke(app, ["methods", name], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    register_commands()
    for part in ("reads", "one gradient pass", "--rows-from", "gradients | embeddings", "(default: unit)"):
        assert part in said("k_center")
    assert "it has no options" in said("random")
    assert "--difficulty-clusters" in said("lead")
    assert "--train-every" in said("spice")
    for wrong, right in (("lea", "lead"), ("kcenter", "k_center")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{right}'"):
            said(wrong)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "{pool}", "--model", "{model}", "--budget", "0"], 2, "budget"),
        (["run", "{pool}", "--model", "{model}", "--budget", "41"], 2, "budget"),
        (["run", "{pool}", "--model", "{model}", "--budget", "lots"], 2, "budget"),
        (["run", "{pool}", "--model", "{model}", "--method", "spise"], 2, "did you mean 'spice'"),
        (["run", "{pool}", "--model", "{model}", "--penalt", "3"], 2, "did you mean 'penalty'"),
        (["run", "{pool}", "--model", "{empty}"], 2, "no config.json"),
        (["run", "{pool}"], 2, "no model is named"),
        (["run", "{empty}/none.jsonl", "--model", "{model}"], 3, "no such file"),
        (["run", "{empty}/none.yaml"], 2, "cannot read the configuration"),
        (["run", "{broken}", "--model", "{model}"], 3, "broken.jsonl:2 is not valid JSON"),
        (["run", "{pool}", "--model", "{model}", "--output", "{pool}/x"], 4, "cannot write"),
        (["select", "{empty}"], 4, "is not a gradient store"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(tiny_pool, tiny_folder, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text"\n')
    places = {"pool": tiny_pool, "model": tiny_folder, "empty": tmp_path / "empty", "broken": tmp_path / "broken.jsonl"}
    words = [argument.format(**places) for argument in arguments]
    if words[0] == "run" and "--output" not in words:
        words += ["--output", str(tmp_path / "out")]
    done = spicerack(*words, check=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if "No such command" not in message:
        assert done.stderr.splitlines()[-1].startswith("spicerack: error: ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody may write to, root included")
def test_a_folder_that_refuses_writing_costs_no_gradient_pass(tiny_pool, model):
    done = spicerack("run", tiny_pool, *model, "--output", "/sys/spicerack", check=4)
    assert "cannot write to /sys/spicerack" in done.stderr
    assert "gradients:" not in done.stdout


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_pass_goes_on_where_it_was(tiny_pool, model, tmp_path, blow):
    arguments = ["gradients", tiny_pool, *model, "--dimension", 64, "--shard-rows", 2, "--tokens-per-batch", 64]
    spicerack(*arguments, "--output", tmp_path / "whole")
    child = subprocess.Popen(
        [*SPICERACK, *map(str, arguments), "--output", str(tmp_path / "cut")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cut").rglob("shard-*.npy")) and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(blow)
    _, errors = child.communicate(timeout=60)
    if blow == signal.SIGINT:
        assert child.returncode == 130, errors
        assert b"the same command goes on" in errors
    else:
        assert child.returncode == -signal.SIGKILL
    kept = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "cut").rglob("shard-*.npy")}
    assert 0 < len(kept) < 20
    spicerack(*arguments, "--output", tmp_path / "cut")
    same = [path for path, when in kept.items() if os.stat(path).st_mtime_ns == when]
    assert len(same) >= len(kept) - 1  # the last one may not have been in the shard table yet
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
