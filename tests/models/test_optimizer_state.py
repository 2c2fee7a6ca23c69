"""Moments by parameter name, from whatever file a trainer left them in; what does not fit is refused."""

import re

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from spicerack.errors import ModelError
from spicerack.models.optimizer_state import find_optimizer_state, read_optimizer_state
from spicerack.models.parameters import tracked_parameters
from spicerack.testing import random_samples, tiny_model


def adapted(architecture="llama", rank=3, **options):
    lora = {"r": rank, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **options}
    return peft.get_peft_model(tiny_model(architecture), peft.LoraConfig(**lora, init_lora_weights=False))


def trained(model, *, steps=3, make=torch.optim.AdamW, **options):
    """Groups as the transformers Trainer forms them, and a few steps."""
    wanted = set(transformers.Trainer.get_decay_parameter_names(None, model))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in named if n in wanted]
    others = [p for n, p in named if n not in wanted]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = make(groups, lr=1e-3, **options)
    for sample in random_samples([6, 9, 4][:steps]):
        ids = torch.from_numpy(sample.input_ids).long()[None]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def by_name(model, optimizer):
    return {n: optimizer.state[p] for n, p in model.named_parameters() if optimizer.state.get(p)}


def names_of(model, which="lora"):
    return [p.name for p in tracked_parameters(model, which)]


def check(state, model, optimizer, names, step=3):
    truth = by_name(model, optimizer)
    assert list(state.tensors) == names
    for name in names:
        for word in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state.tensors[name][word], truth[name][word])
    assert state.step == step
    assert tuple(state.options["betas"]) == (0.9, 0.95)
    assert state.options["eps"] == 1e-7


ADAM = {"betas": (0.9, 0.95), "eps": 1e-7}


@pytest.mark.parametrize(
    ("make", "which"),
    [
        (adapted, "lora"),
        (lambda: adapted(modules_to_save=["lm_head"]), "lora"),
        (lambda: tiny_model("llama").train(), "blocks"),
        (lambda: tiny_model("gpt2").train(), "blocks"),  # biases and norms stand in the second group
        (lambda: tiny_model("llama-tied").train(), "embed_tokens|v_proj"),
    ],
    ids=["lora", "lora and a head", "llama", "gpt2", "tied"],
)
def test_integer_ids_are_those_of_the_trainers_groups(tmp_path, make, which):
    model = make()
    optimizer = trained(model, **ADAM)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    names = names_of(model, which)
    model.requires_grad_(False)  # as a model that was loaded again
    check(read_optimizer_state(tmp_path, model, names), model, optimizer, names)


def test_the_trainer_itself_writes_what_is_read(tmp_path):
    import datasets

    model = adapted()
    rows = [{"input_ids": s.input_ids.tolist(), "labels": s.input_ids.tolist()} for s in random_samples([6] * 8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=3,
        save_steps=3,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        adam_beta2=0.95,
        adam_epsilon=1e-7,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=datasets.Dataset.from_list(rows))
    trainer.train()
    again = peft.PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "checkpoint-3"))
    names = names_of(again)
    state = read_optimizer_state(tmp_path / "checkpoint-3", again, names)
    check(state, model, trainer.optimizer.optimizer, names)


def test_ids_with_names_beside_them_may_be_grouped_in_any_way(tmp_path):
    model = adapted()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": named[5:]}, {"params": named[2:5]}, {"params": named[:2]}], **ADAM)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    names = names_of(model)
    check(read_optimizer_state(tmp_path / "optimizer.pt", model, names), model, optimizer, names, step=1)


@pytest.mark.parametrize("wrapped", ["{}", "module.{}", "_orig_mod.{}", "{short}", "_fsdp_wrapped_module.{}"])
def test_names_are_those_of_the_weights_whatever_wrapped_the_model(tmp_path, wrapped):
    model = adapted()
    optimizer = trained(model, **ADAM)
    keys = {n: wrapped.format(n, short=n.replace(".default.", ".")) for n in by_name(model, optimizer)}
    content = {"state": {keys[n]: s for n, s in by_name(model, optimizer).items()}}
    content["param_groups"] = [{**ADAM, "params": list(keys.values())}]
    torch.save(content, tmp_path / "optimizer.bin")
    names = names_of(model)
    check(read_optimizer_state(tmp_path, model, names), model, optimizer, names)


def test_our_own_file_is_read(tmp_path):
    from spicerack.training.moments import MOMENTS_FILE, write_moments

    model = adapted()
    optimizer = trained(model, **ADAM)
    write_moments(tmp_path / MOMENTS_FILE, model, optimizer)
    names = names_of(model)
    assert find_optimizer_state(tmp_path) == tmp_path / MOMENTS_FILE
    check(read_optimizer_state(tmp_path, model, names), model, optimizer, names)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda groups, **_: transformers.Adafactor(groups, lr=1e-3, scale_parameter=False, relative_step=False),
            {"exp_avg_sq_row", "exp_avg_sq_col"},
        ),
        (lambda groups, **_: torch.optim.Adafactor(groups, lr=1e-3), {"row_var", "col_var"}),
    ],
    ids=["transformers", "torch"],
)
def test_adafactors_factors_are_read(tmp_path, make, words):
    model = adapted()
    optimizer = trained(model, make=make)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state = read_optimizer_state(tmp_path, model, names_of(model))
    assert (state.kind, state.step) == ("adafactor", 3)
    for name, tensors in state.tensors.items():
        assert set(tensors) == words
        for word, tensor in tensors.items():
            assert torch.equal(tensor, by_name(model, optimizer)[name][word])


def saved(tmp_path, model, change=lambda content: content, **options):
    torch.save(change(trained(model, **options).state_dict()), tmp_path / "optimizer.pt")


def test_moments_of_another_rank_name_both_shapes(tmp_path):
    saved(tmp_path, adapted(rank=3))
    model = adapted(rank=4)
    with pytest.raises(ModelError, match=re.escape("has shape (3, 16), the weight (4, 16)")):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_another_number_of_weights_cannot_be_told_apart(tmp_path):
    saved(tmp_path, adapted(target_modules=["q_proj"]))
    model = adapted()
    with pytest.raises(ModelError, match=r"of 4 and 0 weights under integer ids.* have 8 and 0"):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_weights_that_were_not_trained_have_no_state(tmp_path):
    model = adapted()
    saved(tmp_path, model)
    with pytest.raises(ModelError, match=r"no state of base_model.model.model.layers.0.*parameters=lora"):
        read_optimizer_state(tmp_path, model, names_of(model, "blocks"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {"model": 3}, "no `state`"),
        (lambda content: {**content, "state": {}}, "not taken a step"),
        (lambda content: {"state": content["state"]}, "no `param_groups`"),
        (lambda content: {**content, "param_groups": content["param_groups"] * 2}, "which weight is which"),
        (
            lambda content: {**content, "param_groups": [{"params": g["params"]} for g in content["param_groups"]]},
            "neither Adam",
        ),
    ],
)
def test_what_is_no_state_of_adam_is_refused(tmp_path, change, message):
    model = adapted()
    saved(tmp_path, model, change)
    with pytest.raises(ModelError, match=message):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_quantized_moments_are_refused(tmp_path):
    def quantized(content):
        for state in content["state"].values():
            state["state1"], state["state2"] = (state.pop(word).byte() for word in ("exp_avg", "exp_avg_sq"))
        return content

    model = adapted()
    saved(tmp_path, model, quantized)
    with pytest.raises(ModelError, match=r"no Adam moments of .*state1, state2; 8-bit"):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_folders_without_a_state_say_what_is_expected(tmp_path):
    model = adapted()
    with pytest.raises(ModelError, match=r"no optimizer state; expected adam.safetensors, optimizer.bin, optimizer.pt"):
        read_optimizer_state(tmp_path, model, names_of(model))
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / "optimizer_0" / "__0_0.distcp").touch()
    with pytest.raises(ModelError, match="sharded FSDP"):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path):
    model = adapted()
    (tmp_path / "optimizer.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="cannot read"):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    model = adapted()
    save_file({"first.a": torch.zeros(3)}, tmp_path / "adam.safetensors")
    with pytest.raises(ModelError, match="not a file of Adam's moments"):
        read_optimizer_state(tmp_path, model, names_of(model))


def test_the_fingerprint_tells_states_apart(tmp_path):
    model = adapted()
    prints = set()
    for steps in (1, 2, 2):
        torch.manual_seed(0)
        model = adapted()
        saved(tmp_path, model, steps=steps)
        prints.add(read_optimizer_state(tmp_path, model, names_of(model)).fingerprint())
    assert len(prints) == 2
