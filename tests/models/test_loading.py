"""Models load from folders and adapters, say what was chosen, and refuse what cannot work."""

import json
import re

import pytest
import torch
import transformers

from spicerack.config import ModelConfig
from spicerack.errors import ConfigurationError, ModelError
from spicerack.models.attention import SCORES_AT_ONCE, choose_attention
from spicerack.models.checkpoints import CheckpointModels, ModelCheckpoint
from spicerack.models.loading import choose_device, choose_dtype, load_model, load_tokenizer
from spicerack.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_model("llama", vocab_size=300).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_folder_loads_with_its_tokenizer(folder):
    loaded = load_model(folder, ModelConfig(dtype="float32", device="cpu"))
    assert loaded.dtype == "float32"
    assert loaded.tokenizer.decode(loaded.tokenizer("wörld")["input_ids"]) == "wörld"
    assert loaded.choices == ()
    assert not loaded.model.training


def test_automatic_choices_carry_reasons(folder):
    choices = {c.name: c for c in load_model(str(folder), ModelConfig()).choices}
    assert set(choices) == {"device", "dtype"}
    assert all(choice.reason for choice in choices.values())


def test_the_fingerprint_tells_trainings_apart(folder):
    model = load_model(folder, ModelConfig(dtype="float32")).model
    first = load_model(model, ModelConfig()).fingerprint()
    assert first == load_model(folder, ModelConfig(dtype="float32")).fingerprint()
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert load_model(model, ModelConfig()).fingerprint() != first


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(ModelError, match="a model of type object cannot be used; expected a hub id"):
        load_model(object(), ModelConfig())
    with pytest.raises(ModelError, match="there is no such folder or file, and as a hub id: "):
        load_model("runs/nosuch", ModelConfig())


def test_an_adapter_of_other_weights_is_told(folder, tmp_path):
    import peft

    base = load_model(folder, ModelConfig(dtype="float32"))
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapter = tmp_path / "training" / "checkpoint-3"
    record = {"model": {"name": "the-base", "fingerprint": base.fingerprint(), "dtype": "float32"}}
    peft.get_peft_model(base.model, lora).save_pretrained(adapter)
    (tmp_path / "training" / "settings.json").write_text(json.dumps(record))
    own = load_model(folder, ModelConfig(dtype="float32", adapter_name_or_path=str(adapter)))
    assert "adapter" not in {choice.name for choice in own.choices}
    record["model"]["fingerprint"] = "of others"
    (tmp_path / "training" / "settings.json").write_text(json.dumps(record))
    other = load_model(folder, ModelConfig(dtype="float32", adapter_name_or_path=str(adapter)))
    told = next(choice for choice in other.choices if choice.name == "adapter")
    assert "trained on the-base, whose weights are not those of this model" in told.reason
    checkpoint = ModelCheckpoint("epoch-1", adapter, 1.0)
    assert "adapter" in {choice.name for choice in CheckpointModels(folder, ModelConfig()).load(checkpoint).choices}


def test_an_adapter_is_loaded_on_top(folder, tmp_path):
    import peft

    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.5)
    peft.get_peft_model(tiny_model("llama", vocab_size=300), lora).save_pretrained(tmp_path)
    loaded = load_model(folder, ModelConfig(adapter_name_or_path=str(tmp_path), dtype="float32"))
    assert any("lora_A" in name for name, _ in loaded.model.named_parameters())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no config.json"),
        (["config.json"], "no weights"),
        (["config.json", "pytorch_model.bin"], "only pickled weights"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(folder, tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, ModelConfig())


def test_remote_code_is_off_unless_asked_for(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(tmp_path, ModelConfig())
    assert not (tmp_path / "ran").exists()


def test_a_missing_model_and_gguf_are_one_line(tmp_path):
    with pytest.raises(ModelError, match="no such GGUF file") as gguf:
        load_model(tmp_path / "none.gguf", ModelConfig())
    with pytest.raises(ModelError, match="cannot load the model") as hub:
        load_model("nobody/nothing-at-all", ModelConfig())
    assert not re.search(r"\n", str(gguf.value) + str(hub.value))


@pytest.mark.skipif(not hasattr(transformers, "GgufConfig"), reason="this version always unpacks")
def test_weights_of_a_gguf_file_are_unpacked(tmp_path, monkeypatch, folder):
    plain, asked = transformers.AutoModelForCausalLM.from_pretrained, {}

    def from_pretrained(**options):
        asked.update(options)
        return plain(folder)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    (tmp_path / "a.gguf").touch()
    load_model(tmp_path / "a.gguf", ModelConfig(device="cpu", tokenizer_name_or_path=str(folder)))
    assert asked["gguf_file"] == "a.gguf"
    assert asked["quantization_config"].dequantize
    load_model(folder, ModelConfig(device="cpu"))
    assert asked["use_safetensors"]


def test_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="tokenizer_name_or_path"):
        load_tokenizer(str(tmp_path), ModelConfig())


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigurationError, match="cuda:99"):
        choose_device("cuda:99")


def test_attention_is_chosen_only_where_nobody_named_one(folder):
    chosen = choose_attention(load_model(folder, ModelConfig(dtype="bfloat16", device="cpu")))
    assert chosen is not None
    assert chosen.choice.value == "eager up to 8388608 scores, else sdpa"
    for options in ({"dtype": "bfloat16", "attn_implementation": "sdpa"}, {"dtype": "float32"}):
        assert choose_attention(load_model(folder, ModelConfig(device="cpu", **options))) is None


def test_attention_is_plain_for_few_scores_and_the_models_own_for_many(folder):
    loaded = load_model(folder, ModelConfig(dtype="bfloat16", device="cpu"))
    chosen, config = choose_attention(loaded), loaded.model.config
    most = int((SCORES_AT_ONCE / (2 * chosen.heads)) ** 0.5)
    for width, expected in ((most, "eager"), (most + 1, "sdpa")):
        with chosen.of(2, width):
            assert config._attn_implementation == expected
        assert config._attn_implementation == "sdpa"


def test_a_stated_dtype_is_kept():
    assert choose_dtype("float16", torch.device("cpu")) == ("float16", None)
