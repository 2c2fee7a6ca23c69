"""A sample's row is its own: equal to the reference, whatever batch, order, padding or part of a batch it comes in.

Every option is checked against one backward a sample, over drawn lengths, label masks, orders and padding,
the batch padded or packed.
"""

import functools

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spicerack.data.batching import Batch
from spicerack.gradients.batch import batch_gradients
from spicerack.gradients.capture import GradientCapture
from spicerack.gradients.optimizers import AdafactorMoments, AdamMoments
from spicerack.gradients.projection import Projection
from spicerack.gradients.reference import reference_gradients, sample_loss
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model


def with_lora(model):
    options = {"r": 3, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(model, peft.LoraConfig(**options, init_lora_weights=False))


def adam(model, parameters, eps_form="torch"):
    generator = torch.Generator().manual_seed(0)
    shapes = {p.name: model.get_parameter(p.name).shape for p in parameters}
    first = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    second = {name: torch.rand(shape, generator=generator) * 0.1 + 1e-3 for name, shape in shapes.items()}
    return AdamMoments(first, second, step=7, eps=1e-6, eps_form=eps_form)


def adafactor(model, parameters):
    generator = torch.Generator().manual_seed(0)
    shapes = {p.name: model.get_parameter(p.name).shape for p in parameters}
    rows = {name: torch.rand(shape[0], generator=generator) + 1e-3 for name, shape in shapes.items()}
    columns = {name: torch.rand(shape[1], generator=generator) + 1e-3 for name, shape in shapes.items()}
    return AdafactorMoments(rows, columns, step=7)


OPTIONS = {
    "plain": {},
    "gpt2": {"architecture": "gpt2"},
    "sum": {"reduction": "sum"},
    "last block": {"which": "last:1"},
    "tied head": {"architecture": "llama-tied", "which": "embed_tokens|v_proj"},
    "head alone": {"which": "lm_head"},
    "exact": {"dimension": None},
    "blocks": {"layout": "blocks"},
    "exact norms": {"exact_norms": True},
    "exact norms of a tied head": {"architecture": "llama-tied", "which": "embed_tokens|v_proj", "exact_norms": True},
    "experts": {"architecture": "qwen3-moe", "exact_norms": True},
    "adam, torch": {"moments": adam},
    "adam, less": {"moments": functools.partial(adam, eps_form="less")},
    "adam of a tied head": {"architecture": "llama-tied", "which": "embed_tokens|v_proj", "moments": adam},
    "adafactor": {"moments": adafactor},
    "adafactor, transposed weights": {"architecture": "gpt2", "moments": adafactor},
    "lora": {"adapted": True, "which": "lora"},
    "lora, adam, sum": {"adapted": True, "which": "lora", "moments": adam, "reduction": "sum", "exact_norms": True},
}
ABSOLUTE_POSITIONS = {"gpt2"}  # a pad on the left moves every token: such models are only ever padded on the right


class Pass:
    """The fast pass of one option, and the slow one it must equal."""

    def __init__(
        self,
        *,
        architecture="llama",
        which="blocks",
        adapted=False,
        dimension=40,
        layout="folded",
        moments=None,
        reduction="mean",
        exact_norms=False,
        dtype=torch.float32,
    ):
        self.model = (with_lora(tiny_model(architecture)) if adapted else tiny_model(architecture)).to(dtype)
        self.parameters = tracked_parameters(self.model, which)
        self.projection = Projection(self.parameters, dimension=dimension, sketch=5, layout=layout, dtype=dtype)
        self.moments = moments(self.model, self.parameters) if moments else None
        self.reduction, self.exact_norms = reduction, exact_norms
        self.left = architecture not in ABSOLUTE_POSITIONS

    def fast(self, batch, *, packing=False):
        with GradientCapture(
            self.model, self.projection, exact_norms=self.exact_norms, moments=self.moments, packing=packing
        ) as capture:
            return batch_gradients(capture, batch, self.reduction)

    def slow(self, sample):
        gradients = reference_gradients(self.model, self.parameters, sample, reduction=self.reduction)
        gradients = {name: gradient.float() for name, gradient in gradients.items()}
        row = self.project(gradients)
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        values = {"rows": row, "gradient_norm": norm if self.exact_norms else row.norm()}
        values["loss_sum"] = sample_loss(self.model, sample, reduction="sum").detach().float()
        if self.moments:
            values["directions"] = self.project(
                {p.name: self.moments.direction(p, gradients[p.name]) for p in self.parameters}
            )
        return values

    def project(self, gradients):
        pieces = [self.projection.sketch_matrix(b, gradients[b.parameter.name]) for b in self.projection.blocks]
        return self.projection.fold(torch.cat(pieces)[None])[0]


@functools.cache
def made(name):
    return Pass(**OPTIONS[name])


def padded(samples, side, extra):
    """The samples side by side, pads on one side, `extra` of them in the longest."""
    width = max(len(sample.input_ids) for sample in samples) + extra
    ids, mask = (torch.zeros(len(samples), width, dtype=torch.long) for _ in range(2))
    labels = torch.full((len(samples), width), -100)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        place = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, place] = torch.from_numpy(sample.input_ids).long()
        labels[row, place] = torch.from_numpy(sample.labels).long()
        labels[row, place.start] = -100  # nothing predicts the first token, a pad least of all
        mask[row, place] = 1
    return Batch(input_ids=ids, labels=labels, attention_mask=None if mask.all() else mask)


batches = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(2, 13), min_size=1, max_size=6),
        "trained": st.sampled_from([0.0, 0.5, 1.0]),  # at 0 the last token alone carries loss
        "seed": st.integers(0, 5),
        "side": st.sampled_from(["right", "left"]),
        "extra": st.integers(0, 2),
        "formed": st.sampled_from([1, 500, 1 << 24]),
        "logits": st.sampled_from([1, 1 << 24]),
        "packing": st.booleans(),
    }
)


def assert_close(actual, expected, where):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * scale, msg=lambda text: f"{where}: {text}")


@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=batches)
def test_rows_equal_the_reference_in_every_batch(option, monkeypatch, drawn):
    monkeypatch.setattr("spicerack.gradients.capture.WHOLE_ELEMENTS", drawn["formed"])
    monkeypatch.setattr("spicerack.gradients.head.LOGITS_AT_ONCE", drawn["logits"])
    run = made(option)
    samples = random_samples(drawn["lengths"], trained=drawn["trained"], seed=drawn["seed"])
    side = drawn["side"] if run.left else "right"
    result = run.fast(padded(samples, side, drawn["extra"]), packing=drawn["packing"])
    for name, expected in _stacked([run.slow(sample) for sample in samples]).items():
        assert_close(getattr(result, name), expected, name)


def _stacked(values):
    return {name: torch.stack([value[name] for value in values]) for name in values[0]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=10, deadline=None)
@given(drawn=batches)
def test_half_precision_rows_are_near_those_of_the_same_weights_in_float32(dtype, drawn):
    half, full = _pair(dtype)
    samples = random_samples(drawn["lengths"], trained=1.0, seed=drawn["seed"])
    result = half.fast(padded(samples, drawn["side"], drawn["extra"]), packing=drawn["packing"])
    truth = _stacked([full.slow(sample) for sample in samples])
    for name in ("rows", "directions"):
        assert torch.nn.functional.cosine_similarity(getattr(result, name), truth[name]).min() > 0.97
    torch.testing.assert_close(result.gradient_norm, truth["gradient_norm"], rtol=0.15, atol=0.0)


def test_an_adapter_in_another_type_than_its_model_has_rows():
    """As peft leaves it: float32 adapters on a model in bfloat16."""
    half, full = (Pass(adapted=True, which="lora", moments=adam) for _ in range(2))
    for parameter in half.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    half.projection = Projection(half.parameters, dimension=40, sketch=5, dtype=torch.bfloat16)
    full.model.load_state_dict({name: tensor.float() for name, tensor in half.model.state_dict().items()})
    samples = random_samples([5, 9, 7], trained=1.0)
    result, truth = half.fast(padded(samples, "right", 0)), _stacked([full.slow(sample) for sample in samples])
    for name in ("rows", "directions"):
        assert torch.nn.functional.cosine_similarity(getattr(result, name), truth[name]).min() > 0.97


@functools.cache
def _pair(dtype):
    half = Pass(moments=adam, exact_norms=True, dtype=dtype)
    full = Pass(moments=adam, exact_norms=True)
    full.model.load_state_dict({name: tensor.float() for name, tensor in half.model.state_dict().items()})
    return half, full


@settings(max_examples=25, deadline=None)
@given(drawn=batches, data=st.data())
def test_order_and_company_do_not_matter(drawn, data):
    """The same samples in another order, in two batches: the same rows, far within float32's rounding."""
    run = made("plain")
    samples = random_samples(drawn["lengths"], trained=drawn["trained"], seed=drawn["seed"])
    together = run.fast(padded(samples, drawn["side"], drawn["extra"]), packing=drawn["packing"]).rows
    order = data.draw(st.permutations(range(len(samples))))
    cut = data.draw(st.integers(1, len(samples)))
    for members in filter(None, (order[:cut], order[cut:])):
        apart = run.fast(padded([samples[i] for i in members], "right", 0)).rows
        expected = together[list(members)]
        error = (apart - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() < 1e-5
