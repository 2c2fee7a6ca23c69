"""What tests of selectors share: a store of features alone, written without a model."""

import numpy as np
import pyarrow as pa
import pytest

from spicerack.store.writer import StoreWriter


@pytest.fixture
def write_features():
    """Write arrays by name and columns, pairs of name and values, as a finished store."""
    return write


def write(path, arrays, *, columns=(), settings=None, ids=None):
    """A store of features alone; `columns` are pairs of name and values."""
    n = len(next(iter(arrays.values()))) if arrays else len(columns[0][1])
    names = ids or [str(i) for i in range(n)]
    counts = [(name, pa.int32()) for name in ("tokens", "trained_tokens")]
    schema = pa.schema(
        [("id", pa.string()), ("source", pa.string()), *counts, *((name, pa.float32()) for name, _ in columns)]
    )
    with StoreWriter.create_or_resume(
        path,
        settings=settings or {},
        n=n,
        arrays={name: rows.shape[1] for name, rows in arrays.items()},
        shard_rows=7,
        dtype="float32",
        columns=schema,
    ) as writer:
        for shard in writer.missing():
            part = slice(shard.start, shard.stop)
            size = shard.stop - shard.start
            table = {"id": names[part], "source": ["x"] * size, "tokens": [5] * size, "trained_tokens": [3] * size}
            table |= {name: np.asarray(values, dtype=np.float32)[part] for name, values in columns}
            writer.write(shard, {name: rows[part].astype(np.float32) for name, rows in arrays.items()}, table)
        return writer.finish()
