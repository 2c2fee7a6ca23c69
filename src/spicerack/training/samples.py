"""Rows with their tokens and labels, ready for a trainer: what the label rule of the gradients makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.data.labels import nothing_to_train

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded, Labeler
    from spicerack.data.records import Pool
    from spicerack.models.loading import LoadedModel


@dataclass(frozen=True)
class LabeledRows:
    """Samples that have a trained token.

    Attributes:
        samples: tokens and labels of each.
        rows: (n,) int64, the pool row of each.
        ids: their ids.
        left_out: rows without a trained token, which no loss can be taken of.
        label_rule: the rule that made the labels, see `Labeler.rule`.
    """

    samples: tuple[Encoded, ...]
    rows: np.ndarray
    ids: tuple[str, ...]
    left_out: tuple[int, ...]
    label_rule: str

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def tokens(self) -> int:
        """Tokens of one pass over the samples."""
        return sum(len(sample.input_ids) for sample in self.samples)

    @property
    def trained_tokens(self) -> int:
        """Tokens with a loss in one pass over the samples."""
        return sum(sample.trained_tokens for sample in self.samples)

    def check_fits(self, model: Any) -> None:
        """Find out whether a model can read all samples.

        Raises:
            DataError: it cannot; names the first.
        """
        from spicerack.models.limits import check_fits

        tokens = np.array([len(sample.input_ids) for sample in self.samples])
        largest = np.array([sample.largest_id for sample in self.samples])
        check_fits(model, tokens, largest, lambda i: f"sample {self.ids[i]}")

    def summary(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {
            "fingerprint": self.fingerprint(),
            "label_rule": self.label_rule,
            "samples": len(self),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "left_out": len(self.left_out),
        }

    def fingerprint(self) -> str:
        """SHA-256 over every sample's tokens and labels, in order."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(len(sample.input_ids).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(sample.input_ids, dtype=np.int32).tobytes())
            digest.update(np.ascontiguousarray(sample.labels, dtype=np.int32).tobytes())
        return digest.hexdigest()


def label_rows(pool: Pool, labeler: Labeler, rows: Iterable[int] | None = None) -> LabeledRows:
    """Tokenize and label rows of a pool.

    Args:
        pool: where the rows are.
        labeler: the label rule.
        rows: pool rows in the order wanted; default: all. A row may stand there more than once.

    Raises:
        DataError: not one row has a trained token, or a row cannot be read.
    """
    kept, samples, left_out, cut = [], [], [], 0
    for i in map(int, range(len(pool)) if rows is None else rows):
        encoded = labeler.encode(pool.sample(i), where=pool.where(i))
        if encoded.trained_tokens:
            kept.append(i)
            samples.append(encoded)
        else:
            left_out.append(i)
            cut += encoded.cut_tokens > 0
    if not samples:
        raise nothing_to_train(pool, cut, labeler.config)
    ids = tuple(pool.id(i) for i in kept)
    return LabeledRows(tuple(samples), np.asarray(kept, dtype=np.int64), ids, tuple(left_out), labeler.rule())


def model_summary(loaded: LoadedModel) -> dict[str, Any]:
    """What a manifest says of a model."""
    return {"name": loaded.name, "fingerprint": loaded.fingerprint(), "dtype": loaded.dtype}
