"""Modules that are not a plain linear layer run once: lookups of every kind, shared modules, weights used directly."""

import peft
import pytest
import torch
import transformers

from spicerack.data.batching import collate
from spicerack.errors import ModelError
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.gradients.reached import check_reached
from spicerack.gradients.reference import reference_gradients, reference_row
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FALCON = {
    "7B": {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False},
    "40B": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "alibi": {"parallel_attn": False, "new_decoder_architecture": False, "multi_query": False, "alibi": True},
}


def build(config):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval()


def assert_rows_equal_the_reference(model, which, samples, **options):
    projection = Projection(tracked_parameters(model, which), **{"dimension": None, **options})
    with GradientCapture(model, projection) as capture:
        rows = batch_gradients(capture, collate(samples), "mean").rows
        alone = torch.cat([batch_gradients(capture, collate([sample]), "mean").rows for sample in samples])
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    tolerance = float(truth.abs().max()) * 2e-5
    torch.testing.assert_close(rows, truth, rtol=2e-4, atol=tolerance)
    torch.testing.assert_close(alone, truth, rtol=2e-4, atol=tolerance)


@pytest.mark.parametrize(
    ("architecture", "which"),
    [("gpt2", "wte"), ("gpt2", "wpe"), ("llama-tied", "embed_tokens"), ("gemma", "embed"), ("gemma2", "embed")],
)
@pytest.mark.parametrize("options", [{}, {"dimension": 24, "sketch": 4}], ids=["whole", "projected"])
def test_lookups_of_tokens_and_of_places_scaled_or_not(architecture, which, options):
    assert_rows_equal_the_reference(tiny_model(architecture), which, random_samples([5, 9, 7]), **options)


def test_the_row_of_the_padding_token_has_no_gradient_as_in_torch():
    model = build(transformers.LlamaConfig(**SMALL | {"pad_token_id": 2}, intermediate_size=24, num_attention_heads=4))
    samples = random_samples([8, 9])
    for sample in samples:
        sample.input_ids[4] = 2  # an end of a turn, within a chat
    assert model.get_input_embeddings().padding_idx == 2
    assert_rows_equal_the_reference(model, "embed_tokens", samples)


def test_an_embedding_that_is_given_no_rows_to_look_up_is_not_trackable():
    """OPT's positions are given the attention mask."""
    with pytest.raises(ModelError, match="matches none"):
        tracked_parameters(tiny_model("opt"), "embed_positions")


@pytest.mark.parametrize("form", FALCON)
@pytest.mark.parametrize("which", ["blocks", "last:1"])
def test_a_model_that_adds_to_a_modules_output_in_place(form, which):
    model = build(transformers.FalconConfig(**SMALL, num_attention_heads=4, **FALCON[form]))
    assert_rows_equal_the_reference(model, which, random_samples([5, 9, 7]))


def test_norms_and_optimizer_rows_of_a_module_that_runs_twice():
    model = tiny_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    samples, (parameter,) = random_samples([8, 9, 5]), tracked_parameters(model, "down_proj")
    weight = model.get_parameter(parameter.name)
    moments = AdamMoments(
        {parameter.name: torch.zeros_like(weight)}, {parameter.name: torch.full_like(weight, 1e-3)}, step=10
    )
    with GradientCapture(model, Projection((parameter,), dimension=None), exact_norms=True, moments=moments) as capture:
        found = batch_gradients(capture, collate(samples), "mean")
    truth = torch.stack([reference_gradients(model, (parameter,), sample)[parameter.name] for sample in samples])
    torch.testing.assert_close(found.rows, truth.flatten(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.gradient_norm, truth.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.directions, moments.direction(parameter, truth).flatten(1), rtol=1e-3, atol=1e-4)


def mamba():
    return build(transformers.MambaConfig(**SMALL, state_size=4, time_step_rank=4))


def test_a_weight_that_the_model_multiplies_by_directly_is_refused():
    model = mamba()
    with pytest.raises(
        ModelError, match=r"dt_proj.weight and 1 more: .* parameters='in_proj\|x_proj\|out_proj' leaves"
    ):
        check_reached(model, tracked_parameters(model, "blocks"))
    proposed = tracked_parameters(model, "in_proj|x_proj|out_proj")
    check_reached(model, proposed)
    assert_rows_equal_the_reference(model, "in_proj|x_proj|out_proj", random_samples([5, 9, 7]))
    assert len(proposed) == 6


def test_a_weight_that_is_not_used_at_all_is_no_fault():
    model = tiny_model("llama")
    model.model.layers[0].spare = torch.nn.Linear(4, 4)
    before = [p.requires_grad for p in model.parameters()]
    check_reached(model.train(), tracked_parameters(model, "blocks"))
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == before


@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral"])
def test_adapters_on_fused_experts_are_refused(architecture):
    lora = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    )
    model = peft.get_peft_model(tiny_model(architecture), lora)
    for which in ("lora", "blocks"):
        with pytest.raises(ModelError, match="target_parameters"):
            tracked_parameters(model, which)
    assert len(tracked_parameters(model, r"q_proj\.lora_")) == 4


def test_every_module_has_its_own_mode_again():
    """A model's own flag says nothing of its parts."""
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    modes = {name: module.training for name, module in model.named_modules()}
    assert model.training
    assert not all(modes.values())
    with GradientCapture(model, Projection(tracked_parameters(model, "lora"), dimension=None)):
        assert not any(module.training for module in model.modules())
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_capture_that_is_refused_leaves_the_model_as_it_was():
    model = tiny_model("qwen3-moe").train()
    model.lm_head.weight.requires_grad_(False)
    model.model.layers[0].mlp.eval()
    layers = [layer.mlp.experts for layer in model.model.layers]
    layers[-1].has_post_expert_norm = True  # a form that is refused after the others are hooked

    def state():
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        modules = {name: (m.training, len(m._forward_hooks), "forward" in vars(m)) for name, m in model.named_modules()}
        return flags, modules

    before = state()
    capture = GradientCapture(model, Projection(tracked_parameters(model, "blocks"), dimension=32))
    for _ in range(2):
        with pytest.raises(ModelError, match="experts of a form that is not supported"):
            capture.__enter__()
        assert state() == before
    layers[-1].has_post_expert_norm = False
    with capture:
        assert state() != before
    assert state() == before
