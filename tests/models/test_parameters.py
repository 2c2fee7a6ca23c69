"""What is tracked: the blocks' linear weights, the last of them, the adapters', or a pattern."""

import peft
import pytest

from spicerack.errors import ModelError
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import ARCHITECTURES, tiny_model

PER_BLOCK = {"gpt2": 4, "gpt-neox": 4, "opt": 6, "phi": 6, "phi3": 4, "qwen3-moe": 6, "mixtral": 6, "gpt-oss": 6}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_every_linear_weight_of_the_blocks(architecture):
    model = tiny_model(architecture)
    tracked = tracked_parameters(model, "blocks")
    assert len(tracked) == 2 * PER_BLOCK.get(architecture, 7)
    for parameter in tracked:
        shape = tuple(model.get_parameter(parameter.name).shape)
        assert shape[-2:] == (parameter.out_features, parameter.in_features)[:: -1 if parameter.transposed else 1]
        assert shape[:-2] == ((parameter.experts,) if parameter.experts > 1 else ())
    assert not any("lm_head" in p.name or "embed" in p.name for p in tracked)


def test_last_blocks():
    model = tiny_model("llama")
    last = tracked_parameters(model, "last:1")
    assert [p.name for p in last] == [p.name for p in tracked_parameters(model, "blocks") if ".layers.1." in p.name]
    for bad in ("last:0", "last:3", "last:x"):
        with pytest.raises(ModelError, match="N from 1 to 2"):
            tracked_parameters(model, bad)


def test_lora_tracks_the_adapters_and_blocks_leaves_them_out():
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_model("llama"), lora)
    tracked = tracked_parameters(model, "lora")
    assert len(tracked) == 4
    assert {(p.out_features, p.in_features) for p in tracked} == {(2, 16), (16, 2)}
    assert not any("lora" in p.name for p in tracked_parameters(model, "blocks"))


def test_a_tied_weight_is_one_parameter_with_two_uses():
    (tied,) = tracked_parameters(tiny_model("llama-tied"), "embed_tokens|lm_head")
    assert {use.kind for use in tied.uses} == {"embedding", "linear"}
    assert len(tracked_parameters(tiny_model("llama"), "embed_tokens|lm_head")) == 2


@pytest.mark.parametrize(
    ("which", "message"), [("q_prj", "matches none"), ("q_proj(", "not a valid regular"), ("lora", "no LoRA matrices")]
)
def test_what_matches_nothing_is_an_error(which, message):
    with pytest.raises(ModelError, match=message):
        tracked_parameters(tiny_model("llama"), which)
