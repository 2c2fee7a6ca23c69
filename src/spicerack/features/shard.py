"""The features of one shard, filled batch by batch.

A row stands for several texts: itself, its response alone and behind other prompts, and itself under every rating
prompt. Texts of a kind are batched together; what comes back is put at its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spicerack.data.labels import Encoded
from spicerack.features.forward import Read, Wanted
from spicerack.features.options import FeatureConfig
from spicerack.features.ratings import RATINGS, sentence_level, token_level

Kind = Literal["sample", "alone", "mismatched", "rating"]

COLUMNS = {
    "loss": ("loss_mean", "loss_sum"),
    "ifd": ("loss_mean", "loss_sum", "loss_alone", "ifd"),
    "mismatch": ("loss_mean", "loss_sum", "loss_mismatched", "mismatch"),
    "selectit": ("selectit", "selectit_cut_tokens"),
    "states": ("states_energy",),
}
"""Columns that each feature adds to the table; the others are arrays."""


@dataclass(frozen=True)
class Text:
    """One text to run: of which row of the shard, and under which rating prompt or behind which other one."""

    kind: Kind
    row: int
    prompt: int
    encoded: Encoded


@dataclass(frozen=True)
class Layout:
    """What a shard's results hold: the features, the model's width, the rating prompts, and how a response begins.

    With `has_losses` the losses of the samples themselves are known, and nothing has to be run for them alone.
    """

    config: FeatureConfig
    width: int
    prompts: int
    has_start: bool
    has_losses: bool = False

    @property
    def arrays(self) -> dict[str, int]:
        """Arrays by name, with their columns."""
        columns = {"embedding": 1, "embedding_weighted": 1, "states": self.config.state_rank}
        return {name: times * self.width for name, times in columns.items() if name in self.config.features}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that are features."""
        return tuple(dict.fromkeys(name for feature in self.config.features for name in COLUMNS.get(feature, ())))

    def wanted(self, kind: Kind, rating_ids: np.ndarray | None) -> Wanted:
        """What to read off a batch of texts of a kind."""
        if kind == "rating":
            return Wanted(rating_ids=rating_ids)
        if kind in ("alone", "mismatched"):
            return Wanted(losses=True)
        features = self.config.features
        return Wanted(
            losses="loss_mean" in self.columns,
            pooled="embedding" in features or "embedding_weighted" in features,
            state_rank=self.config.state_rank if "states" in features else 0,
        )

    @property
    def reads_losses(self) -> bool:
        """Whether known losses serve in place of a run of the samples: mismatch is all that needs more than ratings."""
        return self.has_losses and {*self.config.features} - {"selectit", "counts"} == {"mismatch"}

    @property
    def runs_samples(self) -> bool:
        """Whether the samples themselves are run: ratings and token counts alone do not need them."""
        return bool({*self.config.features} - {"selectit", "counts"}) and not self.reads_losses

    @property
    def runs_model(self) -> bool:
        """Whether any text is run: token counts alone need no model."""
        return {*self.config.features} != {"counts"}


class ShardFeatures:
    """Results of a shard's rows."""

    def __init__(self, rows: int, layout: Layout) -> None:
        """Begin with nothing: zero arrays, NaN columns."""
        self.layout = layout
        self.arrays = {name: np.zeros((rows, columns), dtype=np.float32) for name, columns in layout.arrays.items()}
        self._loss_sum, self._first, self._alone, self._energy = (np.full(rows, np.nan) for _ in range(4))
        self._mismatched = np.zeros(rows)
        self._trained, self._compared, self._behind, self._cut = (np.zeros(rows, dtype=np.int64) for _ in range(4))
        self._probabilities = np.full((rows, layout.prompts, RATINGS), np.nan)

    def know(self, loss_sum: np.ndarray, trained: np.ndarray) -> None:
        """Losses of the samples themselves and the tokens they are over, (rows,) each, from another pass."""
        has = trained > 0
        self._loss_sum[has], self._trained[has] = loss_sum[has], trained[has]

    def take(self, texts: Sequence[Text], read: Read) -> None:
        """Put a batch's results at their rows."""
        rows = np.array([text.row for text in texts])
        kind = texts[0].kind
        if kind == "rating":
            self._probabilities[rows, [text.prompt for text in texts]] = read.probabilities
            np.maximum.at(self._cut, rows, [text.encoded.cut_tokens for text in texts])
        elif kind == "alone":
            self._alone[rows], self._compared[rows] = read.loss_sum, read.trained
        elif kind == "mismatched":
            np.add.at(self._mismatched, rows, read.loss_sum)
            np.add.at(self._behind, rows, read.trained)
        else:
            self._take_samples(rows, read)

    def _take_samples(self, rows: np.ndarray, read: Read) -> None:
        has = read.trained > 0
        if read.loss_sum.size:
            self._loss_sum[rows[has]], self._first[rows[has]] = read.loss_sum[has], read.first_loss[has]
            self._trained[rows] = read.trained
        for place, name in enumerate(("embedding", "embedding_weighted")):
            if name in self.arrays:
                self.arrays[name][rows] = read.pooled[:, place]
        if "states" in self.arrays:
            self.arrays["states"][rows], self._energy[rows] = read.states, read.states_energy

    def columns(self) -> dict[str, Any]:
        """The features that are columns, (rows,) each; NaN where one does not exist.

        `ifd` is the mean loss given the instruction over the mean loss alone, of the same tokens: all that are
        trained, or all but the first where nothing stands before it alone. `mismatch` is the same over the mean loss
        behind other prompts, of all that are trained.
        """
        missing = np.isnan(self._alone)
        compared = np.where(missing, np.nan, self._compared)
        given = self._loss_sum if self.layout.has_start else self._loss_sum - self._first
        alone = self._alone / compared
        mean = self._loss_sum / np.maximum(self._trained, 1)
        mismatched = np.divide(self._mismatched, self._behind, out=np.full(len(mean), np.nan), where=self._behind > 0)
        values = {
            "loss_mean": mean,
            "loss_sum": self._loss_sum,
            "loss_alone": alone,
            "ifd": _ratio(given / compared, alone),
            "loss_mismatched": mismatched,
            "mismatch": _ratio(mean, mismatched),
            "selectit": sentence_level(token_level(self._probabilities)) if self.layout.prompts else compared,
            "states_energy": self._energy,
        }
        result: dict[str, Any] = {
            name: values[name].astype(np.float32) for name in self.layout.columns if name in values
        }
        return result | (
            {"selectit_cut_tokens": self._cut.astype(np.int32)} if "selectit" in self.layout.config.features else {}
        )


def _ratio(loss: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One loss over another, NaN where either does not exist or the other is zero."""
    return np.asarray(np.divide(loss, other, out=np.full(len(loss), np.nan), where=other > 0))
