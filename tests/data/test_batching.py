"""Every row stands in exactly one batch, within the budget, and pads are never told by their id."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spicerack.data.batching import collate, plan_batches
from spicerack.testing import random_samples


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 600))
def test_a_plan_covers_each_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    plan = plan_batches(lengths, budget)
    rows = sorted(int(i) for batch in plan for i in batch)
    assert rows == np.flatnonzero(lengths > 0).tolist()
    for batch in plan:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


def test_batches_of_similar_length_waste_little():
    lengths = np.random.default_rng(0).lognormal(4.5, 0.7, 2000).astype(int) + 1
    plan = plan_batches(lengths, 2048)
    padded = sum(len(batch) * lengths[batch].max() for batch in plan)
    assert 1 - lengths.sum() / padded < 0.03


def test_padding_is_masked_and_carries_no_loss():
    samples = random_samples([3, 7, 5])
    batch = collate(samples)
    assert batch.attention_mask.sum(1).tolist() == [3, 7, 5]
    assert (batch.labels[batch.attention_mask == 0] == -100).all()
    for row, sample in enumerate(samples):
        assert batch.input_ids[row, : len(sample.input_ids)].tolist() == sample.input_ids.tolist()


def test_equal_lengths_need_no_mask():
    assert collate(random_samples([4, 4])).attention_mask is None
