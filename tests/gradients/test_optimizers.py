"""Adam-form rows equal a hand computation, torch's own step, and full gradients projected one by one."""

import numpy as np
import peft
import pytest
import torch

from spicerack.data.batching import collate
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_gradients
from spicerack.models.parameters import TrackedParameter, Use, tracked_parameters
from spicerack.testing import random_samples, tiny_model

PARAMETER = TrackedParameter("w", 3, 4, (Use("m", "linear"),))


def random_moments(model, parameters, **options):
    generator = torch.Generator().manual_seed(0)
    shapes = {p.name: model.get_parameter(p.name).shape for p in parameters}
    first = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    second = {name: torch.rand(shape, generator=generator) ** 3 * 0.1 for name, shape in shapes.items()}
    return AdamMoments(first, second, **{"step": 7, **options})


def test_the_torch_form_is_the_step_that_torch_takes():
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    adam = torch.optim.AdamW([weight], lr=0.5, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        weight.grad = torch.randn(3, 4, generator=generator)
        adam.step()
    state = adam.state[weight]
    first, second = {"w": state["exp_avg"].clone()}, {"w": state["exp_avg_sq"].clone()}
    moments = AdamMoments(first, second, 5, betas=(0.8, 0.95), eps=1e-6)
    gradient = torch.randn(3, 4, generator=generator)
    before = weight.detach().clone()
    weight.grad = gradient
    adam.step()
    torch.testing.assert_close(moments.direction(PARAMETER, gradient), (before - weight.detach()) / 0.5)


def test_the_less_form_has_eps_inside_the_root_and_no_correction():
    m, v, g = (np.random.default_rng(i).random((3, 4)) for i in range(3))
    moments = AdamMoments(
        {"w": torch.from_numpy(m)}, {"w": torch.from_numpy(v)}, step=3, eps=1e-3, eps_form="less", betas=(0.9, 0.99)
    )
    by_hand = (0.9 * m + 0.1 * g) / np.sqrt(0.99 * v + 0.01 * g**2 + 1e-3)
    torch.testing.assert_close(moments.direction(PARAMETER, torch.from_numpy(g)), torch.from_numpy(by_hand))


@pytest.mark.parametrize("eps_form", ["torch", "less"])
@pytest.mark.parametrize(
    ("architecture", "which"), [("llama", "blocks"), ("gpt2", "blocks"), ("llama-tied", "embed_tokens|q_proj")]
)
def test_rows_are_the_projected_directions_of_full_gradients(architecture, which, eps_form, monkeypatch):
    monkeypatch.setattr("spicerack.gradients.capture.WHOLE_ELEMENTS", 1000)  # a few samples at a time
    model = tiny_model(architecture)
    parameters = tracked_parameters(model, which)
    projection = Projection(parameters, dimension=48, sketch=6)
    moments = random_moments(model, parameters, eps_form=eps_form)
    samples = random_samples([5, 9, 7, 3, 12])
    with GradientCapture(model, projection, moments=moments) as capture:
        result = batch_gradients(capture, collate(samples), "mean")
    for row, sample in zip(result.directions, samples, strict=True):
        gradients = reference_gradients(model, parameters, sample)
        pieces = []
        for block in projection.blocks:
            direction = moments.direction(block.parameter, gradients[block.parameter.name])
            pieces.append(projection.sketch_matrix(block, direction))
        truth = projection.fold(torch.cat(pieces)[None])[0]
        torch.testing.assert_close(row, truth, rtol=1e-3, atol=2e-4 * float(truth.abs().max()))


def test_plain_rows_are_the_same_with_and_without_moments():
    lora = peft.LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(tiny_model("llama"), lora)
    parameters = tracked_parameters(model, "lora")
    projection = Projection(parameters, dimension=20, sketch=4)
    batch = collate(random_samples([5, 9, 7]))
    with GradientCapture(model, projection, moments=random_moments(model, parameters)) as capture:
        both = batch_gradients(capture, batch, "mean")
    with GradientCapture(model, projection) as capture:
        plain = batch_gradients(capture, batch, "mean")
    torch.testing.assert_close(both.rows, plain.rows)
    assert plain.directions is None
    assert not torch.allclose(both.directions, both.rows)
