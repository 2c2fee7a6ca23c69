"""Shards are filled in order, one read ahead and one written behind; what fails stops the rest."""

import numpy as np
import pytest

from spicerack.store.filling import fill_shards, settled_tokens_per_batch
from spicerack.store.layout import Shard


class Writer:
    """Keeps what it is given; fails at one shard."""

    def __init__(self, fails_at=None):
        self.written, self.fails_at = [], fails_at

    def write(self, shard, arrays, table):
        if shard.index == self.fails_at:
            raise OSError("disk full")
        self.written.append((shard.index, arrays["gradient"].tolist(), table["id"]))


SHARDS = [Shard(i, 2 * i, 2 * i + 2) for i in (0, 2, 3, 7)]


def read(shard):
    return list(range(shard.start, shard.stop))


def compute(shard, rows):
    return {"gradient": np.array(rows)}, {"id": [f"r{i}" for i in rows]}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_shard_is_written_once_in_order(count):
    writer = Writer()
    fill_shards(writer, SHARDS[:count], read=read, compute=compute)
    assert writer.written == [(s.index, read(s), [f"r{i}" for i in read(s)]) for s in SHARDS[:count]]


def test_a_write_that_fails_is_raised_and_nothing_after_it_is_written():
    writer = Writer(fails_at=2)
    with pytest.raises(OSError, match="disk full"):
        fill_shards(writer, SHARDS, read=read, compute=compute)
    assert [index for index, *_ in writer.written] == [0]


def test_a_row_that_cannot_be_read_keeps_the_shards_before_it():
    def breaks(shard):
        if shard.index == 3:
            raise ValueError("no such row")
        return read(shard)

    writer = Writer()
    with pytest.raises(ValueError, match="no such row"):
        fill_shards(writer, SHARDS, read=breaks, compute=compute)
    assert [index for index, *_ in writer.written] == [0, 2]


@pytest.mark.parametrize(
    ("told", "begun", "settled"),
    [
        (7, None, 7),
        (7, {"tokens_per_batch": 9}, 7),
        (None, {"tokens_per_batch": 9}, 9),
        (None, {"tokens_per_batch": None}, None),
        (None, {}, None),
        (None, None, None),
    ],
)
def test_batches_are_as_told_else_as_begun_with(told, begun, settled):
    assert settled_tokens_per_batch(told, begun) == settled
