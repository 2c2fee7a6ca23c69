"""The projection is unbiased, within its stated error, and the same everywhere."""

import numpy as np
import pytest
import torch

from spicerack.gradients.projection import Projection
from spicerack.models.parameters import TrackedParameter, Use


def parameters(*shapes):
    return [
        TrackedParameter(f"block.{i}.linear.weight", out, into, (Use(f"block.{i}.linear", "linear"),))
        for i, (out, into) in enumerate(shapes)
    ]


def project(projection, gradients):
    sketches = [projection.sketch_matrix(block, g) for block, g in zip(projection.blocks, gradients, strict=True)]
    return projection.fold(torch.cat(sketches)[None])[0]


def test_inner_products_are_unbiased_and_within_the_stated_error():
    tracked = parameters((40, 30), (24, 50), (64, 20), (30, 64))
    generator = torch.Generator().manual_seed(0)
    g = [
        torch.outer(torch.randn(p.out_features, generator=generator), torch.randn(p.in_features, generator=generator))
        for p in tracked
    ]
    h = [x + 0.7 * torch.randn(x.shape, generator=generator) * x.norm() / x.numel() ** 0.5 for x in g]
    exact = sum((x * y).sum().item() for x, y in zip(g, h, strict=True))
    norms = [sum(x.square().sum().item() for x in v) ** 0.5 for v in (g, h)]
    trials, side, k = 400, 8, 64
    estimates = []
    for seed in range(trials):
        projection = Projection(tracked, dimension=k, sketch=side, seed=seed)
        estimates.append((project(projection, g) @ project(projection, h)).item())
    relative = np.array(estimates) / (norms[0] * norms[1])
    # rank-one blocks: (1 + 2/p)^2 - 1 of each block's energy, and 2/k for the fold
    blocks = sum((x.norm() * y.norm()).item() ** 2 for x, y in zip(g, h, strict=True)) / (norms[0] * norms[1]) ** 2
    bound = np.sqrt(((1 + 2 / side) ** 2 - 1) * blocks + 2.5 / k)
    assert relative.std() < 1.15 * bound
    assert abs(relative.mean() - exact / (norms[0] * norms[1])) < 4 * relative.std() / np.sqrt(trials)


def test_the_same_seed_gives_the_same_matrices_in_any_order_and_dtype():
    tracked = parameters((40, 30), (24, 50))
    first = Projection(tracked, dimension=32, sketch=8, seed=5)
    again = Projection(tracked, dimension=32, sketch=8, seed=5, dtype=torch.bfloat16)
    later = again.out_side(again.blocks[1])  # asked for in another order
    assert torch.equal(
        first.in_side(first.blocks[0]), again.in_side(again.blocks[0]).float().sign() / np.sqrt(8, dtype=np.float32)
    )
    assert torch.equal(first.out_side(first.blocks[1]).sign(), later.float().sign())
    other = Projection(tracked, dimension=32, sketch=8, seed=6)
    assert not torch.equal(first.in_side(first.blocks[0]), other.in_side(other.blocks[0]))


def test_the_generator_is_pinned():
    """Stores outlive versions: these numbers may never change."""
    projection = Projection(parameters((40, 30)), dimension=32, sketch=8, seed=0)
    signs = projection.out_side(projection.blocks[0])[:2].sign().int().flatten().tolist()
    assert signs == [-1, 1, 1, 1, -1, 1, -1, 1, 1, 1, 1, 1, -1, 1, 1, 1]
    assert projection.fold(torch.arange(64.0)[None])[0, :6].int().tolist() == [24, -34, -10, -40, -44, 7]


def test_folding_uses_every_sketch_column_once():
    projection = Projection(parameters((40, 30), (24, 50)), dimension=50, sketch=8)
    folded = projection.fold(torch.eye(projection.columns))
    assert torch.equal(folded.abs().sum(1), torch.ones(projection.columns))
    per_bucket = folded.abs().sum(0)
    assert per_bucket.max() - per_bucket.min() <= 1


def test_a_dimension_of_none_keeps_the_gradient_exact():
    tracked = parameters((4, 3), (2, 5))
    projection = Projection(tracked, dimension=None)
    gradients = [torch.randn(4, 3), torch.randn(2, 5)]
    assert torch.equal(project(projection, gradients), torch.cat([g.flatten() for g in gradients]))


@pytest.mark.parametrize("dimension", [16, 512, 4096])
def test_the_chosen_sketch_has_room_for_the_dimension(dimension):
    tracked = parameters(*[(256, 192)] * 6)
    projection = Projection(tracked, dimension=dimension)
    assert projection.columns >= dimension
    assert projection.sketch == 16 or 4 * projection.sketch**2 * 6 // 16 < dimension
    assert projection.dimension == dimension
