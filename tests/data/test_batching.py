"""Every row stands in exactly one batch, within the budget, and pads are never told by their id."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spicerack.config import GradientConfig
from spicerack.data.batching import BATCHES_A_BUDGET, PACKED_SPREAD, collate, plan_batches, tokens_held
from spicerack.testing import random_samples


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 600))
def test_a_plan_covers_each_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    plan = plan_batches(lengths, budget)
    rows = sorted(int(i) for batch in plan for i in batch)
    assert rows == np.flatnonzero(lengths > 0).tolist()
    for batch in plan:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 600))
def test_packed_batches_count_no_pads_and_are_bounded_with_them(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    plan = plan_batches(lengths, budget, packed=True)
    assert sorted(int(i) for batch in plan for i in batch) == np.flatnonzero(lengths > 0).tolist()
    for batch in plan:
        held, padded = lengths[batch].sum(), len(batch) * lengths[batch].max()
        assert len(batch) == 1 or (held <= budget and padded <= PACKED_SPREAD * budget)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 200))
def test_no_cut_gives_fewer_packed_batches(lengths, budget):
    rows = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cuts = itertools.product([False, True], repeat=len(rows) - 1)
    least = min(len(batches) for batches in map(_split(rows), cuts) if fits_packed(lengths, batches, budget))
    assert len(plan_batches(np.array(lengths), budget, packed=True)) == least


def fits_packed(lengths, batches, budget):
    held = [(sum(lengths[i] for i in batch), len(batch) * lengths[batch[-1]], len(batch)) for batch in batches]
    return all(rows == 1 or (tokens <= budget and spread <= PACKED_SPREAD * budget) for tokens, spread, rows in held)


def cost(lengths, batches, budget):
    return sum(BATCHES_A_BUDGET * len(batch) * max(lengths[i] for i in batch) + budget for batch in batches)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 200))
def test_no_cut_of_the_sorted_rows_costs_less(lengths, budget):
    rows = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cuts = itertools.product([False, True], repeat=len(rows) - 1)
    least = min(cost(lengths, batches, budget) for batches in map(_split(rows), cuts) if fits(lengths, batches, budget))
    assert cost(lengths, plan_batches(np.array(lengths), budget), budget) == least


def _split(rows):
    def at(cuts):
        places = [0, *(place for place, cut in enumerate(cuts, 1) if cut), len(rows)]
        return [rows[start:stop] for start, stop in itertools.pairwise(places)]

    return at


def fits(lengths, batches, budget):
    return all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget for batch in batches)


@pytest.mark.parametrize("spread", [0.3, 0.6, 0.9])
def test_pads_are_less_than_three_in_a_hundred_on_mixed_lengths(spread):
    rows = GradientConfig().shard_rows
    lengths = np.random.default_rng(0).lognormal(4.6, spread, 8 * 1024).astype(int).clip(8, 2048)
    padded = batches = 0
    for start in range(0, len(lengths), rows):
        shard = lengths[start : start + rows]
        plan = plan_batches(shard, 2048)
        padded += sum(len(batch) * shard[batch].max() for batch in plan)
        batches += len(plan)
    assert 1 - lengths.sum() / padded < 0.03
    assert lengths.sum() / batches > 500  # and batches are no splinters


def test_padding_is_masked_and_carries_no_loss():
    samples = random_samples([3, 7, 5])
    batch = collate(samples)
    assert batch.attention_mask.sum(1).tolist() == [3, 7, 5]
    assert (batch.labels[batch.attention_mask == 0] == -100).all()
    for row, sample in enumerate(samples):
        assert batch.input_ids[row, : len(sample.input_ids)].tolist() == sample.input_ids.tolist()


def test_a_packed_batch_holds_its_tokens_a_padded_one_its_pads():
    samples = random_samples([3, 7, 5])
    assert (tokens_held(samples), tokens_held(samples, packed=True)) == (21, 15)


def test_equal_lengths_need_no_mask():
    assert collate(random_samples([4, 4])).attention_mask is None
