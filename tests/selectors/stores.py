"""Small stores for the tests of selectors: several arrays, segments, checkpoints, as the gradient pass writes them."""

from __future__ import annotations

import numpy as np

from spicerack.store.collection import Member, begin_collection
from spicerack.store.layout import Segment
from spicerack.store.reader import GradientStore
from spicerack.store.writer import StoreWriter


def write_store(path, arrays, *, settings=None, segments=(), trained=None, sources=None, dtype="float32"):
    """A store of the arrays, name -> (n, columns); five tokens a row, all of them trained unless `trained` says."""
    n = len(next(iter(arrays.values())))
    trained = np.full(n, 5) if trained is None else np.asarray(trained)
    with StoreWriter.create_or_resume(
        path,
        settings=settings or {},
        n=n,
        arrays={name: values.shape[1] for name, values in arrays.items()},
        shard_rows=7,
        dtype=dtype,
        segments=[Segment(*segment) for segment in segments],
    ) as writer:
        for shard in writer.missing():
            part, size = slice(shard.start, shard.stop), shard.stop - shard.start
            table = {
                "id": [f"r{i}" for i in range(shard.start, shard.stop)],
                "source": ["pool"] * size if sources is None else list(sources[part]),
                **{name: np.ones(size, dtype=np.float32) for name in ("loss_mean", "loss_sum", "gradient_norm")},
                "tokens": np.full(size, 5),
                "trained_tokens": trained[part],
                "cut_tokens": np.zeros(size, dtype=np.int32),
            }
            writer.write(shard, {name: values[part].astype(np.float32) for name, values in arrays.items()}, table)
        return writer.finish()


def write_checkpoints(path, checkpoints, **options):
    """A collection: name -> (weight, arrays)."""
    begin_collection(path, [Member(name, weight) for name, (weight, _) in checkpoints.items()])
    for name, (_, arrays) in checkpoints.items():
        write_store(path / name, arrays, **options)
    return GradientStore.open(path)
