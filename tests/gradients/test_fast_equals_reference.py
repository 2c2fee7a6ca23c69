"""The fast pass equals one backward a sample, torch.func's vmap(grad), and finite differences."""

import gc
import weakref

import numpy as np
import peft
import pytest
import torch

from spicerack.data.batching import collate
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.head import Head
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_gradients, reference_row, sample_loss
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import ARCHITECTURES, random_samples, tiny_model

RAGGED = [5, 9, 12, 3, 7, 12, 4, 2, 8, 6, 11, 10, 5, 5, 9, 7]
EQUAL = [8] * 16


def fast_rows(model, projection, samples, *, reduction="mean", exact_norms=False):
    with GradientCapture(model, projection, exact_norms=exact_norms) as capture:
        return batch_gradients(capture, collate(samples), reduction)


def assert_close(actual, expected):
    scale = expected.abs().max()
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=float(scale) * 2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lengths", [RAGGED, EQUAL], ids=["padded", "equal"])
def test_exact_gradients_of_every_architecture(architecture, lengths):
    model = tiny_model(architecture)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=None)
    samples = random_samples(lengths)
    batch = fast_rows(model, projection, samples).rows
    single = torch.cat([fast_rows(model, projection, [sample]).rows for sample in samples])
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    assert_close(batch, truth)
    assert_close(single, truth)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_projected_rows_are_the_projection_of_the_exact_ones(architecture):
    model = tiny_model(architecture)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=96, sketch=8, seed=3)
    assert projection.columns > 96
    samples = random_samples(RAGGED)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    assert_close(fast_rows(model, projection, samples).rows, truth)


ROUTED = {"qwen3-moe", "mixtral", "gpt-oss"}  # which expert a token goes to is a matter of its values: vmap cannot


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - ROUTED))
@pytest.mark.parametrize("lengths", [RAGGED, EQUAL], ids=["padded", "equal"])
def test_vmap_of_grad_agrees(architecture, lengths):
    """Pads stand on the right, where no causal model sees them, so vmap needs no mask."""
    model = tiny_model(architecture)
    model.set_attn_implementation("eager")  # the fused kernel has no batching rule
    parameters = tracked_parameters(model, "blocks")
    projection = Projection(parameters, dimension=None)
    samples = random_samples(lengths)
    batch = collate(samples)
    model.requires_grad_(False)
    weights = {p.name: model.get_parameter(p.name).detach() for p in parameters}

    def loss(values, input_ids, labels):
        logits = torch.func.functional_call(model, values, (input_ids[None],), {"use_cache": False}).logits[0, :-1]
        chosen = torch.log_softmax(logits, -1).gather(1, labels[1:].clamp(min=0)[:, None])[:, 0]
        mask = (labels[1:] != -100).float()
        return -(chosen * mask).sum() / mask.sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, batch.input_ids, batch.labels)
    by_hand = torch.cat(
        [(gradients[p.name].mT if p.transposed else gradients[p.name]).flatten(1) for p in parameters], 1
    )
    assert_close(fast_rows(model, projection, samples).rows, by_hand)


def test_finite_differences_agree():
    model = tiny_model("gpt2").double()  # Llama's norm rounds to float32 whatever the weights' type
    parameters = tracked_parameters(model, "blocks")
    (sample,) = random_samples([9])
    gradients = reference_gradients(model, parameters, sample)
    fast = fast_rows(model, Projection(parameters, dimension=None, dtype=torch.float64), [sample]).rows[0]
    rng, start, step = np.random.default_rng(0), 0, 1e-6
    for parameter in parameters:
        weight = model.get_parameter(parameter.name)
        direction = torch.from_numpy(rng.standard_normal(tuple(weight.shape)))
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(direction, alpha=sign * step)
                losses.append(sample_loss(model, sample, reduction="mean").item())
                weight.sub_(direction, alpha=sign * step)
        slope = (losses[0] - losses[1]) / (2 * step)
        direction = direction.T if parameter.transposed else direction
        by_truth = (gradients[parameter.name] * direction).sum().item()
        by_fast = (fast[start : start + parameter.size].double() @ direction.flatten()).item()
        start += parameter.size
        assert by_truth == pytest.approx(slope, rel=1e-5, abs=1e-7)
        assert by_fast == pytest.approx(by_truth, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "llama"])
def test_tied_head_sums_lookup_and_output(architecture):
    model = tiny_model(architecture)
    which = r"^(lm_head|model\.embed_tokens|transformer\.wte)\.weight"
    for dimension, sketch in [(None, None), (64, 8)]:
        projection = Projection(tracked_parameters(model, which), dimension=dimension, sketch=sketch)
        samples = random_samples(RAGGED)
        truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
        assert_close(fast_rows(model, projection, samples).rows, truth)


@pytest.mark.parametrize("which", ["last:1", r"q_proj|down_proj", r"layers\.1\.mlp"])
def test_subsets_of_the_parameters(which):
    model = tiny_model("llama")
    projection = Projection(tracked_parameters(model, which), dimension=None)
    samples = random_samples(RAGGED)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    assert_close(fast_rows(model, projection, samples).rows, truth)


def test_experts_share_columns_without_bias():
    """Averaged over seeds, inner products of sketches that all experts add to are those of the whole gradients."""
    model = tiny_model("qwen3-moe")
    parameters = tracked_parameters(model, r"experts")
    samples = random_samples([12, 9, 10])
    exact = fast_rows(model, Projection(parameters, dimension=None), samples).rows
    truth = exact @ exact.T
    products = []
    for seed in range(300):
        rows = fast_rows(model, Projection(parameters, dimension=48, sketch=6, seed=seed), samples).rows
        products.append(rows @ rows.T)
    estimates = torch.stack(products)
    error = (estimates.mean(0) - truth).abs() / estimates.std(0)
    assert error.max() < 4 / 300**0.5


def test_lora_gradients_ignore_dropout_and_equal_the_reference():
    lora = peft.LoraConfig(
        r=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", lora_dropout=0.5, init_lora_weights=False
    )
    model = peft.get_peft_model(tiny_model("llama"), lora).train()
    projection = Projection(tracked_parameters(model, "lora"), dimension=None)
    samples = random_samples(RAGGED)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    assert_close(fast_rows(model, projection, samples).rows, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_points_the_same_way(dtype):
    model = tiny_model("llama")
    samples = random_samples(RAGGED)
    full = fast_rows(model, Projection(tracked_parameters(model, "blocks"), dimension=64), samples).rows
    model = tiny_model("llama").to(dtype)
    half = fast_rows(model, Projection(tracked_parameters(model, "blocks"), dimension=64, dtype=dtype), samples).rows
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "qwen3-moe", "gpt-oss"])
@pytest.mark.parametrize("which", ["blocks", "."])
def test_exact_norms_are_the_norms_of_whole_gradients(architecture, which):
    model = tiny_model(architecture)
    if which == "." and architecture == "gpt2":
        which = r"^transformer\.(wte|h)"
    projection = Projection(tracked_parameters(model, which), dimension=64, sketch=4)
    samples = random_samples(RAGGED)
    norms = fast_rows(model, projection, samples, exact_norms=True).gradient_norm
    for norm, sample in zip(norms, samples, strict=True):
        gradients = reference_gradients(model, tracked_parameters(model, which), sample)
        truth = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        assert norm.item() == pytest.approx(truth.item(), rel=1e-4)


def test_sum_is_mean_times_trained_tokens():
    model = tiny_model("qwen2")
    projection = Projection(tracked_parameters(model, "blocks"), dimension=None)
    samples = random_samples(RAGGED)
    mean = fast_rows(model, projection, samples)
    total = fast_rows(model, projection, samples, reduction="sum")
    assert mean.trained.tolist() == [sample.trained_tokens for sample in samples]
    assert_close(total.rows, mean.rows * mean.trained[:, None])
    truth = [sample_loss(model, sample, reduction="sum").item() for sample in samples]
    torch.testing.assert_close(mean.loss_sum, torch.tensor(truth), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama").train()
    model.lm_head.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    fast_rows(model, Projection(tracked_parameters(model, "blocks"), dimension=32), random_samples([5, 6]))
    assert model.training
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not model.lm_head._forward_pre_hooks


def test_a_batch_leaves_no_graph_behind():
    """A cycle through autograd's graph is invisible to the garbage collector: one batch's activations would stay."""
    model = tiny_model("llama")
    capture = GradientCapture(model, Projection(tracked_parameters(model, "blocks"), dimension=32))
    with capture:
        batch_gradients(capture, collate(random_samples([5, 6])), "mean")
    alive = weakref.ref(capture)
    del capture
    gc.collect()
    assert alive() is None


def test_the_head_gives_the_same_in_chunks_of_any_size(monkeypatch):
    model = tiny_model("gemma2")  # it caps its logits after the head
    projection = Projection(tracked_parameters(model, "."), dimension=64)
    samples = random_samples(RAGGED)
    whole = fast_rows(model, projection, samples)
    monkeypatch.setattr(Head, "chunks", lambda _, count: (slice(i, min(i + 7, count)) for i in range(0, count, 7)))
    parts = fast_rows(model, projection, samples)
    assert_close(parts.rows, whole.rows)
    assert_close(parts.loss_sum, whole.loss_sum)


def test_no_graph_below_the_lowest_tracked_layer():
    model = tiny_model("llama")
    seen = []
    model.model.layers[0].register_forward_hook(
        lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out).requires_grad)
    )
    fast_rows(model, Projection(tracked_parameters(model, "last:1"), dimension=32), random_samples([5, 6]))
    assert seen == [False]
