"""Random projection of per-sample gradients: a two-sided sketch per weight, folded to k columns.

A weight's gradient `D^T A` (o × i, from output gradients D (t, o) and inputs A (t, i)) is sketched as `(D P_o)^T (A
P_i)` with sign matrices `P_o` (o, p) and `P_i` (i, p), entries ±1/sqrt(p): the o × i matrix never exists. The
sketches of all weights, side by side (K columns), are permuted, signed, and summed in k buckets of equal size: a
balanced count-sketch, which costs K additions. Every step keeps inner products unbiased: `E <Pg, Ph> = <g, h>`. The
layout `blocks` leaves the sketches side by side, for methods that look at one weight at a time.

Variance: for rank-one blocks the two-sided sketch has relative variance (1 + 2/p)^2 - 1 per weight, averaged over the
weights by their energy; folding adds about 2 <g,h>^2 / k. A side shorter than p is kept whole, so tiny models are
exact.

Signs come from numpy's Philox bit generator keyed by the seed and a name: counter-based, raw bits only, hence the
same on every device, platform and for any batch size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from spicerack.models.parameters import TrackedParameter
from spicerack.store.layout import Segment

if TYPE_CHECKING:
    import torch

SMALLEST_SKETCH = 16

Layout = Literal["folded", "blocks"]


@dataclass(frozen=True)
class Block:
    """One weight's place in the concatenated sketch, and its two sides; a side of None is kept whole."""

    parameter: TrackedParameter
    start: int
    out_sketch: int
    in_sketch: int
    copies: int = 1  # of the sketch side by side: one for each expert where gradients are kept exact

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.start + self.copies * self.out_sketch * self.in_sketch

    def columns(self, expert: int = 0) -> slice:
        """Columns that a weight, or one expert of a fused one, adds to: experts share them unless they have copies."""
        size = self.out_sketch * self.in_sketch
        first = self.start + (expert if self.copies > 1 else 0) * size
        return slice(first, first + size)

    @property
    def in_key(self) -> str:
        """Modules of one parent with inputs of one width share the input matrix, so q, k, v are projected once."""
        parent = self.parameter.uses[0].module.rpartition(".")[0]
        return f"in:{parent}:{self.parameter.in_features}"

    @property
    def out_key(self) -> str:
        """The output matrix is the weight's own."""
        return f"out:{self.parameter.name}"


class Projection:
    """The projector of a set of tracked parameters: R^p -> R^k, linear, fixed by its seed."""

    def __init__(
        self,
        parameters: Sequence[TrackedParameter],
        *,
        dimension: int | None,
        sketch: int | None = None,
        layout: Layout = "folded",
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Lay out the sketch.

        Args:
            parameters: the tracked weights, in a fixed order.
            dimension: k >= 1; None keeps the exact gradient, k = p. Never more than the sketch has columns.
            sketch: side p of the per-weight sketch; None: the smallest power of two from 16 with k columns in all.
            layout: `folded` to k columns, or `blocks`: all columns of the sketch, each weight's in its own segment.
            seed: any non-negative integer; equal seeds give equal matrices everywhere.
            device: where the matrices live.
            dtype: of the side matrices (the model's); default float32.
        """
        import torch

        self.seed, self.layout = seed, layout
        self.sketch = self._choose_sketch(parameters, dimension, sketch)
        self.blocks = tuple(self._lay_out(parameters, self.sketch, exact=dimension is None))
        self.columns = self.blocks[-1].stop
        whole = dimension is None or layout == "blocks"
        self.dimension = self.columns if whole else min(int(dimension or 0), self.columns)
        self._device, self._dtype = torch.device(device), dtype or torch.float32
        self._sides: dict[tuple[str, int, int], torch.Tensor] = {}
        self._folding = self._make_folding() if self.dimension < self.columns else None

    @staticmethod
    def _choose_sketch(parameters: Sequence[TrackedParameter], dimension: int | None, sketch: int | None) -> int:
        longest = max(max(p.out_features, p.in_features) for p in parameters)
        if dimension is None:
            return longest
        if sketch is not None:
            return sketch
        side = SMALLEST_SKETCH
        while side < longest and _columns(parameters, side) < dimension:
            side *= 2
        return side

    @staticmethod
    def _lay_out(parameters: Sequence[TrackedParameter], sketch: int, *, exact: bool) -> list[Block]:
        blocks, start = [], 0
        for parameter in parameters:
            sides = min(sketch, parameter.out_features), min(sketch, parameter.in_features)
            block = Block(parameter, start, *sides, copies=parameter.experts if exact else 1)
            blocks.append(block)
            start = block.stop
        return blocks

    def _make_folding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Order and signs of the sketch columns, padded to a whole number of layers of k."""
        import torch

        padded = -(-self.columns // self.dimension) * self.dimension
        order = np.zeros(padded, dtype=np.int64)
        order[: self.columns] = np.argsort(_bits(self.seed, "fold:order", self.columns), kind="stable")
        signs = _signs(self.seed, "fold:signs", padded)
        signs[self.columns :] = 0.0
        return torch.from_numpy(order).to(self._device), torch.from_numpy(signs).to(self._device)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Each weight's columns; none where folding mixed them."""
        if self._folding is not None:
            return ()
        return tuple(Segment(block.parameter.name, block.start, block.stop) for block in self.blocks)

    def in_side(self, block: Block) -> torch.Tensor | None:
        """The (in_features, p) matrix of a weight's inputs, or None where the side is kept whole."""
        return self._side(block.in_key, block.parameter.in_features, block.in_sketch)

    def out_side(self, block: Block) -> torch.Tensor | None:
        """The (out_features, p) matrix of a weight's output gradients, or None where the side is kept whole."""
        return self._side(block.out_key, block.parameter.out_features, block.out_sketch)

    def _side(self, key: str, features: int, sketch: int) -> torch.Tensor | None:
        import torch

        if features == sketch:
            return None
        if (key, features, sketch) not in self._sides:
            matrix = _signs(self.seed, key, features * sketch).reshape(features, sketch) / np.float32(np.sqrt(sketch))
            self._sides[key, features, sketch] = torch.from_numpy(matrix).to(self._device, self._dtype)
        return self._sides[key, features, sketch]

    def fold(self, sketches: torch.Tensor) -> torch.Tensor:
        """Sum the concatenated sketches (b, K) float32 into (b, k)."""
        if self._folding is None:
            return sketches
        order, signs = self._folding
        layers = len(order) // self.dimension
        return (sketches[:, order] * signs).view(len(sketches), layers, self.dimension).sum(1)

    def expert_signs(self, block: Block) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Signs (experts, p_o) and (experts, p_i) that let experts share columns; None where they need not.

        An expert's sketch S becomes `diag(s) S diag(t)`: the sum over the experts keeps inner products unbiased, since
        products of two experts' signs vanish on average, and a block of 128 experts costs no more columns than one.
        """
        import torch

        if block.parameter.experts == 1 or block.copies > 1:
            return None
        sides = []
        for side, width in (("out", block.out_sketch), ("in", block.in_sketch)):
            key = (f"expert:{side}:{block.parameter.name}", block.parameter.experts, width)
            if key not in self._sides:
                signs = _signs(self.seed, key[0], key[1] * width).reshape(key[1], width)
                self._sides[key] = torch.from_numpy(signs).to(self._device, self._dtype)
            sides.append(self._sides[key])
        return sides[0], sides[1]

    def sketch_matrix(self, block: Block, gradient: torch.Tensor) -> torch.Tensor:
        """Sketch full gradients: `P_o^T gradient P_i`, flattened.

        Args:
            block: the weight.
            gradient: (..., o, i) to (..., p_o p_i); of a fused weight (experts, o, i) to all its columns, (c,).
        """
        out_side, in_side = self.out_side(block), self.in_side(block)
        right = gradient if in_side is None else gradient @ in_side.to(gradient.dtype)
        sketch = right if out_side is None else out_side.to(gradient.dtype).T @ right
        if block.parameter.experts == 1:
            return sketch.flatten(-2)
        signs = self.expert_signs(block)
        if signs is None:
            return sketch.flatten()
        return (sketch * signs[0].float()[:, :, None] * signs[1].float()[:, None, :]).sum(0).flatten()

    def settings(self) -> dict[str, int | str]:
        """What fixes the projection, for the store's manifest."""
        return {
            "kind": f"two-sided signs, {self.layout}",
            "dimension": self.dimension,
            "sketch": self.sketch,
            "seed": self.seed,
        }


def _columns(parameters: Sequence[TrackedParameter], sketch: int) -> int:
    return sum(min(sketch, p.out_features) * min(sketch, p.in_features) for p in parameters)


def _bits(seed: int, name: str, count: int) -> np.ndarray:
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    return np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)


def _signs(seed: int, name: str, count: int) -> np.ndarray:
    words = _bits(seed, name, -(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little", count=count)
    return bits.astype(np.float32) * 2 - 1
