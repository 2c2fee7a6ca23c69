"""LEAD: iterative selection without extra inference (arXiv 2505.07437), built on the proxy of the online schedule.

The pool is cut into clusters by task and difficulty. In every round a bandit (EXP3) draws a cluster; of it the samples
of highest uncertainty are picked, and the proxy makes one training step on them. Gradients and losses of the picks are
taken under the weights of now; everyone else's loss is carried on to first order from the gradients of the first pass:

    L_i <- max(0, L_i - c <g_i, gbar>)                 gbar: mean gradient of the picks
    u_i <- b u_i + (1 - b) L_i                         the uncertainty, exponentially smoothed

The bandit's reward is the mean fall of the picks' uncertainty by the step, in units of the largest fall so far. The
rate c is the learning rate at first, then the least-squares slope of the falls that were seen, when a sample was
picked, on those that had been predicted: Adam's step is no multiple of the gradient.

This is built from a description of the paper, not from the paper's code: clusters, smoothing and c are ours where it
leaves them open, and no number here is to be set against the paper's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from spicerack.config import Choice
from spicerack.data.labels import IGNORED, Encoded
from spicerack.data.responses import alone, start_token
from spicerack.information.room import Room
from spicerack.store.files import write_atomically
from spicerack.training.bandit import Exp3
from spicerack.training.loop import Found, Loop
from spicerack.training.losses import loss_sums
from spicerack.training.options import ProxyOptions

if TYPE_CHECKING:
    from spicerack.training.proxy import Proxy

START_FILE = "start.npz"
SAMPLES_AT_ONCE = 256
TRACE_DTYPE = np.dtype(
    [
        *((name, np.float64) for name in ("score", "loss", "reward", "probability")),
        *((name, np.int64) for name in ("round", "cluster")),
    ]
)


class LeadOptions(ProxyOptions):
    """Options of lead; those of the trainer are the proxy's, at a constant learning rate."""

    difficulty: Literal["ifd", "loss"] = Field(
        "ifd", description="what difficulty clusters are made of: loss given the instruction over loss alone, or loss"
    )
    difficulty_clusters: Annotated[int, Field(ge=1)] = Field(4, description="difficulty clusters of each source")
    round_picks: Annotated[int, Field(ge=1)] = Field(32, description="samples picked and trained on in a round")
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="b: weight of the uncertainty before")
    exploration: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="gamma of EXP3")


def lead(loop: Loop, proxy: Proxy, options: LeadOptions, *, folder: Path) -> Found:
    """Pick in rounds until the budget is met.

    The first pass over the pool is kept in `start.npz`; after an interruption the rounds are made again from it.

    Args:
        loop: the pool with its labels and budget.
        proxy: gives gradients and is trained.
        options: clusters, rounds, bandit.
        folder: where the first pass is kept.
    """
    start = _first_pass(loop, proxy, folder, options)
    finite = np.isfinite(start["norms"]) & np.isfinite(start["losses"])
    room = loop.room()
    room.keep(finite)
    cluster, names = clusters(start["difficulty"], np.asarray(loop.pool.sources), loop.eligible & finite, options)
    rounds = _Rounds(loop, proxy, options, start, cluster, len(names))
    while not room.full:
        rounds.play(room)
    finite[rounds.not_finite] = False
    not_finite = tuple(int(i) for i in np.flatnonzero(loop.eligible & ~finite))
    scores = np.where(finite & loop.eligible, rounds.uncertainty, np.nan)
    indices = np.array(room.taken, dtype=np.int64)
    trace = np.concatenate([np.zeros(0, dtype=TRACE_DTYPE), *rounds.traces])
    scores[indices] = trace["score"]
    findings = {"clusters": list(names), "proxy_steps": proxy.steps, "rate": rounds.rate.value}
    return Found(indices, scores, trace, not_finite, findings, _short(room, len(not_finite)))


def _short(room: Room, lost: int) -> list[Choice]:
    """What is said where fewer rows were picked than the budget asks for."""
    if room.count is None or len(room.taken) >= room.count:
        return []
    reason = f"the budget asks for {room.count}, and {lost} rows have no finite gradient"
    return [Choice("picks", len(room.taken), reason)]


class Rate:
    """c, the slope of seen falls on predicted ones (per unit of <g, gbar>), by least squares through zero."""

    def __init__(self, value: float) -> None:
        """Begin with the learning rate, until something has been seen."""
        self.value = value
        self._squares = self._products = 0.0

    def see(self, predicted: np.ndarray, seen: np.ndarray) -> None:
        """Sums of <g, gbar> since the first pass, and the falls of the loss since then, both (b,)."""
        self._squares += float(predicted @ predicted)
        self._products += float(predicted @ seen)
        if self._squares > 0.0 and self._products > 0.0:  # a negative slope would say that training raises losses
            self.value = self._products / self._squares


class _Rounds:
    """Everyone's loss and uncertainty as they are believed to be, and what was picked."""

    def __init__(
        self,
        loop: Loop,
        proxy: Proxy,
        options: LeadOptions,
        start: dict[str, np.ndarray],
        cluster: np.ndarray,
        count: int,
    ) -> None:
        self.loop, self.proxy, self.options = loop, proxy, options
        self.rows, self.norms, self.first = start["rows"], start["norms"], start["losses"]
        self.cluster, self.count = cluster, count
        self.norms = np.nan_to_num(self.norms)
        self.products = np.zeros(len(self.first))
        self.uncertainty = np.where(np.isfinite(self.first), self.first, 0.0)
        self.rate, self.bandit = Rate(proxy.learning_rate), Exp3(count, options.exploration, options.seed)
        self.traces: list[np.ndarray] = []
        self.not_finite: list[int] = []
        self._largest = 0.0

    def play(self, room: Room) -> None:
        """One round: a cluster, its most uncertain samples, a step, what it did to everyone."""
        is_open = np.bincount(self.cluster[room.open], minlength=self.count) > 0
        arm, probability = self.bandit.draw(is_open)
        picks, rows, losses = self._take(room, np.flatnonzero(room.open & (self.cluster == arm)))
        if not len(picks):
            return
        self.rate.see(self.products[picks], self.first[picks] - losses)
        before = self._smoothed(self.uncertainty[picks], losses)
        self.proxy.step([self.loop.sample(int(i)) for i in picks])
        mean = rows.mean(axis=0)
        after = self._smoothed(before, losses - self.rate.value * (rows @ mean))
        fall = max(0.0, float((before - after).mean()))
        self._largest = max(self._largest, fall)
        reward = fall / self._largest if self._largest > 0.0 else 0.0
        self.bandit.reward(arm, reward, probability, is_open)
        table = np.zeros(len(picks), dtype=TRACE_DTYPE)
        table["score"], table["loss"] = self.uncertainty[picks], losses
        table["reward"], table["probability"] = reward, probability
        table["round"], table["cluster"] = len(self.traces), arm
        self.traces.append(table)
        self._carry_on(mean)

    def _take(self, room: Room, members: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The most uncertain of a cluster, ties to the first row, as far as the budget goes, with gradients and losses.

        A row without a finite loss and gradient under the weights of now is closed, not taken.
        """
        asked = members[np.argsort(-self.uncertainty[members], kind="stable")][: self.options.round_picks]
        measured = self.proxy.measure([self.loop.sample(int(i)) for i in asked])
        finite = np.isfinite(measured.rows).all(axis=1) & np.isfinite(measured.losses)
        lost = np.zeros(len(room.open), dtype=bool)
        lost[asked[~finite]] = True
        room.keep(~lost)
        self.not_finite += asked[~finite].tolist()
        places = []
        for place, i in enumerate(asked.tolist()):
            if room.open[i]:
                room.take(i)
                places.append(place)
        return asked[places], measured.rows[places], measured.losses[places]

    def _carry_on(self, mean: np.ndarray) -> None:
        """Everyone's loss to first order, and the uncertainty from it."""
        self.products += self.norms * (self.rows.astype(np.float32) @ mean)
        believed = np.where(np.isfinite(self.first), self.first - self.rate.value * self.products, 0.0)
        self.uncertainty = self._smoothed(self.uncertainty, believed)

    def _smoothed(self, before: np.ndarray, losses: np.ndarray) -> np.ndarray:
        b = self.options.smoothing
        return np.asarray(b * before + (1.0 - b) * np.maximum(losses, 0.0))


def clusters(
    difficulty: np.ndarray, sources: np.ndarray, eligible: np.ndarray, options: LeadOptions
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The cluster of each row, (n,), -1 where it may not be picked, and the clusters' names.

    Every source is cut at the quantiles of its difficulty into parts of nearly equal size.
    """
    cluster = np.full(len(difficulty), -1, dtype=np.int64)
    names: list[str] = []
    for source in sorted({str(name) for name in sources[eligible]}):
        rows = np.flatnonzero(eligible & (sources.astype(str) == source))
        order = rows[np.argsort(difficulty[rows], kind="stable")]
        for number, part in enumerate(np.array_split(order, min(options.difficulty_clusters, len(order)))):
            cluster[part] = len(names)
            names.append(f"{source}, difficulty {number + 1} of {options.difficulty_clusters}")
    return cluster, tuple(names)


def _first_pass(loop: Loop, proxy: Proxy, folder: Path, options: LeadOptions) -> dict[str, np.ndarray]:
    """Unit gradients (n, k), their norms, losses and difficulty (n,) under the weights at the start.

    Norm, loss and difficulty are NaN where a row has no loss or no finite gradient.
    """
    path = folder / START_FILE
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("rows", "norms", "losses", "difficulty")}
    rows = np.flatnonzero(loop.eligible)
    start = {
        "rows": np.zeros((len(loop.eligible), proxy.reader.dimension), dtype=np.float16),
        **{name: np.full(len(loop.eligible), np.nan) for name in ("norms", "losses", "difficulty")},
    }
    done = 0
    for at in range(0, len(rows), SAMPLES_AT_ONCE):
        part = rows[at : at + SAMPLES_AT_ONCE]
        samples = [loop.sample(int(i)) for i in part]
        measured = proxy.measure(samples)
        norms = np.linalg.norm(measured.rows.astype(np.float64), axis=1)
        usable = np.isfinite(norms)
        start["rows"][part[usable]] = measured.rows[usable] / np.maximum(norms[usable], 1e-30)[:, None]
        start["norms"][part], start["losses"][part] = np.where(usable, norms, np.nan), measured.losses
        start["difficulty"][part] = _difficulty(loop, proxy, samples, measured.losses, options.difficulty)
        done += int(loop.tokens[part].sum())
        if loop.progress is not None:
            loop.progress("first pass", at + len(part), done, int(loop.tokens[rows].sum()))
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **start))
    return start


def _difficulty(loop: Loop, proxy: Proxy, samples: list[Encoded], losses: np.ndarray, what: str) -> np.ndarray:
    """Loss of each response, or how much of its loss alone the instruction leaves: 1 where none stands before it."""
    if what == "loss":
        return losses
    start, _ = start_token(loop.loaded.tokenizer, loop.loaded.model.config)
    lone = [alone(sample, start) for sample in samples]
    some = [i for i, sample in enumerate(lone) if sample is not None]
    if start is None:  # nothing foretells the first token of a response alone: it counts in neither loss
        losses = losses.copy()
        losses[some] = _mean_losses(proxy, [_without_first(samples[i]) for i in some])
    ratio = np.ones(len(samples))
    ratio[some] = losses[some] / np.maximum(_mean_losses(proxy, [sample for sample in lone if sample]), 1e-6)
    return ratio


def _without_first(sample: Encoded) -> Encoded:
    labels = sample.labels.copy()
    labels[np.flatnonzero(labels[1:] != IGNORED)[0] + 1] = IGNORED
    return replace(sample, labels=labels)


def _mean_losses(proxy: Proxy, samples: list[Encoded]) -> np.ndarray:
    from spicerack.models.loading import LoadedModel

    if not samples:
        return np.zeros(0)
    loaded = LoadedModel(proxy.model, None, "proxy", proxy.device)
    sums = loss_sums(loaded, samples, tokens_per_batch=proxy.tokens_per_batch)
    return np.asarray(sums / np.array([sample.trained_tokens for sample in samples]))
