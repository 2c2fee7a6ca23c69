"""Where cells are run: the pool, the held-out rows and the model, read once; a cell trains, measures, and gives back.

A cell's folder:

train/             the training while it goes on, and its result where models are kept
evaluation/        a loss for every held-out row, and their summary
result.json        what the cell found; written last: its presence means whole
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.compare.plan import BASE, Cell
from spicerack.config import RunConfig
from spicerack.errors import StoreMismatchError
from spicerack.store.files import write_json
from spicerack.store.read_back import read_json
from spicerack.store.settings import differences
from spicerack.training.options import EvaluateConfig, TrainConfig

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.models.loading import LoadedModel
    from spicerack.training.finetune import Trained
    from spicerack.training.samples import LabeledRows

RESULT_FILE = "result.json"
MODEL_FILE = "model.json"
SAMPLES = Path("evaluation") / "samples.parquet"


@dataclass(frozen=True)
class Spec:
    """What every cell shares; another process can make its own bench of it.

    Attributes:
        test: held-out rows: file, Arrow folder or hub id.
        config: pool, model and labels; its `output_dir` is the comparison's folder.
        recipe: how every cell trains; the seed is the cell's.
        measures: how every cell is measured.
        keep_models: whether the trained weights stay.
    """

    test: str
    config: RunConfig
    recipe: TrainConfig
    measures: EvaluateConfig
    keep_models: bool = False

    def folder(self, cell: Cell) -> Path:
        """A cell's own."""
        return self.config.output_dir / cell.folder


class Bench:
    """Runs cells one after the other on one model."""

    def __init__(self, spec: Spec) -> None:
        """Nothing is read before it is needed."""
        self.spec = spec
        self._recipe = spec.recipe
        self._loaded: LoadedModel | None = None

    @cached_property
    def pool(self) -> Pool:
        """The rows selected from."""
        from spicerack.data.records import load_pool

        return load_pool(str(self.spec.config.data.pool), self.spec.config.data)

    @cached_property
    def _labeler(self) -> Labeler:
        from spicerack.data.labels import Labeler

        config = self.spec.config
        return Labeler(self._model().tokenizer, config.labels, chat_template=config.model.chat_template)

    @cached_property
    def _test(self) -> tuple[LabeledRows, list[str] | None]:
        """Held-out samples, and the group of each where groups are asked for."""
        from spicerack.training.evaluate import group_names
        from spicerack.training.samples import label_rows

        pool, by = load_test(self.spec), self.spec.measures.by
        rows = label_rows(pool, self._labeler)
        rows.check_fits(self._model().model)
        return rows, group_names(pool, rows.rows.tolist(), by) if by else None

    def run(self, cell: Cell, indices: np.ndarray) -> dict[str, Any]:
        """Train on pool rows and measure, or read what was found before.

        Args:
            cell: which.
            indices: (s,) int64 pool rows, in the order picked; of no use to `none`.

        Returns:
            What stands in `result.json`.
        """
        from spicerack.training.evaluate import evaluate

        folder = self.spec.folder(cell)
        if (before := read_result(folder)) is not None:
            return before
        rows, groups = self._test
        trained = None if cell.method.name == BASE else self._train(cell, indices, folder / "train")
        loaded = self._model() if trained is None else trained.loaded
        evaluation = evaluate(rows, loaded, self.spec.measures, groups=groups)
        (folder / SAMPLES).parent.mkdir(parents=True, exist_ok=True)
        evaluation.write((folder / SAMPLES).parent)
        headline = evaluation.loss_over_groups or evaluation.overall.loss
        result = {
            **of_the_cell(cell),
            "loss": headline.mean,
            "groups": {name: quality.loss.mean for name, quality in evaluation.groups.items()},
            "exact_match": _exact_match(evaluation),
            "training": None if trained is None else _training(trained),
        }
        if trained is not None:
            self._take_back(trained)
            if not self.spec.keep_models:
                shutil.rmtree(folder / "train")
        write_json(folder / RESULT_FILE, result)
        return result

    def _train(self, cell: Cell, indices: np.ndarray, folder: Path) -> Trained:
        from spicerack.training.finetune import finetune
        from spicerack.training.samples import label_rows

        loaded = self._model()
        data = label_rows(self.pool, self._labeler, indices.tolist())
        return finetune(data, loaded, self._recipe.model_copy(update={"seed": cell.seed}), folder)

    def _model(self) -> LoadedModel:
        """The model itself: an adapter is for the gradients."""
        from spicerack.training.finetune import load_for_training

        if self._loaded is None:
            config = self.spec.config
            config = config.model_copy(update={"model": config.model.without_adapter()})
            self._loaded, self._recipe = load_for_training(config, self.spec.recipe)
            self._check_same(self._loaded)
        return self._loaded

    def _check_same(self, loaded: LoadedModel) -> None:
        """Find out whether the model is the one, and its template the one, that the finished cells began with."""
        from spicerack.data.labels import Labeler

        config = self.spec.config
        rule = Labeler(loaded.tokenizer, config.labels, chat_template=config.model.chat_template).rule()
        found, path = {"weights": loaded.fingerprint(), "label_rule": rule}, config.output_dir / MODEL_FILE
        if path.is_file() and any((config.output_dir / "cells").glob(f"*/*/*/{RESULT_FILE}")):
            remedy = "delete it, if this is the model that the finished cells began with"
            if other := differences(read_json(path, remedy), found):
                raise StoreMismatchError(
                    f"the cells of {config.output_dir} began with another model, or other labels, by the same name: "
                    f"{other}; give the comparison another output folder"
                )
        else:
            write_json(path, found)

    def _take_back(self, trained: Trained) -> None:
        """The model as it was: adapters come off; where all weights were trained, the next cell reads them again."""
        self._loaded = trained.unload() if self._recipe.use_peft else None


def load_test(spec: Spec) -> Pool:
    """The held-out rows, read in the pool's way but for what names the pool's own columns."""
    from spicerack.data.records import load_pool

    section = spec.config.data.model_copy(update={"source_column": None, "id_column": None})
    return load_pool(spec.test, section)


def of_the_cell(cell: Cell) -> dict[str, Any]:
    """What its result says of the cell itself."""
    return {
        "method": cell.method.name,
        "label": cell.method.label,
        "budget": cell.budget.given if cell.budget else None,
        "seed": cell.seed,
    }


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a cell found, if it is whole."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    result: dict[str, Any] = read_json(path, f"delete {folder}, and compare again: that cell alone is run anew")
    return result


def _training(trained: Trained) -> dict[str, Any]:
    manifest = trained.manifest
    kept = {name: manifest[name] for name in ("steps", "tokens", "seconds", "resumed_from_step")}
    return kept | {"samples": manifest["data"]["samples"], "loss": manifest["epochs"][-1]["loss"]}


def _exact_match(evaluation: Any) -> float | None:
    interval = evaluation.exact_match_over_groups or evaluation.overall.exact_match
    return None if interval is None else float(interval.mean)
