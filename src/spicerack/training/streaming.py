"""The online schedule inside a user's own training: a data set that yields what the trained model itself picks.

A trainer of transformers or TRL reads the data set; a callback tells it the model. Whenever the trainer asks for
samples, gradients of the next candidate pool are taken under the weights of that moment, and the picks are yielded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback

from spicerack.config import GradientConfig
from spicerack.data.labels import Encoded
from spicerack.errors import ConfigurationError, DataError, UnknownNameError
from spicerack.information.room import Room
from spicerack.training.online import PoolOptions, candidate_pools, pick_from
from spicerack.training.options import make_options, split_options
from spicerack.training.proxy import GradientReader
from spicerack.training.samples import LabeledRows
from spicerack.training.trainer import pad_rows

if TYPE_CHECKING:
    import datasets
    import torch


class OnlinePicks(IterableDataset[dict[str, list[int]]]):
    """Rows picked on the way, one candidate pool after the other; an epoch is one walk over all rows.

    Attributes:
        callback: to be given to the trainer.
        picked: rows yielded so far, in order.
    """

    def __init__(self, rows: LabeledRows | Sequence[Mapping[str, Any]], /, **options: Any) -> None:
        """Bind rows and options.

        Args:
            rows: samples with tokens and labels: `training.samples.label_rows`, or rows of `input_ids` and `labels`.
            **options: of `PoolOptions` (pool_size, pool_picks, penalty, alpha, rows, stop_ratio, seed) and of
                `GradientConfig` (parameters, dimension, tokens_per_batch, ...). The trainer's own decide the training.

        Raises:
            UnknownNameError: an option that does not exist.
            ConfigurationError: a value that cannot be.
            DataError: a row without tokens, labels, or a trained token.
        """
        super().__init__()
        own, gradients = split_options(PoolOptions, options)
        for name in gradients:
            if name not in GradientConfig.model_fields:
                raise UnknownNameError("option", name, [*PoolOptions.model_fields, *GradientConfig.model_fields])
        self.options = make_options(PoolOptions, own)
        self.gradients = make_options(GradientConfig, gradients)
        self.samples = (
            rows.samples if isinstance(rows, LabeledRows) else [_encoded(row, i) for i, row in enumerate(rows)]
        )
        self.callback: TrainerCallback = _Meet(self)
        self.picked: list[int] = []
        self._reader: GradientReader | None = None
        self._walks = 0

    def meet(self, model: Any) -> None:
        """Take gradients of this model from now on, from the first candidate pool."""
        self._reader = GradientReader(model, self.gradients)
        self._walks, self.picked = 0, []

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        """One walk, shuffled by the seed and the number of the walk.

        TRL looks at one sample before it has begun: it is shown one, unpicked.

        Raises:
            ConfigurationError: in a worker process, or before a model is known.
        """
        if get_worker_info() is not None:
            raise ConfigurationError("OnlinePicks needs the model, which workers do not have: dataloader_num_workers=0")
        if self._reader is None:
            yield _row(self.samples[0])
            raise ConfigurationError("OnlinePicks knows no model yet: give the trainer callbacks=[picks.callback]")
        walk = self.options.model_copy(update={"seed": self.options.seed + self._walks})
        self._walks += 1
        for members in candidate_pools(np.ones(len(self.samples), dtype=bool), walk):
            for i in self._picks(members):
                self.picked.append(i)
                yield _row(self.samples[i])

    def dataset(self) -> datasets.IterableDataset:
        """The same as a `datasets.IterableDataset`, the only kind that TRL takes."""
        import datasets

        return datasets.IterableDataset.from_generator(_Rows(self))

    def _picks(self, members: np.ndarray) -> list[int]:
        assert self._reader is not None
        rows = self._reader.measure([self.samples[i] for i in members]).rows
        finite = np.isfinite(rows).all(axis=1)
        kept = members[finite]
        if not len(kept):
            return []
        room = Room(np.ones(len(kept), dtype=bool), count=min(self.options.pool_picks, len(kept)))
        picked: list[int] = kept[pick_from(rows[finite], self.options, room).places].tolist()
        return picked

    @staticmethod
    def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Pad on the right; for the trainer's `data_collator`."""
        return pad_rows(rows)


class _Rows:
    """The generator of a data set; it is told by nothing else than itself, so no model is ever hashed or copied."""

    def __init__(self, picks: OnlinePicks) -> None:
        self.picks = picks

    def __call__(self) -> Iterator[dict[str, list[int]]]:
        return iter(self.picks)

    def __reduce__(self) -> Any:
        return _Rows, (id(self.picks),)


class _Meet(TrainerCallback):  # type: ignore[misc]
    """Tells the data set the model when the training begins."""

    def __init__(self, picks: OnlinePicks) -> None:
        self.picks = picks

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Called before the first batch is asked for."""
        self.picks.meet(model)


def _row(sample: Encoded) -> dict[str, list[int]]:
    return {"input_ids": sample.input_ids.tolist(), "labels": sample.labels.tolist()}


def _encoded(row: Mapping[str, Any], i: int) -> Encoded:
    if "input_ids" not in row or "labels" not in row:
        raise DataError(f"row {i} has the columns {', '.join(map(str, row))}; expected input_ids and labels")
    ids, labels = np.asarray(row["input_ids"], dtype=np.int32), np.asarray(row["labels"], dtype=np.int32)
    sample = Encoded(input_ids=ids, labels=labels, cut_tokens=0, missing_end_of_turn=False)
    if ids.shape != labels.shape or not sample.trained_tokens:
        raise DataError(f"row {i} has {ids.size} tokens and {labels.size} labels, {sample.trained_tokens} trained")
    return sample
