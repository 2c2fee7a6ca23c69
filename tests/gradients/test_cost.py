"""The operations of a pass are counted as they can be counted by hand."""

import pytest
import torch

from spicerack.data.batching import collate
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.cost import Cost, count_flops
from spicerack.gradients.projection import Projection
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model


def test_a_late_pass_costs_less_than_a_whole_one():
    model = tiny_model("llama")
    batch = collate(random_samples([20] * 4))
    flops = {}
    for which in ("blocks", "last:1"):
        projection = Projection(tracked_parameters(model, which), dimension=32, sketch=2)
        with GradientCapture(model, projection) as capture:
            flops[which] = count_flops(lambda capture=capture: batch_gradients(capture, batch, "mean"))
    forward = 2 * 80 * sum(p.numel() for n, p in model.named_parameters() if "layers" in n and p.ndim == 2)
    assert forward < flops["last:1"] < 0.8 * flops["blocks"]
    assert flops["blocks"] < 2.5 * forward


def test_a_product_is_counted_exactly():
    assert count_flops(lambda: torch.ones(3, 5) @ torch.ones(5, 7)) == 2 * 3 * 5 * 7


def test_the_share_of_the_peak():
    summary = Cost(tokens=1000, seconds=2.0, flops=4e9, peak_flops=8e9).summary()
    assert summary["tokens_per_second"] == 500
    assert summary["share_of_peak"] == pytest.approx(0.25)
