"""`spicerack analyze` on a tiny store: its files, its table, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def spicerack(*arguments, check=0):
    command = [sys.executable, "-m", "spicerack.cli.app", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def work(tiny_folder, tiny_pool, tmp_path_factory):
    """A store of forty rows with a SPICE selection and a random one."""
    folder = tmp_path_factory.mktemp("analyze")
    model = ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "--max-length", 64]
    spicerack("gradients", tiny_pool, *model, "--dimension", 64, "--output", folder / "g")
    spicerack("select", folder / "g", "--budget", 10, "--rows", "unit", "--output", folder / "s")
    spicerack("select", folder / "g", "--budget", 10, "--method", "random", "--output", folder / "r")
    return folder


def test_two_selections_are_analyzed_and_compared(work, tmp_path):
    out = ["--output", tmp_path / "a.json", "--samples", tmp_path / "a.npz", "--sizes", "2,10"]
    done = spicerack("analyze", work / "g", "--selection", work / "s", "--other", work / "r/indices.npy", *out)
    assert "curvature of the high conflict third" in done.stdout
    assert "overlap of the two selections" in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["rows"] == "unit"  # the selection's own
    assert [at["size"] for at in found["analysis"]["sizes"]] == [2, 10]
    first, second = (np.load(work / name / "indices.npy") for name in "sr")
    assert found["overlap"]["common"] == np.intersect1d(first, second).size
    assert sum(source["first"] for source in found["overlap"]["sources"]) == 10
    certificate = json.loads((work / "s/manifest.json").read_text())["certificate"]
    assert found["analysis"]["information"] == pytest.approx(certificate["information"], rel=1e-9)
    samples = np.load(tmp_path / "a.npz")
    assert samples["epsilon"].shape == samples["conflict"].shape == (2, 40)
    assert samples["base"].shape == (40,)


def test_without_a_selection_spice_picks(work, tmp_path):
    done = spicerack(
        "analyze", work / "g", "--budget", 5, "--rows", "unit", "--alpha", 2, "--output", tmp_path / "b.json"
    )
    assert "5 of " in done.stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["analysis"]["alpha"], found["analysis"]["picks"], found["overlap"]) == (2.0, 5, None)
    again = tmp_path / "c.json"
    spicerack("analyze", work / "g", "--budget", 5, "--rows", "unit", "--alpha", 2, "--output", again)
    assert again.read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--selection", "{work}"], 3, "cannot read"),
        (["--selection", "{bad}/far.npy"], 3, "names row 40, the store has 40"),
        (["--selection", "{bad}/twice.npy"], 3, "names a row twice"),
        (["--selection", "{bad}/floats.npy"], 3, "does not hold a list of row numbers"),
        (["--other", "{bad}/text.npy", "--budget", "5"], 3, "cannot read"),
        (["--budget", "5", "--sizes", "1,6"], 2, "expected whole numbers from 0 to 5"),
        (["--rows", "units"], 2, "did you mean 'unit'"),
        (["--alpha", "-1"], 2, "expected a number above 0, or auto"),
        (["--budget", "0"], 2, "budget"),
        (["--budget", "5", "--output", "{bad}/none/a.json"], 4, "cannot write"),
        (["--budget", "5", "--output", "{bad}/text.npy/a.json"], 4, "cannot write"),
        (["--selection", "{bad}/other"], 3, "is of another pool than"),
        (["--other", "{bad}/other", "--budget", "5"], 3, "is of another pool than"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(work, tmp_path, arguments, code, message):
    np.save(tmp_path / "far.npy", np.array([3, 40]))
    np.save(tmp_path / "twice.npy", np.array([3, 3]))
    np.save(tmp_path / "floats.npy", np.array([0.5]))
    (tmp_path / "text.npy").write_text("rows")
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other/indices.npy", np.arange(5))
    ids = [f"u{i}" for i in range(40)]
    pq.write_table(pa.table({"id": ids, "excluded": pa.nulls(40, pa.string())}), tmp_path / "other/scores.parquet")
    words = [word.format(work=work, bad=tmp_path) for word in arguments]
    if "--output" not in words:
        words += ["--output", str(tmp_path / "a.json")]
    done = spicerack("analyze", work / "g", *words, check=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_another_methods_alpha_is_not_the_weight_of_a_row(work, tmp_path):
    """tsds calls its distance weight so; the rows that it was told to leave out are not analyzed."""
    drawn = ["select", work / "g", "--budget", 10, "--method", "random"]
    spicerack(*drawn, "--exclude", "t0", "--exclude", "t1", "--output", tmp_path / "x")
    manifest = json.loads((tmp_path / "x/manifest.json").read_text())
    manifest["options"]["alpha"] = 1e-9
    (tmp_path / "x/manifest.json").write_text(json.dumps(manifest))
    for name, selection in (("x", tmp_path / "x"), ("r", work / "r")):
        spicerack("analyze", work / "g", "--selection", selection, "--output", tmp_path / f"{name}.json")
    without, whole = (json.loads((tmp_path / f"{name}.json").read_text())["analysis"] for name in "xr")
    assert without["alpha"] == pytest.approx(whole["alpha"], rel=0.2)
    assert without["rows"] == whole["rows"] - 2


def test_a_selection_without_a_pool_leaves_no_rows_of_an_earlier_one(work, tiny_pool, tmp_path):
    out = ["--output", tmp_path / "s"]
    spicerack("select", work / "g", "--budget", 3, "--pool", tiny_pool, *out)
    assert (tmp_path / "s/selected.jsonl").is_file()
    spicerack("select", work / "g", "--budget", 4, "--method", "length", *out)
    assert not (tmp_path / "s/selected.jsonl").exists()
    assert not (tmp_path / "s/selected.parquet").exists()


def test_a_pool_that_was_changed_since_is_refused(work, tiny_pool, tmp_path):
    changed = tmp_path / "pool.jsonl"
    changed.write_text(tiny_pool.read_text().replace("is 7", "is not 7"))
    done = spicerack("select", work / "g", "--budget", 3, "--pool", changed, "--output", tmp_path / "s", check=3)
    assert "other content" in done.stderr


def test_a_text_column_is_no_quality(work, tmp_path):
    words = ["--method", "dpp", "--quality", "source", "--budget", 3, "--output", tmp_path / "s"]
    assert "expected numbers" in spicerack("select", work / "g", *words, check=2).stderr


def test_trim_groups_without_a_trim_are_refused(work, tmp_path):
    words = ["--trim-groups", "source", "--budget", 3, "--output", tmp_path / "s"]
    assert "give trim=" in spicerack("select", work / "g", *words, check=2).stderr
