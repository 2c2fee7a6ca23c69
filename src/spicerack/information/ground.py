"""All rows of a pool with values of different ages, each an upper bound: what the deferred engine draws from.

A row's values are those of its *epoch*, a number of picks: `alpha q` (in the state) and its cosine with the direction
of the picks then. They bound its score now: a gain never rises, and a cosine moves by no more than the direction has,

    score_i <= log(1 + alpha q_i at its epoch) - weight * max(0, -cos_i - |direction now - direction then|)

To refresh a row is one product with what was picked since: m columns p, or, where m exceeds k, the k columns of
the inverse's root; and one column for the direction. Many rows and columns at once: a matrix product, where the plain
loop is bound by memory. It runs where the working rows lie (`blocks.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spicerack.information.blocks import Block, squares
from spicerack.information.conflict import Conflict
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import BoolArray, FloatArray, IntArray

CHUNK_BYTES = 4 << 20
"""Rows of one matrix product: large enough for the product, small enough to stay in cache."""

DEVICE_CHUNK_BYTES = 32 << 20
"""The same on a GPU, where a product has to fill more cores and its start costs more."""

DENSE = 0.6
"""Share of all rows from which a refresh takes all: to gather rows costs as much as to read them all, and more."""

ROOT_BELOW = 1e8
"""Bound of the condition number up to which the root of the inverse refreshes rows; beyond, the picks themselves do."""


@dataclass(frozen=True)
class Values:
    """Values of some rows, all of one age: `alpha q`, the square of its error, the cosine, each (r,)."""

    aq: FloatArray
    error2: FloatArray
    cosine: FloatArray

    def among(self, positions: IntArray) -> Values:
        """Those of some of the rows."""
        return Values(self.aq[positions], self.error2[positions], self.cosine[positions])


class Ground:
    """Rows with the age of their values.

    Args:
        state: the information; its `alpha q` hold the rows' values, stale ones included.
        conflict: of the same rows.
        penalized: whether cosines matter at all.
    """

    def __init__(self, state: FullFisher, conflict: Conflict, *, penalized: bool) -> None:
        self.state, self.conflict, self.penalized = state, conflict, penalized
        self.matrix = state.matrix
        n, k = self.matrix.n, self.matrix.k
        self.lengths = conflict.lengths if penalized else np.zeros(0)
        self.cosine: FloatArray = np.zeros(n if penalized else 0)
        self.bound: FloatArray = np.log1p(state.aq + state.error(slice(None)))  # of the gain
        self._epoch = np.zeros(n, dtype=np.int32)
        self._times: list[int] = [0]
        self._directions: list[FloatArray] = [np.zeros(k)]
        self._drops = np.empty((64, k))
        self._narrow = np.empty((64, k), dtype=np.float32)
        self.now = 0  # picks so far
        self._aimed = False  # whether the row after the last pick holds the direction
        self._moment = np.eye(k)
        self._in_moment = 0
        self._root: tuple[int, npt.NDArray[Any]] | None = None

    def push(self, i: int) -> float:
        """Absorb row i into the state; the rows grow stale by one pick. Returns its gain."""
        gain = self.state.push(i)
        if self.now + 1 == len(self._drops):
            self._drops = np.concatenate([self._drops, np.empty_like(self._drops)])
            self._narrow = np.concatenate([self._narrow, np.empty_like(self._narrow)])
        self._drops[self.now] = self._narrow[self.now] = self.state.drop
        self.now += 1
        self._aimed = False
        return gain

    def columns(self, since: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The p of the picks since, and with a penalty the direction of all: (m, k) or (m + 1, k)."""
        kept = self._narrow if dtype == np.float32 else self._drops
        if not self.penalized:
            return kept[since : self.now]
        if not self._aimed:
            self._drops[self.now] = self._narrow[self.now] = self.conflict.direction()[0]
            self._aimed = True
        return kept[since : self.now + 1]

    def fresh(self) -> BoolArray:
        """Rows whose values are of now, (n,)."""
        return np.asarray(np.array(self._times) == self.now)[self._epoch]

    def keys(self, among: BoolArray, weight: float, *, drift: float = 0.0, eta: float | None = None) -> FloatArray:
        """Upper bounds of the scores, (n,), -inf for rows not in the mask `among`.

        Args:
            among: rows, (n,).
            weight: of the conflict: the smallest one that the bound shall hold for.
            drift: how far the direction may still move.
            eta: the largest scaled eta that the bound shall hold for; default: that of now.
        """
        if not weight:
            return np.where(among, self.bound, -np.inf)
        direction, scaled = self.conflict.direction()
        moved = np.linalg.norm(np.stack(self._directions) - direction, axis=1)[self._epoch]
        against = self.opposition(slice(None), self.cosine, moved + drift, scaled if eta is None else eta)
        return np.where(among, self.bound - weight * against, -np.inf)

    def opposition(
        self, rows: IntArray | slice, cosine: FloatArray, moved: FloatArray | float, eta: float
    ) -> FloatArray:
        """Lower bounds of the conflict of rows once the direction has moved by `moved` from that of their cosines."""
        lengths = self.lengths[rows]
        least = np.maximum(0.0, -cosine - moved - self.conflict.slack(rows))
        return np.asarray(least * lengths / np.where(lengths > 0.0, lengths + eta, 1.0))

    def gains(self, rows: IntArray, values: Values) -> tuple[FloatArray, FloatArray]:
        """Gains of rows with values of now, and their slack, each (r,)."""
        error = np.sqrt(values.error2) + self.state.spread * self.state.rho[rows]
        return np.log1p(values.aq), error / (1.0 + np.maximum(values.aq - error, 0.0))

    def scores(
        self, rows: IntArray, values: Values, weight: float, known: tuple[FloatArray, FloatArray] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Scores of rows with values of now, and their slack, each (r,); `known`: their gains and slack, if so."""
        gains, slack = known or self.gains(rows, values)
        if not weight:
            return gains, slack
        against = self.conflict.of(values.cosine * self.lengths[rows], rows)
        return gains - weight * against, slack + weight * self.conflict.slack(rows)

    def advanced(self, values: Values, X: npt.NDArray[Any], since: int, rows: IntArray) -> Values:
        """Values of now, from those of `since` picks, of the rows X (r, k)."""
        if since == self.now:
            return values
        Y = X @ self.columns(since, X.dtype).T
        drop = squares(Y[:, : self.now - since])
        lost = (2.0 * self.matrix.rounding) ** 2 * self.state.rho[rows] * drop
        cosine = self._cosines(Y[:, -1].astype(np.float64), rows) if self.penalized else values.cosine
        return Values(np.maximum(values.aq - drop, 0.0), values.error2 + lost, cosine)

    def refresh(self, rows: IntArray) -> None:
        """Bring rows up to date: those of one age together, or all as they lie where that spares gathering most."""
        since = np.array(self._times)[self._epoch]
        rows = rows[since[rows] < self.now]
        if rows.size > DENSE * self.matrix.n:
            rows = np.arange(self.matrix.n)
        else:
            rows = rows[np.argsort(since[rows], kind="stable")]
        for part, X in self.matrix.chunks(rows, self._chunk_rows):
            if since[part].min() < self.now:
                self._advance(part, X, since[part])
        self._date(rows)

    def read(self, rows: IntArray) -> Values:
        """Values of fresh rows."""
        cosine = self.cosine[rows] if self.penalized else np.zeros(rows.size)
        return Values(self.state.aq[rows], self.state.error2[rows], cosine)

    def write(self, rows: IntArray, values: Values) -> None:
        """Put back values of now."""
        self.state.aq[rows], self.state.error2[rows] = values.aq, values.error2
        if self.penalized:
            self.cosine[rows] = values.cosine
        self._date(rows)

    def settle_all(self) -> None:
        """Every row is of now: the state was computed afresh."""
        rows = np.arange(self.matrix.n)
        if self.penalized:
            for part, X in self.matrix.chunks(rows, self._chunk_rows):
                along = X.energies(self.columns(self.now, X.dtype), np.zeros(part.size, dtype=np.int64), 0)[1]
                self.cosine[part] = self._cosines(along, part)
        self._date(rows)

    @property
    def _chunk_rows(self) -> int:
        size = CHUNK_BYTES if self.matrix.device == "cpu" else DEVICE_CHUNK_BYTES
        return max(256, size // ((8 if self.matrix.wide else 4) * self.matrix.k))

    def _cosines(self, products: FloatArray, rows: IntArray) -> FloatArray:
        """Cosines of rows with the direction of now, from its products with the working rows."""
        inner = self.conflict.inner(products, self.conflict.direction()[0])
        lengths = self.lengths[rows]
        return np.asarray(inner / np.where(lengths > 0.0, lengths, 1.0))

    def _date(self, rows: IntArray) -> None:
        self.bound[rows] = np.log1p(self.state.aq[rows] + self.state.error(rows))
        if self._times[-1] != self.now or self.now == 0:
            self._times.append(self.now)
            self._directions.append(self.conflict.direction()[0])
        self._epoch[rows] = len(self._times) - 1

    def _advance(self, rows: IntArray, X: Block, since: IntArray) -> None:
        """Bring the rows X (r, k) up to date: one product with the picks since the oldest."""
        oldest, k = int(since.min()), self.matrix.k
        if self.now - oldest > k and self._root_pays(rows.size * (self.now - oldest - k)):
            energy, along = X.energies(self._whole(X.dtype), np.zeros(rows.size, dtype=np.int64), k)
            self.state.replace(rows, energy)
        else:
            energy, along = X.energies(self.columns(oldest, X.dtype), since - oldest, self.now - oldest)
            self.state.lower(rows, energy)
        if self.penalized:
            self.cosine[rows] = self._cosines(along, rows)

    def _root_pays(self, saved: int) -> bool:
        """Whether `saved` columns of k multiplications are worth the root of the inverse, in float64."""
        made = self._root is not None and self._root[0] == self.now
        return self.state.condition < ROOT_BELOW and (made or saved > 8 * self.matrix.k**2)

    def _whole(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Columns of `W = sqrt(alpha) R^{-1}`, `R^T R = M`: `alpha q = |g^T W|^2`. Then the direction: (k + 1, k)."""
        if self._root is None or self._root[0] != self.now:
            picks = np.array(self.state.picks[self._in_moment :], dtype=np.int64)
            rows = self.matrix.rows_at(picks)
            self._moment += self.state.alpha * (rows.T @ rows)
            self._in_moment += picks.size
            root = np.linalg.inv(np.linalg.cholesky(self._moment)) * math.sqrt(self.state.alpha)
            both = np.vstack([root, self.conflict.direction()[0]])
            self._root = (self.now, both.astype(dtype))
        return self._root[1]
