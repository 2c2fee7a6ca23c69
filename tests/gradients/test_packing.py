"""Samples in one row have the gradients they have alone, or the model is refused; nobody is taken at its name."""

import itertools

import pytest
import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spicerack.config import Choice, RunConfig, with_options
from spicerack.data.batching import collate
from spicerack.errors import ConfigurationError, StoreMismatchError
from spicerack.gradients import collect
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.leaks import choose_packing, why_not_packed
from spicerack.gradients.packing import packed_row
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_row
from spicerack.models.loading import LoadedModel
from spicerack.models.parameters import tracked_parameters
from spicerack.passes import plan_pass
from spicerack.testing import ARCHITECTURES, random_samples, tiny_model, tiny_tokenizer

RAGGED = [5, 9, 12, 3, 7, 12, 2, 8, 11]
WITHOUT_SDPA = {"gemma2", "gpt-oss"}
ALIKE = [
    (architecture, attention)
    for architecture in ARCHITECTURES
    for attention in ("sdpa", "eager")
    if attention == "eager" or architecture not in WITHOUT_SDPA
]


def packed(model, projection, samples):
    with GradientCapture(model, projection, packing=True) as capture:
        return batch_gradients(capture, collate(samples), "mean")


def error(rows, truth):
    return float(((rows - truth).norm(dim=1) / truth.norm(dim=1)).max())


@pytest.mark.parametrize(("architecture", "attention"), ALIKE)
def test_a_model_packs_as_each_sample_alone_or_is_refused(architecture, attention):
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=96, sketch=8)
    samples = random_samples(RAGGED)
    rows = packed(model, projection, samples).rows
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    refused = why_not_packed(model)
    if refused is None:
        assert error(rows, truth) < 1e-4
    else:
        assert refused == "a sample's hidden states change with the tokens of another"
        assert error(rows, truth) > 0.1
    assert refused is None or architecture in {"opt", "gpt-oss"}  # as long as they tell their masks no positions


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_a_samples_row_does_not_change_with_the_others_tokens(architecture):
    model = tiny_model(architecture)
    projection = Projection(tracked_parameters(model, "blocks"), dimension=96, sketch=8)
    samples, others = random_samples(RAGGED), random_samples(RAGGED, seed=1)
    before = packed(model, projection, samples)
    for changed in range(len(samples)):
        after = packed(model, projection, [*samples[:changed], others[changed], *samples[changed + 1 :]])
        kept = torch.arange(len(samples)) != changed
        torch.testing.assert_close(after.rows[kept], before.rows[kept], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(after.loss_sum[kept], before.loss_sum[kept], rtol=1e-6, atol=1e-6)
        assert error(after.rows[changed : changed + 1], before.rows[changed : changed + 1]) > 0.1


def test_the_row_has_every_token_once_and_positions_that_begin_again():
    batch = collate(random_samples([3, 5, 2]))
    row = packed_row(batch)
    inputs = row.inputs(batch.input_ids, lengths=True)
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 0, 1]]
    assert inputs["input_ids"][0].tolist() == batch.input_ids[batch.attention_mask == 1].tolist()
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 3, 8, 10]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert (inputs["max_length_q"], inputs["max_length_k"]) == (5, 5)
    assert set(row.inputs(batch.input_ids, lengths=False)) == {"input_ids", "position_ids"}
    padded = row.unpack(inputs["input_ids"][..., None])[..., 0]
    assert torch.equal(padded, batch.input_ids)


class Blind(torch.nn.Module):
    """Attention that keeps samples apart, in a model that counts positions on from one sample to the next."""

    def __init__(self, decoder):
        super().__init__()
        self.inner = decoder

    def forward(self, input_ids=None, position_ids=None, attention_mask=None, use_cache=None):
        if position_ids is None:
            return self.inner(input_ids=input_ids, use_cache=use_cache)
        begins = torch.cumsum(position_ids[0] == 0, 0)
        apart = (begins[:, None] == begins[None]) & torch.ones(len(begins), len(begins), dtype=torch.bool).tril()
        return self.inner(input_ids=input_ids, attention_mask=apart[None, None], use_cache=use_cache)


def small(name, **options):
    config = getattr(transformers, f"{name}Config")(vocab_size=64, bos_token_id=1, eos_token_id=2, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def alibi():
    return small("Bloom", hidden_size=16, n_layer=2, n_head=2)


def state_space():
    return small("Mamba", hidden_size=16, num_hidden_layers=2, state_size=4)


def counts_on():
    model = tiny_model("gpt2")
    model.transformer = Blind(model.transformer)
    model.get_decoder = lambda: model.transformer
    model.get_input_embeddings = lambda: model.transformer.inner.wte
    return model


def recurrent_layers():
    """Attention and gated delta layers: it takes positions, and its recurrence runs on through the row."""
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    linear = {"linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    return small(
        "Qwen3Next",
        hidden_size=16,
        intermediate_size=16,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=8,
        **layers,
        **attention,
        **linear,
        **experts,
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (alibi, "BloomModel takes no position_ids"),
        (state_space, "MambaModel takes no position_ids"),
        (recurrent_layers, "a sample's hidden states change with the tokens of another"),
        (counts_on, r"hidden states differ by [\d.]+% from those of the sample alone"),
    ],
)
def test_what_cannot_keep_samples_apart_is_refused(make, reason):
    model = make()
    with pytest.raises(ConfigurationError, match=rf"packing=true, but .*: {reason}; use packing=false, or"):
        choose_packing(loaded(model), True)


def loaded(model, device="cpu"):
    return LoadedModel(model, None, "tiny", torch.device(device))


def test_the_try_leaves_the_model_as_it_was():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    before = [(module.training) for module in model.modules()], [p.requires_grad for p in model.parameters()]
    assert why_not_packed(model) is None
    assert ([(module.training) for module in model.modules()], [p.requires_grad for p in model.parameters()]) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.model.embed_tokens._forward_hooks


def test_the_automatic_choice_is_off_on_a_cpu_and_without_flash_attention_and_says_why():
    on, choice = choose_packing(loaded(tiny_model()), "auto")
    assert not on
    assert choice == Choice("packing", "off", "on a CPU: batches cut by length have few pads, one long row has a cost")
    on, choice = choose_packing(loaded(tiny_model(), "cuda"), "auto")
    assert not on
    assert choice.reason == "sdpa attention: one row pays with flash attention (attn_implementation) alone"


def test_what_is_told_is_no_choice():
    assert choose_packing(loaded(tiny_model()), True) == (True, None)
    assert choose_packing(loaded(tiny_model("opt")), False) == (False, None)


VARLEN = "simulated_flash"


@pytest.fixture
def simulated_flash():
    """Attention over samples of any lengths, as flash attention has it: it knows them by its keywords alone."""
    seen = []

    def attend(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None, **rest):
        borders = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        assert attention_mask is None
        assert max_length_q is None or max_length_q == max(b - a for a, b in itertools.pairwise(borders))
        seen.append(borders)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(tensor[:, :, start:stop] for tensor in (query, key, value)),
                is_causal=True,
                scale=scaling,
                enable_gqa=True,
            )
            for start, stop in itertools.pairwise(borders)
        ]
        return torch.cat(parts, 2).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register(VARLEN, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(VARLEN, flash_attention_mask)
    yield seen
    del type(ALL_ATTENTION_FUNCTIONS)._global_mapping[VARLEN]
    del type(ALL_MASK_ATTENTION_FUNCTIONS)._global_mapping[VARLEN]


def test_flash_attention_is_told_the_lengths_and_chosen_on_a_gpu(simulated_flash):
    model = tiny_model("llama")
    projection = Projection(tracked_parameters(model, "blocks"), dimension=96, sketch=8)
    samples = random_samples(RAGGED)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    model.config._attn_implementation = VARLEN
    assert choose_packing(loaded(model), "auto")[0] is False
    on, choice = choose_packing(loaded(model, "cuda"), "auto")
    assert on
    assert choice.reason == "no pads with simulated_flash, and samples were seen to stay apart"
    simulated_flash.clear()
    assert error(packed(model, projection, samples).rows, truth) < 1e-5
    assert {tuple(borders) for borders in simulated_flash} == {(0, 5, 14, 26, 29, 36, 48, 50, 58, 69)}


def test_an_automatic_choice_never_leaks(simulated_flash, monkeypatch):
    """Where the attention of the flash family is not told the lengths, the row is not used, and why is said."""
    monkeypatch.setattr("spicerack.gradients.head.has_flash_attention", lambda model: False)
    model = tiny_model("llama")
    model.config._attn_implementation = VARLEN
    on, choice = choose_packing(loaded(model, "cuda"), "auto")
    assert not on
    assert choice.reason.endswith(
        "samples in one row apart: a sample's hidden states change with the tokens of another"
    )


@pytest.fixture
def quick(monkeypatch):
    """No time spent on what the device can do."""
    monkeypatch.setattr(collect, "measure_peak", lambda *_: 1e9)


def plan(pool, **options):
    given = {"dimension": 32, "sketch": 4, "shard_rows": 16, "storage_dtype": "float32", "tokens_per_batch": 256}
    config = with_options(RunConfig(), {**given, **options})
    return plan_pass(config, pool=str(pool), model=tiny_model(vocab_size=300), tokenizer=tiny_tokenizer())


def test_a_packed_pass_gives_the_rows_of_a_padded_one_in_a_store_of_its_own(tiny_pool, tmp_path, quick):
    planned, padded = plan(tiny_pool, packing=True), plan(tiny_pool)
    assert [c.value for c in padded.choices if c.name == "packing"] == ["off"]
    store, truth = planned.run(tmp_path / "packed"), padded.run(tmp_path / "padded")
    torch.testing.assert_close(torch.tensor(store.matrix()), torch.tensor(truth.matrix()), rtol=1e-3, atol=1e-6)
    for column in ("loss_mean", "loss_sum", "gradient_norm", "trained_tokens"):
        kept = torch.tensor(store.column(column)), torch.tensor(truth.column(column))
        torch.testing.assert_close(*kept, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert store.settings["packing"] is True
    assert {**truth.settings, "packing": True} == store.settings  # a padded store is what it always was
    with pytest.raises(StoreMismatchError, match="packing was True, now None"):
        plan(tiny_pool).run(tmp_path / "packed")


def test_options_reach_the_pass(tiny_pool):
    assert RunConfig().gradients.packing == "auto"
    assert plan(tiny_pool, packing="true").config.packing is True
    with pytest.raises(ConfigurationError, match="packing"):
        plan(tiny_pool, packing="perhaps")


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "sdpa"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3-moe"])
def test_kernels_of_a_gpu_keep_samples_apart(architecture, attention):
    """Heads of 16, the least that the kernels take; bfloat16, since flash attention multiplies no float32.

    Rounding routes a token to another expert here and there, so it is the middle sample that must agree.
    """
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    name, options = ARCHITECTURES[architecture]
    widths = {option: 32 for option in options if option.endswith("intermediate_size")}
    model = small(name, **{**options, **widths, "hidden_size": 64, "head_dim": 16})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model = model.to("cuda", torch.bfloat16)
    projection = Projection(
        tracked_parameters(model, "blocks"), dimension=96, sketch=8, device="cuda", dtype=torch.bfloat16
    )
    samples = random_samples(RAGGED)
    truth = torch.stack([reference_row(model, projection, sample) for sample in samples])
    model.set_attn_implementation(attention)
    assert why_not_packed(model) is None
    on, choice = choose_packing(loaded(model, "cuda"), "auto")
    assert on == (attention == "flash_attention_2"), choice.reason
    with GradientCapture(model, projection, packing=True) as capture:
        rows = batch_gradients(capture, collate(samples).to(torch.device("cuda")), "mean").rows
    assert torch.nn.functional.cosine_similarity(rows, truth).median() > 0.97
