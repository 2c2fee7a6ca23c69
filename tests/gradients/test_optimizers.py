"""Optimizer rows equal a hand computation, the optimizers' own steps, and full gradients projected one by one."""

import numpy as np
import peft
import pytest
import torch
import transformers

from spicerack.data.batching import collate
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdafactorMoments, AdamMoments
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


ADAFACTORS = {
    "torch": lambda weight: torch.optim.Adafactor([weight], lr=0.5, eps=(0.05, 1e-3)),
    "transformers": lambda weight: transformers.Adafactor(
        [weight], lr=0.5, eps=(1e-3, 1e-3), scale_parameter=False, relative_step=False
    ),
}


@pytest.mark.parametrize("eps_form", ["torch", "transformers"])
@pytest.mark.parametrize("shape", [(3, 4), (5, 2), (6,)], ids=str)
@pytest.mark.parametrize("steps", [0, 4])
def test_adafactor_directions_are_those_of_the_steps_that_are_taken(eps_form, shape, steps):
    """Up to one number a weight: the optimizers clip the update and scale it."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    adafactor = ADAFACTORS[eps_form](weight)
    scales = torch.tensor([1e-4, 1.0, 3.0, 0.2, 5.0, 1.0])[: shape[-1]]  # some are below eps

    def step():
        weight.grad = torch.randn(shape, generator=generator) * scales
        adafactor.step()
        return weight.grad.clone()

    for _ in range(steps):
        step()
    moments = adafactor_moments({"w": weight}, adafactor, eps_form, steps)
    before = weight.detach().clone()
    gradient = step()
    if len(shape) == 1:  # a vector is a matrix of one row whose moments are kept whole
        parameter, given = TrackedParameter("w", 1, shape[0], (Use("m", "linear"),)), gradient[None]
    else:
        parameter, given = TrackedParameter("w", *shape, (Use("m", "linear"),)), gradient
    kept = given.clone()
    direction = moments.direction(parameter, given)
    assert torch.equal(given, kept)
    taken = (before - weight.detach()).reshape(direction.shape)
    scale = float(taken.norm() / direction.norm())
    torch.testing.assert_close(direction * scale, taken, rtol=1e-4, atol=1e-5)


def adafactor_moments(weights, optimizer, eps_form, steps):
    """The optimizer's state as moments; zeros before its first step."""
    names = {
        "torch": ("row_var", "col_var", "variance"),
        "transformers": ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"),
    }
    kept = [{}, {}, {}]
    for name, weight in weights.items():
        if steps == 0:
            shape = weight.shape
            fresh = [torch.zeros(shape)] if len(shape) == 1 else [torch.zeros(shape[0]), torch.zeros(shape[1])]
            for place, tensor in zip(kept[2:] if len(shape) == 1 else kept, fresh, strict=False):
                place[name] = tensor
            continue
        for place, key in zip(kept, names[eps_form], strict=True):
            if (tensor := optimizer.state[weight].get(key)) is not None:
                place[name] = tensor.clone()
    eps = {"torch": 0.05, "transformers": 1e-3}[eps_form]
    return AdafactorMoments(kept[0], kept[1], steps, whole=kept[2], eps=eps, eps_form=eps_form)


@pytest.mark.parametrize("eps_form", ["torch", "transformers"])
def test_adafactor_directions_of_transposed_weights_are_transposed(eps_form):
    generator = torch.Generator().manual_seed(2)
    rows, columns = {"w": torch.rand(4, generator=generator)}, {"w": torch.rand(3, generator=generator)}
    moments = AdafactorMoments(rows, columns, 5, eps=1e-3, eps_form=eps_form)
    gradients = torch.randn(2, 3, 4, generator=generator)
    stored = moments.direction(TrackedParameter("w", 4, 3, PARAMETER.uses), gradients.mT)
    seen = moments.direction(TrackedParameter("w", 3, 4, PARAMETER.uses, transposed=True), gradients)
    torch.testing.assert_close(seen, stored.mT)


@pytest.mark.parametrize("which", ["blocks", "lm_head|q_proj", "."])
@pytest.mark.parametrize("architecture", ["llama", "llama-tied"])
def test_rows_and_norms_do_not_depend_on_how_much_is_formed_at_a_time(architecture, which, monkeypatch):
    model = tiny_model(architecture)
    parameters = tracked_parameters(model, which)
    projection = Projection(parameters, dimension=48, sketch=6)
    moments = random_moments(model, parameters)
    batch = collate(random_samples([5, 9, 7, 3, 12, 4]))
    results = []
    for elements in (1, 2500, 1 << 24):
        monkeypatch.setattr("spicerack.gradients.capture.WHOLE_ELEMENTS", elements)
        with GradientCapture(model, projection, exact_norms=True, moments=moments) as capture:
            results.append(batch_gradients(capture, batch, "mean"))
    for result in results[:-1]:
        for name, values in vars(results[-1]).items():
            scale = float(values.float().abs().max())
            torch.testing.assert_close(getattr(result, name), values, rtol=1e-3, atol=1e-4 * scale)


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
