"""The size of a batch, found by trying: as many tokens as memory holds, and no more than make the pass faster.

Memory grows with the tokens of a batch in a straight line, of another slope for long samples (attention) than for short
ones (a sketch each). Two batches of either kind give the line, and the line what `MEMORY_SHARE` of the free memory
holds. Below that, the device's default is doubled while the real tokens a second still rise: larger batches use the
device better but carry more pads, since samples are sorted by length inside a shard only.

Trying is worth a small share of the pass. A pool too small to time the default and its double gets the default, and no
smaller size is timed: so few tokens tell more of what else the machine does, and a poor size may win.
`backoff.py` catches what does not fit there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.config import Choice
from spicerack.data.batching import plan_batches
from spicerack.errors import ConfigurationError
from spicerack.gradients.meter import Measured, Meter, is_out_of_memory
from spicerack.gradients.remembered import Answer, Remembered

if TYPE_CHECKING:
    import torch

    from spicerack.gradients.capture import GradientCapture
    from spicerack.gradients.loss import Reduction

MEMORY_SHARE = 0.8  # of the free memory: allocators fragment, and other processes live
PROBE_SHARE = 0.02  # of the pool's tokens: what may be spent on finding the size
RUNS = 2  # of a size: the first of a shape sets things up
KNEE = 0.03  # a doubling that gains less than this is the last
NO_BOUND = 10**9  # tokens that memory holds where more tokens take no more of it
PLANNED_SHARDS = 8  # of the pool, whose pads stand for all

RunShape = Callable[[int, int], object]
"""Samples and their length: differentiate such a batch."""


@dataclass(frozen=True)
class Lengths:
    """Tokens (n,) of the samples that have a loss, in the pool's order, rows of a shard, and if batches are packed."""

    tokens: np.ndarray
    shard_rows: int
    packed: bool = False

    @property
    def longest(self) -> int:
        """Of all samples."""
        return int(self.tokens.max())

    @property
    def shortest(self) -> int:
        """Of all samples."""
        return int(self.tokens.min())

    def real_share(self, tokens_per_batch: int) -> float:
        """Share of the tokens that are no pads, in batches of this size."""
        if self.packed:
            return 1.0
        starts = np.arange(0, len(self.tokens), self.shard_rows)
        places = np.unique(np.linspace(0, len(starts) - 1, min(PLANNED_SHARDS, len(starts))).round().astype(int))
        real = padded = 0
        for start in starts[places]:
            shard = self.tokens[start : start + self.shard_rows]
            for members in plan_batches(shard, tokens_per_batch):
                real += int(shard[members].sum())
                padded += len(members) * int(shard[members].max())
        return real / padded


def choose_tokens_per_batch(
    run: RunShape,
    meter: Meter,
    lengths: Lengths,
    *,
    default: int,
    question: Mapping[str, Any],
    remembered: Remembered | None,
) -> tuple[Answer | None, list[Choice]]:
    """The size of a batch in tokens, pads counted, and what there is to say about it; None for the default.

    A small pool has the default whatever was found for larger ones: its bytes are the same on every machine of a kind.

    Args:
        run: differentiates a batch of some shape.
        meter: of the device it runs on.
        lengths: of the pool.
        default: the size where trying does not pay, and the first that is timed.
        question: what the answer depends on, see `batch_question`.
        remembered: answers found before; None neither reads nor writes any.

    Raises:
        ConfigurationError: the longest sample alone does not fit.
    """
    if not pays(lengths, default):
        reason = f"default; the pool's {int(lengths.tokens.sum()):,} tokens are too few for a probe to pay"
        return None, [Choice("tokens_per_batch", str(default), reason)]
    answer, trouble = remembered.get(question, lengths.longest) if remembered else (None, None)
    choices = [trouble] if trouble else []
    if answer is not None and remembered is not None:
        reason = f"remembered in {remembered.path}: {answer.reason}"
        return answer, [*choices, Choice("tokens_per_batch", str(answer.tokens_per_batch), reason)]
    answer = find_tokens_per_batch(run, meter, lengths, default=default)
    if remembered is not None and (trouble := remembered.put(question, answer)):
        choices.append(trouble)
    return answer, [*choices, Choice("tokens_per_batch", str(answer.tokens_per_batch), answer.reason)]


def pays(lengths: Lengths, default: int) -> bool:
    """Whether a pool is so large that timing the default and its double costs a small share of its pass."""
    return _memory_probe(lengths) + RUNS * (default + 2 * default) <= PROBE_SHARE * float(lengths.tokens.sum())


def _memory_probe(lengths: Lengths) -> int:
    """Tokens that the probe of memory takes: one and two batches of the longest sample, and of short ones."""
    return 3 * lengths.longest + 3 * _many(lengths) * lengths.shortest


def _many(lengths: Lengths) -> int:
    """Short samples with as many tokens as one long one."""
    return max(1, lengths.longest // lengths.shortest)


def find_tokens_per_batch(run: RunShape, meter: Meter, lengths: Lengths, *, default: int) -> Answer:
    """Probe memory, then time sizes from the default up to what it holds.

    Raises:
        ConfigurationError: the longest sample alone does not fit.
    """
    longest, shortest, many = lengths.longest, lengths.shortest, _many(lengths)
    free = meter.free()
    held = min(_fitting(run, meter, 1, longest, free), _fitting(run, meter, many, shortest, free))
    memory = f"{MEMORY_SHARE:.0%} of {free / 2**30:.1f} GB free memory holds {held:,} tokens"
    most = min(max(held, longest), lengths.shard_rows * longest)  # a sample is never cut, a shard is a batch at most
    budget = PROBE_SHARE * float(lengths.tokens.sum()) - _memory_probe(lengths)
    best = _fastest(run, meter, lengths, default, most, budget)
    if best is None:
        return Answer(min(default, most), longest, memory)
    tokens, rate = best
    return Answer(tokens, longest, f"{rate:,.0f} real tokens/s, no size tried gave {KNEE:.0%} more; {memory}")


def _fitting(run: RunShape, meter: Meter, samples: int, length: int, free: int) -> int:
    """Tokens that memory holds, from the line through a batch of such samples and one of twice as many."""
    once = _try(run, meter, samples, length)
    if once is None:
        if samples == 1:
            raise ConfigurationError(
                f"out of memory at one sample of {length} tokens; lower max_length, track fewer parameters (last:N), "
                "or load the weights in a smaller dtype"
            )
        return samples * length // 2
    twice = _try(run, meter, 2 * samples, length)
    if twice is None:
        return samples * length
    tokens = samples * length
    slope = max(twice.bytes - once.bytes, 0) / tokens
    rest = MEMORY_SHARE * free - (once.bytes - slope * tokens)
    return int(max(tokens, min(rest, NO_BOUND * slope) / slope)) if slope else NO_BOUND


def _fastest(
    run: RunShape, meter: Meter, lengths: Lengths, first: int, most: int, budget: float
) -> tuple[int, float] | None:
    """The smallest size within `KNEE` of the fastest tried, and its real tokens a second; None if none could be timed.

    Doubling ends when two sizes in turn were no faster than one before them: one alone may have met a busy machine.
    """
    median = int(np.median(lengths.tokens))
    tried: list[tuple[int, float]] = []
    for samples in _doubling(max(1, first // median)):
        tokens = samples * median
        budget -= RUNS * tokens
        if tokens > most or budget < 0:
            break
        runs = [_try(run, meter, samples, median) for _ in range(RUNS)]
        if any(measured is None for measured in runs):
            break
        seconds = min(measured.seconds for measured in runs if measured)
        tried.append((tokens, tokens / seconds * lengths.real_share(tokens)))
        if max(rate for _, rate in tried[-2:]) < (1 + KNEE) * max((rate for _, rate in tried[:-2]), default=0.0):
            break
    if not tried:
        return None
    enough = max(rate for _, rate in tried) / (1 + KNEE)
    return next((tokens, rate) for tokens, rate in tried if rate >= enough)


def _doubling(first: int) -> Iterator[int]:
    while True:
        yield first
        first *= 2


def _try(run: RunShape, meter: Meter, samples: int, length: int) -> Measured | None:
    """Measure a batch; None where memory does not hold it."""
    try:
        return meter.measure(lambda: run(samples, length))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def random_batches(
    capture: GradientCapture, reduction: Reduction, *, vocabulary: int, device: torch.device
) -> RunShape:
    """Batches of random tokens that all carry loss, the most work and memory that a batch of a shape can take.

    Args:
        capture: an entered capture.
        reduction: of a sample's loss.
        vocabulary: tokens are drawn below it.
        device: the model's.
    """
    import torch

    from spicerack.data.batching import Batch
    from spicerack.gradients.batch import batch_gradients

    generator = torch.Generator().manual_seed(0)

    def run(samples: int, length: int) -> None:
        ids = torch.randint(0, vocabulary, (samples, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1:, -1] = 0  # a pad, so that attention takes the path that padded batches take
        batch = Batch(input_ids=ids, labels=ids.clone(), attention_mask=mask).to(device)
        batch_gradients(capture, batch, reduction)

    return run


def batch_question(
    *,
    fingerprint: str,
    dtype: str,
    device: str,
    tracked: list[str],
    dimension: int | None,
    whole: list[str],
    packed: bool = False,
) -> dict[str, Any]:
    """What a batch size depends on beside the pool.

    Args:
        fingerprint: of the model's weights.
        dtype: of the model.
        device: see `meter.device_name`.
        tracked: names of the tracked weights.
        dimension: k, None for exact gradients.
        whole: what full gradients are formed for: `exact_norms`, `moments`.
        packed: batches have no pads; left out of the question where they have, as it was before there was a choice.
    """
    return {
        "model": fingerprint,
        "dtype": dtype,
        "device": device,
        "tracked": tracked,
        "dimension": dimension,
        "whole": sorted(whole),
        **({"packed": True} if packed else {}),
    }
