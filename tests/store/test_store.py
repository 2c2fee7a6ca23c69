"""The store's promises: the same bytes after any interruption, refusal of what does not fit, plain numpy."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spicerack.errors import (
    OutputError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreMismatchError,
    UnknownNameError,
)
from spicerack.selectors.rows import Rows
from spicerack.store.files import write_atomically
from spicerack.store.reader import GradientStore
from spicerack.store.writer import StoreWriter

N, K, SHARD = 23, 6, 5
SETTINGS = {"model": "m (weights 1)", "label_rule": "abc", "projection": {"seed": 0}}


def gradient_rows():
    rows = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    return rows * np.logspace(-7, 7, N, dtype=np.float32)[:, None]


def table(start, stop):
    size = stop - start
    return {
        "id": [f"r{i}" for i in range(start, stop)],
        "source": ["s"] * size,
        "loss_mean": np.ones(size, np.float32),
        "loss_sum": np.ones(size, np.float32),
        "tokens": np.full(size, 9, np.int32),
        "trained_tokens": np.arange(start, stop, dtype=np.int32),
        "cut_tokens": np.zeros(size, np.int32),
        "gradient_norm": np.ones(size, np.float32),
    }


def begin(path, **changes):
    options = {
        "settings": SETTINGS,
        "n": N,
        "arrays": {"gradient": K},
        "shard_rows": SHARD,
        "dtype": "float16",
    } | changes
    return StoreWriter.create_or_resume(path, **options)


def make(path, rows=None, **changes):
    rows = gradient_rows() if rows is None else rows
    with begin(path, **changes) as writer:
        for shard in writer.missing():
            writer.write(shard, {"gradient": rows[shard.start : shard.stop]}, table(shard.start, shard.stop))
        return writer.finish()


def contents(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 8e-3), ("float32", 2e-7)])
def test_rows_come_back_at_any_scale(tmp_path, dtype, tolerance):
    rows = gradient_rows()
    store = make(tmp_path / "s", dtype=dtype)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(store.matrix() - rows).max(1).tolist() == pytest.approx([0] * N, abs=float(norms.max()) * tolerance)
    assert (np.abs(store.matrix() - rows) <= norms * tolerance).all()
    assert np.linalg.norm(store.matrix("unit"), axis=1) == pytest.approx(np.ones(N), abs=max(tolerance, 2e-3))
    assert store.column("sketch_norm") == pytest.approx(norms[:, 0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, N), st.integers(0, N))
def test_a_block_is_that_part_of_the_matrix(tmp_path_factory, a, b):
    path = tmp_path_factory.getbasetemp() / "blocks"
    store = GradientStore.open(path) if path.exists() else make(path)
    start, stop = sorted((a, b))
    assert np.array_equal(store.block(start, stop), store.matrix()[start:stop])


def test_plain_numpy_reads_a_shard(tmp_path):
    store = make(tmp_path / "s")
    shard = np.load(tmp_path / "s/checkpoint-0/shard-00001.npy", mmap_mode="r")
    assert shard.dtype == np.float16
    assert np.array_equal(shard, store.block(SHARD, 2 * SHARD, rows="unit").astype(np.float16))


def test_torch_reads_a_shard_of_bfloat16(tmp_path):
    store = make(tmp_path / "s", dtype="bfloat16")
    shard = np.load(tmp_path / "s/checkpoint-0/shard-00001.npy")
    rows = torch.from_numpy(shard).view(torch.bfloat16)
    assert np.array_equal(rows.float().numpy(), store.block(SHARD, 2 * SHARD, rows="unit"))
    unit = torch.nn.functional.normalize(torch.from_numpy(gradient_rows()[SHARD : 2 * SHARD]), eps=0)
    assert torch.nan_to_num(rows.float() - unit.bfloat16().float()).abs().max() <= 2**-8
    with pytest.raises(StoreMismatchError, match="dtype was bfloat16, now float16"):
        make(tmp_path / "s")


def test_rows_that_are_not_finite_are_zeros_and_named(tmp_path):
    rows = gradient_rows()
    rows[3, 2], rows[7, 0] = np.nan, np.inf
    store = make(tmp_path / "s", rows)
    assert store.excluded() == [(0, "no trained tokens"), (3, "non-finite gradient"), (7, "non-finite gradient")]
    assert not store.matrix()[[3, 7]].any()
    assert np.isfinite(store.matrix()).all()


def test_two_undisturbed_runs_give_the_same_bytes(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


CHILD = """
    import os, sys, signal
    sys.path.insert(0, {folder!r})
    import test_store
    from spicerack.store import files
    count = 0
    def dying(real):
        def call(*args, **kwargs):
            global count
            count += 1
            if count == {moment}:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    os.replace, os.fsync = dying(os.replace), dying(os.fsync)
    test_store.make({path!r})
"""


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 6, 9, 14, 20, 31, 44, 47])
def test_a_kill_at_any_moment_costs_only_what_was_not_done(tmp_path, moment):
    make(tmp_path / "whole")
    code = textwrap.dedent(CHILD).format(folder=str(Path(__file__).parent), moment=moment, path=str(tmp_path / "s"))
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = {p: os.stat(p).st_mtime_ns for p in (tmp_path / "s").rglob("shard-*.npy")}
    with begin(tmp_path / "s") as writer:
        missing = {shard.file("gradient") for shard in writer.missing()}
    make(tmp_path / "s")
    for path, when in kept.items():
        if str(path.relative_to(tmp_path / "s")) not in missing:
            assert os.stat(path).st_mtime_ns == when
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_one_writer_at_a_time(tmp_path):
    with begin(tmp_path / "s"), pytest.raises(StoreLockedError, match="another process is writing"):
        begin(tmp_path / "s")
    begin(tmp_path / "s").__exit__(None, None, None)


def test_other_settings_are_refused_with_both_values(tmp_path):
    make(tmp_path / "s")
    changed = {**SETTINGS, "model": "m (weights 2)", "label_rule": "xyz"}
    with pytest.raises(StoreMismatchError) as caught:
        begin(tmp_path / "s", settings=changed, arrays={"gradient": 7})
    for part in ("model was m (weights 1), now m (weights 2)", "label_rule was abc, now xyz", "k was 6, now 7"):
        assert part in str(caught.value)


def test_an_unfinished_store_is_not_read(tmp_path):
    with begin(tmp_path / "s") as writer:
        shard = writer.missing()[0]
        writer.write(shard, {"gradient": gradient_rows()[: shard.stop]}, table(0, shard.stop))
    with pytest.raises(StoreError, match=r"unfinished, 1 of 5 shards; repeat"):
        GradientStore.open(tmp_path / "s")


@pytest.mark.parametrize("damage", ["truncate", "alter", "rows", "remove"])
def test_damage_is_named_and_mended_by_deleting_the_file(tmp_path, damage):
    make(tmp_path / "s")
    before = contents(tmp_path / "s")
    path = tmp_path / "s" / ("rows.parquet" if damage == "rows" else "checkpoint-0/shard-00002.npy")
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data[:-3] if damage == "truncate" else data)
    with pytest.raises(StoreCorruptError, match=f"{path.name} is .*repeat the command"):
        GradientStore.open(tmp_path / "s")
    path.unlink(missing_ok=True)
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == before


def test_a_broken_manifest_and_foreign_folders(tmp_path):
    make(tmp_path / "s")
    manifest = tmp_path / "s/manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(StoreCorruptError, match="truncated or altered"):
        GradientStore.open(tmp_path / "s")
    manifest.unlink()
    with pytest.raises(StoreError, match="is not a gradient store"):
        GradientStore.open(tmp_path / "s")
    with pytest.raises(StoreCorruptError, match="shards but no manifest"):
        begin(tmp_path / "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \('notes.txt'\)"):
        begin(tmp_path / "other")


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    rows = gradient_rows()
    with begin(tmp_path / "s") as writer:
        first, second = writer.missing()[:2]
        writer.write(first, {"gradient": rows[: first.stop]}, table(0, first.stop))

        def full(*_args, **_kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", full)
            with pytest.raises(OutputError, match="is full; free space"):
                writer.write(second, {"gradient": rows[second.start : second.stop]}, table(second.start, second.stop))
    assert not list((tmp_path / "s").rglob("*.partial"))
    make(tmp_path / "s")
    make(tmp_path / "whole")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        begin(tmp_path / "file" / "s")


def test_a_copy_elsewhere_is_the_same_store(tmp_path):
    store = make(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    assert GradientStore.open(tmp_path / "copy").fingerprint() == store.fingerprint()


def test_a_row_of_the_smallest_norm_is_kept(tmp_path):
    """Its inverse is past float32."""
    rows = gradient_rows()
    rows[3] *= np.float32(1e-39) / np.linalg.norm(rows[3])
    store = make(tmp_path / "s", rows, dtype="float32")
    assert store.column("finite").all()
    np.testing.assert_allclose(np.linalg.norm(store.matrix("unit")[3]), 1.0, rtol=1e-5)
    np.testing.assert_allclose(store.matrix()[3], rows[3], rtol=1e-3, atol=1e-44)


def test_whatever_fails_leaves_no_part_of_a_file(tmp_path):
    def write(file):
        file.write(b"some")
        raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "no")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "a", write)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_told_to_be_deleted(tmp_path):
    """A run's folder has a manifest too."""
    run = tmp_path / "run"
    make(run / "gradients")
    (run / "manifest.json").write_text('{"method": "spice"}')
    with pytest.raises(StoreError, match=r"is not that of a store; its store is .*run/gradients") as caught:
        GradientStore.open(run)
    assert "delete" not in str(caught.value)
    (tmp_path / "manifest.json").write_text('{"method": "spice"}')
    with pytest.raises(StoreError, match="is not that of a store; name a store"):
        GradientStore.open(tmp_path)


@pytest.mark.parametrize("form", ["units", "Plain", "raw"])
def test_a_misspelt_form_of_rows_is_named(tmp_path, form):
    store = make(tmp_path / "s")
    rows = Rows(store)
    for read in (store.matrix, rows.matrix, lambda form: rows.take(slice(0, 2), form)):
        with pytest.raises(UnknownNameError, match="row form"):
            read(form)


def test_two_processes_may_write_one_file(tmp_path):
    """Each under a name of its own; what is there in the end is whole."""
    code = "import sys\nfrom pathlib import Path\nfrom spicerack.store.files import write_json\n"
    code += f"for i in range(300): write_json(Path({str(tmp_path)!r}) / 'a.json', [int(sys.argv[1])] * 1000)\n"
    started = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len({*json.loads((tmp_path / "a.json").read_text())}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
