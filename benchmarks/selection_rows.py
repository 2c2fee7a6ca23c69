"""Rows that the selection benchmarks share: mixtures of gaussians in three regimes, made block by block from a seed."""

from __future__ import annotations

from typing import Literal

import numpy as np

Kind = Literal["heavy", "unit", "isotropic"]
KINDS: dict[Kind, str] = {
    "heavy": "200 Zipf clusters, power-law spectrum, heavy-tailed (lognormal 0.6) norms, 1 % exact duplicates",
    "unit": "the same at unit length",
    "isotropic": "50 equal clusters, isotropic noise, unit length: the worst case for stale bounds",
}


class Mixture:
    """Rows of `dimension` columns around shared centers.

    Args:
        dimension: k.
        kind: a regime.
        seed: of the centers, and with a block's number of its rows.
    """

    def __init__(self, dimension: int, kind: Kind = "heavy", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dimension, self.kind, self.seed = dimension, kind, seed
        flat = kind == "isotropic"
        clusters = 50 if flat else 200
        spectrum = np.ones(dimension) if flat else np.arange(1, dimension + 1) ** -0.5
        self._spectrum = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        centers = rng.standard_normal((clusters, dimension), dtype=np.float32) * self._spectrum
        self._centers = centers / np.linalg.norm(centers, axis=1, keepdims=True)
        weights = np.ones(clusters) if flat else 1.0 / np.arange(1, clusters + 1)
        self._weights = weights / weights.sum()
        self._turn: np.ndarray | None = None
        if not flat:  # so that no column means anything
            self._turn = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)

    @property
    def about(self) -> str:
        """The regime in words."""
        return f"{KINDS[self.kind]}; dimension {self.dimension}, seed {self.seed}"

    def block(self, number: int, rows: int) -> np.ndarray:
        """Block of that number, (rows, dimension) float32."""
        rng = np.random.default_rng([self.seed, number])
        which = rng.choice(len(self._weights), rows, p=self._weights)
        noise = rng.standard_normal((rows, self.dimension), dtype=np.float32) * self._spectrum
        G = self._centers[which] + (1.0 if self.kind == "isotropic" else 0.7) * noise
        G /= np.linalg.norm(G, axis=1, keepdims=True)
        if self._turn is not None:
            G = G @ self._turn
            copies = max(1, rows // 100)
            G[rng.choice(rows, copies, replace=False)] = G[rng.choice(rows, copies)]
        if self.kind == "heavy":
            G *= rng.lognormal(0.0, 0.6, (rows, 1)).astype(np.float32)
        return np.ascontiguousarray(G)

    def matrix(self, rows: int, block: int = 8192) -> np.ndarray:
        """All of `rows` rows in memory."""
        return np.concatenate([self.block(start // block, min(block, rows - start)) for start in range(0, rows, block)])
