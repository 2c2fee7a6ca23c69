"""SelectIT: the samples that the model itself rates best, and surely so (arXiv 2402.16705).

The column `selectit` holds the token-level ratings of several prompts, their mean lowered by their spread (sentence
level). With feature stores of several models, their scores are averaged by parameter count (model level); the weights
sum to 1, which those of the released code do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from spicerack.errors import ConfigurationError, StoreError
from spicerack.information.matrix import FloatArray
from spicerack.selectors.base import MethodOptions, Needs, Picks, Problem
from spicerack.selectors.ranking import rank

if TYPE_CHECKING:
    from spicerack.store.reader import GradientStore

COLUMN = "selectit"


class SelectItOptions(MethodOptions):
    """Options of selectit."""

    models: tuple[str, ...] = Field(
        (), description="feature stores of the pool, one a model, averaged by parameter count; none: the pool's own"
    )


class SelectIt:
    """The best by self-rating."""

    name = "selectit"
    summary = "the model's own rating under several prompts, lowered by its uncertainty"
    paper = "arXiv 2402.16705"
    needs = Needs(gradients=False, arrays=(), columns=(COLUMN,), cost="one forward pass for each rating prompt")
    Options: type[MethodOptions] = SelectItOptions

    def needs_with(self, options: SelectItOptions) -> Needs:
        """Nothing of the pool's own store where other models' are given."""
        return Needs(gradients=False, arrays=(), cost="arithmetic only") if options.models else self.needs

    def select(self, problem: Problem, options: SelectItOptions) -> Picks:
        """Rank by the score."""
        scores = self._of_models(problem, options) if options.models else problem.column(COLUMN)
        return rank(problem, scores, COLUMN, where="nothing to rate: no instruction or no response")

    def _of_models(self, problem: Problem, options: SelectItOptions) -> FloatArray:
        from spicerack.store.reader import GradientStore

        stores = [GradientStore.open(path) for path in options.models]
        scores = model_level(stores)
        if scores.size != problem.rows.n:
            raise ConfigurationError(f"{options.models[0]} has {scores.size} rows, the pool {problem.rows.n}")
        if problem.rows.store is not None and not np.array_equal(stores[0].column("id"), problem.rows.label("id")):
            raise ConfigurationError(f"{options.models[0]} is of other samples than the pool; make it from this pool")
        return scores


SELECTIT = SelectIt()


def model_level(stores: Sequence[GradientStore]) -> FloatArray:
    """The `selectit` columns of several models, averaged by parameter count, (n,); NaN where a model has no rating.

    Args:
        stores: feature stores of one pool, each made by another model, at least one.

    Raises:
        StoreError: stores of other pools, or one without ratings.
    """
    ids = stores[0].column("id")
    for store in stores[1:]:
        if not np.array_equal(store.column("id"), ids):
            raise StoreError(f"{store.path} and {stores[0].path} are of different pools; make both from the same rows")
    sizes = np.array([float(store.settings["model_parameters"]) for store in stores])
    scores = np.stack([store.column(COLUMN).astype(np.float64) for store in stores])
    return np.asarray((sizes / sizes.sum()) @ scores)
