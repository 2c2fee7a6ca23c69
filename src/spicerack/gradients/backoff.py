"""Batches that do not fit: halved, and halved again, until they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from spicerack.config import Choice
from spicerack.data.batching import tokens_held
from spicerack.errors import ConfigurationError
from spicerack.gradients.batch import BatchGradients, joined
from spicerack.gradients.meter import is_out_of_memory, release

if TYPE_CHECKING:
    from spicerack.data.labels import Encoded

SURELY = 1.5  # times the limit: as near to what did not fit as to what should; above it, trying is waste
Run = Callable[[Sequence["Encoded"]], BatchGradients]


class Backoff:
    """Runs batches, and halves one that the device has no memory for. A sample is never cut.

    The rows of the halves are those of the whole within float32 tolerance: a row depends on its own sample alone.

    Attributes:
        limit: half the tokens, pads counted (a packed batch has none), of the smallest batch that did not fit; None as
            long as every batch fitted. It is what to remember for the next pass.
    """

    def __init__(
        self, run: Run, *, device: torch.device, say: Callable[[Choice], object], packed: bool = False
    ) -> None:
        """Wrap `run`.

        Args:
            run: the gradients of a batch; leaves nothing behind when it fails.
            device: whose cached memory is given back after a failure.
            say: told once, when the first batch does not fit.
            packed: batches have no pads.
        """
        self._run, self._device, self._say = run, device, say
        self._said, self._packed = False, packed
        self.limit: int | None = None

    def run_with_backoff(self, samples: Sequence[Encoded]) -> BatchGradients:
        """Gradients of a batch, in as many parts as it takes.

        Raises:
            ConfigurationError: one sample alone does not fit.
        """
        tokens = tokens_held(samples, packed=self._packed)
        if len(samples) > 1 and self.limit is not None and tokens > SURELY * self.limit:
            return self._halves(samples)
        try:
            return self._run(samples)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(samples) == 1:
                raise ConfigurationError(
                    f"out of memory at one sample of {tokens} tokens on {self._device}; lower max_length, track fewer "
                    "parameters (last:N), or load the weights in a smaller dtype"
                ) from error
        # Only here is the error, whose traceback holds the failed batch's tensors, gone.
        release(self._device)
        self.limit = min(self.limit or tokens, tokens // 2)
        if not self._said:
            self._said = True
            shape = f"{tokens} tokens" if self._packed else f"{len(samples)} x {tokens // len(samples)} tokens"
            reason = f"a batch of {shape} did not fit on {self._device}"
            self._say(Choice("tokens_per_batch", f"halved to {self.limit}", f"{reason}; it is run in parts"))
        return self._halves(samples)

    def _halves(self, samples: Sequence[Encoded]) -> BatchGradients:
        middle = len(samples) // 2
        return joined([self.run_with_backoff(samples[:middle]), self.run_with_backoff(samples[middle:])])
