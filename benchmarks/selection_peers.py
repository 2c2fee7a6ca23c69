"""What a user would run instead of the engine, on rows in memory: each takes G (n, k) float32 and gives s row numbers.

Libraries are called as their documentation says. `released` re-expresses the loop of SPICE's released code (candidate
pools, gain of its diagonal, a Python loop with torch operations for every candidate), and `fast_map` is the greedy
maximum-a-posteriori of a determinantal point process (Chen, Zhang and Zhou 2018) with kernel `I + alpha G G^T`, whose
picks are those of the log-det greedy without penalty.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch

ETA = 1e-8
Picks = np.ndarray
Peer = Callable[[np.ndarray, float, float, int], Picks]


def blas_loop(G: np.ndarray, alpha: float, penalty: float, count: int) -> Picks:
    """The plain loop as one writes it in numpy: a matrix-vector product a pick, another for the conflict, float32."""
    k = G.shape[1]
    lengths = np.linalg.norm(G, axis=1)
    aq = alpha * lengths**2
    inverse, total, picks = np.eye(k, dtype=np.float32), np.zeros(k, dtype=np.float32), []
    for step in range(count):
        scores = np.log1p(aq)
        if penalty and step:
            scores -= penalty * np.maximum(0.0, -(G @ total) / (lengths * np.linalg.norm(total) + ETA * step))
        scores[picks] = -np.inf
        i = int(np.argmax(scores))
        y = inverse @ G[i]
        p = (alpha / np.sqrt(1.0 + alpha * float(G[i] @ y))) * y
        aq = np.maximum(aq - (G @ p) ** 2, 0.0)
        inverse -= np.outer(p, p) / np.float32(alpha)
        total += G[i]
        picks.append(i)
    return np.array(picks)


def fast_map(G: np.ndarray, alpha: float, penalty: float, count: int) -> Picks:
    """Greedy MAP by an incremental Cholesky factor, O(n (k + t)) at pick t; it knows no conflict."""
    n = len(G)
    left = 1.0 + alpha * np.einsum("ij,ij->i", G, G)
    factor, picks = np.zeros((count, n), dtype=np.float32), []
    for step in range(count):
        left_now = left.copy()
        left_now[picks] = -np.inf
        i = int(np.argmax(left_now))
        row = np.float32(alpha) * (G @ G[i])
        row[i] += 1.0
        row -= factor[:step].T @ factor[:step, i]
        factor[step] = row / np.sqrt(left[i])
        left -= factor[step] ** 2
        picks.append(i)
    return np.array(picks)


def released(pool: int | None) -> Peer:
    """SPICE's released loop over candidate pools of this size, each giving its share; None: all rows are one pool."""

    def run(G: np.ndarray, alpha: float, penalty: float, count: int) -> Picks:
        rows = [torch.from_numpy(row) for row in G]
        size = pool or len(rows)
        picks: list[int] = []
        for start in range(0, len(rows), size):
            members = range(start, min(start + size, len(rows)))
            quota = round(count * (members.stop / len(rows))) - len(picks)
            picks += _released_pool(rows, members, alpha, penalty, quota)
        return np.array(picks)

    return run


def _released_pool(rows: list[torch.Tensor], members: range, alpha: float, penalty: float, quota: int) -> list[int]:
    den = torch.ones_like(rows[0])
    total, picks = torch.zeros_like(rows[0]), []
    for _ in range(quota):
        best, best_score = -1, -float("inf")
        for i in members:
            if i in picks:
                continue
            g = rows[i]
            score = torch.log(1.0 + alpha * (g * g / den).sum()).item()
            if penalty and picks:
                mean = total / len(picks)
                cosine = (torch.dot(g, mean) / (g.norm() * mean.norm() + ETA)).item()
                score -= penalty * max(0.0, -cosine)
            if score > best_score:
                best, best_score = i, score
        den += alpha * rows[best] ** 4
        total += rows[best]
        picks.append(best)
    return picks


def apricot(optimizer: str) -> Peer:
    """apricot with the log-det as a custom function; its features are row numbers, since it refuses mixed signs."""

    def run(G: np.ndarray, alpha: float, penalty: float, count: int) -> Picks:
        from apricot import CustomSelection

        X = np.sqrt(alpha) * G.astype(np.float64)

        def information(numbers: np.ndarray) -> float:
            chosen = X[numbers[:, 0].astype(np.int64)]
            return float(np.linalg.slogdet(np.eye(len(chosen)) + chosen @ chosen.T)[1])

        numbers = np.arange(len(G), dtype=np.float64)[:, None]
        selector = CustomSelection(count, information, optimizer=optimizer)
        return np.asarray(selector.fit(numbers).ranking)

    return run


def submodlib(optimizer: str) -> Peer:
    """submodlib's log-det function over the dense kernel `alpha G G^T`, with 1 as the regularizer."""

    def run(G: np.ndarray, alpha: float, penalty: float, count: int) -> Picks:
        from submodlib import LogDeterminantFunction

        kernel = alpha * (G.astype(np.float64) @ G.T.astype(np.float64))
        function = LogDeterminantFunction(n=len(G), mode="dense", lambdaVal=1.0, sijs=kernel)
        found = function.maximize(budget=count, optimizer=optimizer, stopIfZeroGain=False, show_progress=False)
        return np.array([i for i, _ in found])

    return run


def missing(module: str) -> str | None:
    """Why a library cannot be called, or None."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    try:
        __import__(module)
    except Exception as error:
        return f"its import fails: {error!r}"
    return None
