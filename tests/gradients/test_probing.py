"""Batch sizes fit the memory and stop at the knee; batches that do not fit are halved without changing the rows."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from spicerack.data.batching import collate, plan_batches
from spicerack.errors import ConfigurationError
from spicerack.gradients import meter as meters
from spicerack.gradients.backoff import Backoff
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.meter import Measured, is_out_of_memory
from spicerack.gradients.probing import (
    Lengths,
    batch_question,
    choose_tokens_per_batch,
    find_tokens_per_batch,
    pays,
    random_batches,
)
from spicerack.gradients.projection import Projection
from spicerack.gradients.remembered import Answer, Remembered, cache_path
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model

GIGABYTE = 2**30
CPU = torch.device("cpu")


class Simulated:
    """A device of so many bytes, on which a batch takes bytes a token and a sample, and tokens / speed seconds."""

    def __init__(self, memory, *, per_token=1_000_000, per_sample=0, overhead=500_000_000, launch=1000):
        self.memory, self.per_token, self.per_sample, self.overhead = memory, per_token, per_sample, overhead
        self.launch = launch  # tokens' worth of seconds that every batch takes
        self.shapes = []

    def bytes(self, samples, length):
        return self.overhead + samples * length * self.per_token + samples * self.per_sample

    def free(self):
        return self.memory

    def run(self, samples, length):
        self.shapes.append((samples, length))
        if self.bytes(samples, length) > self.memory:
            raise torch.OutOfMemoryError("simulated")

    def measure(self, work):
        work()
        samples, length = self.shapes[-1]
        return Measured((samples * length + self.launch) * 1e-5, self.bytes(samples, length))

    def find(self, lengths, default=256):
        return find_tokens_per_batch(self.run, self, lengths, default=default)


def lengths_of(longest=512, rows=20_000, shard_rows=4096):
    return Lengths(np.random.default_rng(0).permutation(np.linspace(16, longest, rows).astype(int)), shard_rows)


def test_a_batch_fills_the_share_of_the_memory_where_speed_still_rises():
    device = Simulated(8 * GIGABYTE, launch=10**9)
    answer = device.find(lengths_of())
    held = (0.8 * 8 * GIGABYTE - 500_000_000) / 1_000_000
    assert held / 2 < answer.tokens_per_batch <= held
    assert answer.longest == 512
    assert f"holds {int(held):,} tokens" in answer.reason
    assert device.bytes(1, answer.tokens_per_batch) < 0.8 * device.memory


def test_the_size_stops_at_the_knee_of_the_speed():
    small, large = (Simulated(1000 * GIGABYTE, launch=launch).find(lengths_of()) for launch in (10, 1000))
    assert small.tokens_per_batch < large.tokens_per_batch < 60_000
    assert "real tokens/s" in large.reason


def test_pads_count_against_large_batches():
    """With short shards of ragged lengths, a size that the device alone would like holds many pads."""
    device = Simulated(1000 * GIGABYTE, launch=2000)
    ragged = device.find(lengths_of(longest=2048, rows=40_000, shard_rows=32))
    assert ragged.tokens_per_batch < device.find(lengths_of(longest=2048, rows=40_000)).tokens_per_batch


@pytest.mark.parametrize("shard_rows", [7, 64, 1000])
@pytest.mark.parametrize("tokens_per_batch", [1, 100, 5000])
def test_the_real_share_is_that_of_the_plan(shard_rows, tokens_per_batch):
    tokens = np.random.default_rng(0).integers(2, 90, 50)
    shards = [tokens[start : start + shard_rows] for start in range(0, 50, shard_rows)]
    padded = sum(len(b) * max(shard[b]) for shard in shards for b in plan_batches(shard, tokens_per_batch))
    assert Lengths(tokens, shard_rows).real_share(tokens_per_batch) == pytest.approx(tokens.sum() / padded)


def test_many_short_samples_bound_the_batch_where_each_of_them_takes_memory():
    lengths = lengths_of()
    cheap = Simulated(16 * GIGABYTE, launch=10**9).find(lengths)
    dear = Simulated(16 * GIGABYTE, launch=10**9, per_sample=60_000_000).find(lengths)
    assert dear.tokens_per_batch < cheap.tokens_per_batch
    shortest = int(lengths.tokens.min())
    fits = Simulated(16 * GIGABYTE, per_sample=60_000_000)
    assert fits.bytes(dear.tokens_per_batch // shortest, shortest) < 0.8 * fits.memory


def test_memory_for_one_long_sample_only_gives_its_length():
    assert Simulated(int(1.3 * GIGABYTE)).find(lengths_of(rows=40_000)).tokens_per_batch <= 512


def test_a_sample_that_does_not_fit_alone_is_an_error():
    with pytest.raises(ConfigurationError, match="one sample of 512 tokens; lower max_length"):
        Simulated(GIGABYTE // 2).find(lengths_of())


def test_probing_spends_a_small_share_of_the_pool_and_nothing_on_a_small_one():
    device, lengths = Simulated(1000 * GIGABYTE, launch=10**9), lengths_of()
    device.find(lengths)
    assert sum(samples * length for samples, length in device.shapes) <= 0.02 * lengths.tokens.sum()
    assert pays(lengths, 2048)
    assert not pays(lengths_of(rows=200), 2048)


def test_a_pool_too_small_to_time_the_default_and_its_double_gets_the_default():
    device, lengths = Simulated(1000 * GIGABYTE, launch=10**9), lengths_of(rows=2900)
    spent = 3 * 512 + 3 * 512 + 2 * (2048 + 4096)
    assert 0.95 * spent < 0.02 * lengths.tokens.sum() < spent
    answer, (choice,) = choose(device, lengths, None)
    assert (answer, choice.value, device.shapes) == (None, "2048", [])
    answer, _ = choose(device, lengths_of(rows=3000), None)
    assert 1.5 * 2048 < answer.tokens_per_batch <= 4096


def test_no_size_below_the_default_is_timed():
    """Of 256 and 512 tokens the better one is a poor size; on a noisy machine it may win all the same."""
    device, lengths = Simulated(1000 * GIGABYTE, launch=0), lengths_of()
    answer = device.find(lengths, default=2048)
    median = int(np.median(lengths.tokens))
    timed = [samples for samples, length in device.shapes if length == median]
    assert min(timed) == 2048 // median
    assert answer.tokens_per_batch == min(timed) * median  # as fast as any, and the smallest


def test_errors_that_are_not_about_memory_pass():
    def broken(samples, length):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_tokens_per_batch(broken, Simulated(GIGABYTE), lengths_of(), default=256)


QUESTION = batch_question(fingerprint="abc", dtype="float32", device="cpu", tracked=["a", "b"], dimension=64, whole=[])


def choose(device, lengths, remembered, question=QUESTION):
    return choose_tokens_per_batch(device.run, device, lengths, default=2048, question=question, remembered=remembered)


def test_an_answer_is_remembered_and_not_asked_for_again(tmp_path):
    remembered, device = Remembered(tmp_path / "deep" / "batch.json"), Simulated(8 * GIGABYTE)
    first, (choice,) = choose(device, lengths_of(), remembered)
    assert (choice.name, choice.value) == ("tokens_per_batch", str(first.tokens_per_batch))
    again = Simulated(16 * GIGABYTE)
    second, (choice,) = choose(again, lengths_of(longest=400), Remembered(remembered.path))
    assert second == first
    assert again.shapes == []
    assert "remembered in" in choice.reason


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"device": "cuda"}, {"tracked": ["a"]}, {"whole": ["moments"]}]
)
def test_another_question_has_another_answer(tmp_path, change):
    remembered = Remembered(tmp_path / "batch.json")
    choose(Simulated(8 * GIGABYTE), lengths_of(), remembered)
    other = Simulated(8 * GIGABYTE)
    choose(other, lengths_of(), remembered, {**QUESTION, **change})
    assert other.shapes


def test_an_answer_for_shorter_samples_does_not_count(tmp_path):
    remembered = Remembered(tmp_path / "batch.json")
    short, _ = choose(Simulated(8 * GIGABYTE), lengths_of(longest=300), remembered)
    other = Simulated(16 * GIGABYTE)
    long, _ = choose(other, lengths_of(longest=301), remembered)
    assert other.shapes
    assert long.tokens_per_batch != short.tokens_per_batch
    for longest, answer in ((200, short), (300, short), (301, long)):  # what was found for a pool stays
        assert choose(Simulated(GIGABYTE), lengths_of(longest=longest), Remembered(remembered.path))[0] == answer


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        "[]",
        "{}",
        '{"version": 4, "answers": {"x": 3}}',
        '{"version": 4, "answers": {"x": [{"tokens_per_batch": -4, "longest": 3, "reason": ""}]}}',
        "\udcff",
    ],
)
def test_a_corrupt_file_is_ignored_said_and_replaced(tmp_path, text):
    path = tmp_path / "batch.json"
    path.write_text(text, errors="surrogateescape")
    answer, choices = choose(Simulated(8 * GIGABYTE), lengths_of(), Remembered(path))
    assert [choice.name for choice in choices] == ["batch_cache", "tokens_per_batch"]
    assert "written anew" in choices[0].reason
    ((kept,),) = json.loads(path.read_text())["answers"].values()
    assert kept["tokens_per_batch"] == answer.tokens_per_batch
    assert [file.name for file in tmp_path.iterdir()] == ["batch.json"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    _, choices = choose(Simulated(8 * GIGABYTE), lengths_of(), Remembered(tmp_path / "file" / "batch.json"))
    assert ("batch_cache", "not written") in [choice[:2] for choice in choices]


def test_without_a_memory_nothing_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path() == tmp_path / "spicerack" / "batch.json"
    choose(Simulated(8 * GIGABYTE), lengths_of(), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found_before", [False, True])
def test_the_default_stands_for_a_small_pool_whatever_is_remembered(tmp_path, found_before):
    path = tmp_path / "batch.json"
    if found_before:
        choose(Simulated(8 * GIGABYTE), lengths_of(), Remembered(path))
    device = Simulated(8 * GIGABYTE)
    answer, (choice,) = choose(device, lengths_of(rows=50), Remembered(path))
    assert answer is None
    assert device.shapes == []
    assert choice.value == "2048"
    assert "too few for a probe to pay" in choice.reason
    assert path.exists() is found_before


def test_an_answer_may_be_lowered_after_a_pass(tmp_path):
    remembered = Remembered(tmp_path / "batch.json")
    choose(Simulated(8 * GIGABYTE), lengths_of(), remembered)
    assert remembered.put(QUESTION, Answer(100, 512, "a larger batch did not fit")) is None
    assert choose(Simulated(8 * GIGABYTE), lengths_of(), remembered)[0].tokens_per_batch == 100


def test_one_slow_moment_does_not_end_the_search():
    """The third size meets a busy machine; the ones after it are looked at all the same."""

    class Busy(Simulated):
        def measure(self, work):
            measured = super().measure(work)
            slow = self.shapes[-1][0] * self.shapes[-1][1] in range(900, 1200)
            return Measured(measured.seconds * (5 if slow else 1), measured.bytes)

    quiet, busy = (kind(1000 * GIGABYTE, launch=3000).find(lengths_of()) for kind in (Simulated, Busy))
    assert busy.tokens_per_batch == quiet.tokens_per_batch > 1200


@pytest.fixture
def captured():
    model = tiny_model("llama")
    with GradientCapture(model, Projection(tracked_parameters(model, "blocks"), dimension=64)) as capture:
        yield capture


def limited(capture, most, tried):
    """A pass on a device that holds `most` padded tokens; it fails in the middle of a backward."""

    def run(samples):
        batch = collate(samples)
        tried.append(batch.input_ids.numel())
        if batch.input_ids.numel() > most:
            capture.head.hidden(batch.input_ids, batch.attention_mask)
            raise torch.OutOfMemoryError("simulated")
        return batch_gradients(capture, batch, "mean")

    return run


@pytest.mark.parametrize("most", [12, 30, 100])
def test_halved_batches_give_the_rows_of_the_whole(captured, most):
    samples = random_samples([5, 9, 12, 3, 7, 12, 4, 2, 8])
    whole = batch_gradients(captured, collate(samples), "mean")
    said, tried = [], []
    backoff = Backoff(limited(captured, most, tried), device=CPU, say=said.append)
    parts = backoff.run_with_backoff(samples)
    for name in ("rows", "loss_sum", "gradient_norm"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
    assert parts.trained.tolist() == whole.trained.tolist()
    assert len(said) == 1
    assert said[0].name == "tokens_per_batch"
    assert "9 x 12 tokens did not fit" in said[0].reason


def test_what_did_not_fit_is_not_tried_again(captured):
    tried = []
    backoff = Backoff(limited(captured, 60, tried), device=CPU, say=lambda _: None)
    backoff.run_with_backoff(random_samples([10] * 10))
    assert tried == [100, 50, 50]
    backoff.run_with_backoff(random_samples([10] * 10))
    assert tried == [100, 50, 50, 50, 50]
    assert backoff.limit == 50


def test_batches_that_fit_are_left_alone(captured):
    tried, said = [], []
    backoff = Backoff(limited(captured, 1000, tried), device=CPU, say=said.append)
    backoff.run_with_backoff(random_samples([10] * 10))
    assert (tried, said, backoff.limit) == ([100], [], None)


def test_a_packed_batch_that_does_not_fit_is_known_by_its_tokens(captured):
    tried, said = [], []
    backoff = Backoff(limited(captured, 30, tried), device=CPU, say=said.append, packed=True)
    backoff.run_with_backoff(random_samples([3, 5, 12, 4]))
    assert backoff.limit == 12
    assert "a batch of 24 tokens did not fit" in said[0].reason


def test_packed_batches_are_another_question_and_have_no_pads():
    told = {"fingerprint": "f", "dtype": "float32", "device": "cpu", "tracked": [], "dimension": 8, "whole": []}
    assert {**batch_question(**told), "packed": True} == batch_question(**told, packed=True)
    assert Lengths(np.array([3, 200]), 128, packed=True).real_share(1000) == 1.0


def test_one_sample_that_does_not_fit_is_an_error(captured):
    backoff = Backoff(limited(captured, 11, []), device=CPU, say=lambda _: None)
    with pytest.raises(ConfigurationError, match="one sample of 12 tokens on cpu"):
        backoff.run_with_backoff(random_samples([5, 12, 3]))


def test_other_errors_pass_through_the_backoff():
    def broken(samples):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Backoff(broken, device=CPU, say=lambda _: None).run_with_backoff(random_samples([4, 4]))


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: ..."), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_known_in_all_its_forms(error, answer):
    assert is_out_of_memory(error) is answer


METER = """
import time
import torch
from spicerack.gradients.meter import DeviceMeter

def hold():
    held = torch.ones(1 << 26)
    time.sleep(0.5)  # on a busy machine the thread that looks has to wait its turn
    return held.sum()

meter = DeviceMeter(torch.device("cpu"))
small = meter.measure(lambda: torch.ones(1 << 18).sum())
large = meter.measure(hold)
assert large.bytes - small.bytes > 0.5 * (1 << 28), (small, large)
assert large.seconds > 0
assert 1 << 20 < meter.free() < 1 << 50
"""


def test_the_cpu_meter_sees_what_work_holds():
    """In a process of its own: what other tests let go of in the meantime would count against what the work holds."""
    subprocess.run([sys.executable, "-c", METER], check=True)


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_the_limit_of_a_container_counts(tmp_path, limit, used):
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("5000\n")
    (tmp_path / used).write_text("2000\n")
    assert meters._container_available(tmp_path) == 3000
    (tmp_path / limit).write_text("max\n")
    assert meters._container_available(tmp_path) == 1 << 62


def test_random_batches_take_the_capture_through_a_batch(captured):
    run = random_batches(captured, "mean", vocabulary=64, device=CPU)
    run(3, 7)
    assert captured.sketches.shape == (3, captured.projection.columns)
    assert captured.sketches.abs().sum() > 0
