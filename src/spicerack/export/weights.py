"""Soft selection: a weight for every sample instead of a cut, and orders of the picks for a curriculum.

    weights.npy        (n,) float64, for `torch.utils.data.WeightedRandomSampler(weights, num_samples)`
    weights.parquet    index, id and spicerack_weight of every pool row

A weight is `exp(z / temperature)`, scaled so that the mean over the samples that can be picked is 1; z is the score
brought to mean 0 and deviation 1 over them (or its rank: where a few scores are far from the rest, ranks are calmer).
Samples that cannot be picked, or have no score, weigh 0. A high temperature is uniform, a low one the cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import ConfigurationError, DataError
from spicerack.store.files import write_atomically

WEIGHT = "spicerack_weight"
Normalization = Literal["score", "rank"]
Order = Literal["picked", "reversed", "easy", "hard", "shuffled"]
ORDERS = ("picked", "reversed", "easy", "hard", "shuffled")


def soft_weights(scores: np.ndarray, *, temperature: float = 1.0, normalization: Normalization = "score") -> np.ndarray:
    """Weights of all samples, (n,) float64, with the mean 1 over those that have a score.

    Args:
        scores: (n,), higher is better, NaN for a sample that cannot be picked.
        temperature: > 0, in deviations of the scores.
        normalization: what z is made of.

    Raises:
        ConfigurationError: a temperature that is not above zero, or another normalization.
        DataError: no sample has a score.
    """
    if not temperature > 0.0 or not np.isfinite(temperature):
        raise ConfigurationError(f"temperature={temperature!r}, expected a number above 0")
    if normalization not in ("score", "rank"):
        raise ConfigurationError(f"normalization={normalization!r}, expected score or rank")
    scored = np.isfinite(scores)
    if not scored.any():
        raise DataError("no sample has a score, so none can be weighed")
    values = scores[scored].astype(np.float64)
    if normalization == "rank":
        distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        values = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse] if len(distinct) else values
    deviation = values.std()
    z = (values - values.mean()) / deviation if deviation > 0.0 else np.zeros_like(values)
    raised = np.exp((z - z.max()) / temperature)
    weights = np.zeros(len(scores))
    weights[scored] = raised / raised.mean()
    return weights


def write_weights(output_dir: Path, weights: np.ndarray, ids: np.ndarray | None) -> dict[str, Path]:
    """Write both files."""
    paths = {name: output_dir / name for name in ("weights.npy", "weights.parquet")}
    write_atomically(paths["weights.npy"], lambda file: np.save(file, weights, allow_pickle=False))
    columns = {"index": np.arange(len(weights)), **({} if ids is None else {"id": ids.tolist()}), WEIGHT: weights}
    write_atomically(paths["weights.parquet"], lambda file: pq.write_table(pa.table(columns), file))
    return paths


def curriculum(order: str, picked: int, losses: np.ndarray | None, *, seed: int = 0) -> np.ndarray:
    """Ranks of the picks in an order to train in, (picked,) int64.

    Args:
        order: `picked`, as they were picked; `reversed`; `easy`, by rising loss; `hard`, by falling loss; `shuffled`.
        picked: how many.
        losses: (picked,) of each pick, by rank; needed by `easy` and `hard`.
        seed: of `shuffled`.

    Raises:
        ConfigurationError: no such order, or one by losses without any.
    """
    if order not in ORDERS:
        raise ConfigurationError(f"order={order!r}, expected one of {', '.join(ORDERS)}")
    if order in ("easy", "hard"):
        if losses is None:
            raise ConfigurationError(f"order={order!r} goes by the loss, which this selection's scores do not hold")
        finite = np.where(np.isfinite(losses), losses, np.inf)
        return np.argsort(finite if order == "easy" else -finite, kind="stable")
    if order == "shuffled":
        return np.random.Generator(np.random.PCG64(seed)).permutation(picked)
    ranks = np.arange(picked)
    return ranks[::-1].copy() if order == "reversed" else ranks
