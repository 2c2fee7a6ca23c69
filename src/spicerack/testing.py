"""Tiny models, tokenizers and pools built in code, for tests of spicerack and of what is built on it.

Nothing is downloaded: the models are random, of a few thousand parameters, one for each supported family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.errors import UnknownNameError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from spicerack.data.labels import Encoded

_SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_MULTI_HEAD = {key: value for key, value in _SHAPE.items() if key != "num_key_value_heads"}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128}
_OPT = {
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 16,
}
_GEMMA2 = {
    "final_logit_softcapping": 5.0,
    "attn_logit_softcapping": 10.0,
    "query_pre_attn_scalar": 4,
    "sliding_window": 8,
}

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 4}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**_SHAPE, "tie_word_embeddings": False}),
    "llama-tied": ("Llama", {**_SHAPE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", _SHAPE),
    "qwen3": ("Qwen3", {**_SHAPE, "head_dim": 4}),
    "gemma": ("Gemma", {**_SHAPE, "head_dim": 4}),
    "gemma2": ("Gemma2", {**_SHAPE, **_GEMMA2, "head_dim": 4}),
    "mistral": ("Mistral", {**_SHAPE, "sliding_window": 8}),
    "gpt2": ("GPT2", _GPT2),
    "gpt-neox": ("GPTNeoX", _MULTI_HEAD),
    "opt": ("OPT", _OPT),
    "phi": ("Phi", _SHAPE),
    "phi3": ("Phi3", {**_SHAPE, "pad_token_id": 0}),
    "qwen3-moe": ("Qwen3Moe", {**_SHAPE, **_EXPERTS}),
    "mixtral": ("Mixtral", {**_SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss": ("GptOss", {**_SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 4}),
}


def tiny_model(architecture: str = "llama", *, vocab_size: int = 64, seed: int = 0) -> PreTrainedModel:
    """A random model of a few thousand parameters, float32, in evaluation mode.

    Args:
        architecture: a key of `ARCHITECTURES`.
        vocab_size: rows of the embedding.
        seed: of the weights; torch's global generator is left as it was.

    Raises:
        UnknownNameError: no such architecture.
    """
    import torch
    import transformers

    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, ARCHITECTURES)
    name, options = ARCHITECTURES[architecture]
    config = getattr(transformers, f"{name}Config")(vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # the default 0.02 makes gradients too small to compare
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.float().eval()


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(*, chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes (256 tokens and four special ones), with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|bos|>", "<|im_end|>", "<|im_start|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = chat_template
    return fast


def random_samples(
    lengths: Sequence[int], *, vocab_size: int = 64, trained: float = 0.6, seed: int = 0
) -> list[Encoded]:
    """Tokenized samples of the given lengths; each token carries loss with probability `trained`, the last always."""
    from spicerack.data.labels import Encoded

    rng = np.random.default_rng(seed)
    samples = []
    for length in lengths:
        ids = rng.integers(3, vocab_size, length).astype(np.int32)
        labels = np.where(rng.random(length) < trained, ids, -100).astype(np.int32)
        labels[-1] = ids[-1]
        samples.append(Encoded(input_ids=ids, labels=labels, cut_tokens=0, missing_end_of_turn=False))
    return samples


def check_selector(
    method: str,
    *,
    target: np.ndarray | None = None,
    columns: Sequence[str] = (),
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Check what every selector owes its callers: the conformance suite, for ours and for yours.

    The budget is met in samples and in tokens; picks are distinct, in range and never an excluded row; the same call
    gives the same picks; scores have a value for every pick; a pool of one sample and a pool of equal samples work; and
    permuting the rows permutes the picks, for methods that read rows or columns (no two of the rows tie).

    Args:
        method: a name of `spicerack.methods()`.
        target: target rows (m, 12) for methods that need them.
        columns: names of columns that the method reads; each is filled with numbers in (0, 1).
        options: of the method.
        seed: of the random pool.

    Raises:
        AssertionError: the first promise that does not hold.
    """
    from spicerack.selectors import TokenBudget, get_selector, select

    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, 12)) * rng.lognormal(0.0, 0.5, (40, 1))
    tokens = rng.integers(3, 30, 40)
    arguments = {"target": target, **(options or {})}
    held = {name: rng.uniform(0.05, 0.95, 40) for name in columns}

    def part(places: np.ndarray) -> dict[str, Any]:
        return {**arguments, "columns": {name: values[places] for name, values in held.items()}}

    everything = {**arguments, "columns": held}
    chosen = select(rows, method, 10, **everything)
    assert chosen.indices.shape == (10,), "the budget in samples is not met"
    assert chosen.indices.dtype == np.int64, "indices are not int64"
    assert len(set(chosen.indices.tolist())) == 10, "a row was picked twice"
    assert ((chosen.indices >= 0) & (chosen.indices < 40)).all(), "a pick is out of range"
    assert chosen.scores.shape == (40,), "scores do not have a value per row"
    assert chosen.scores.dtype == np.float64, "scores are not float64"
    assert np.isfinite(chosen.scores[chosen.indices]).all(), "a pick has no score"
    assert len(chosen.trace) == 10, "the trace does not have a row per pick"

    again = select(rows, method, 10, **everything)
    assert np.array_equal(again.indices, chosen.indices), "the same call gives other picks"

    capacity = int(tokens.sum() // 3)
    counted = select(rows, method, TokenBudget(capacity), tokens=tokens, **everything)
    spent = int(tokens[counted.indices].sum())
    left = np.delete(tokens, counted.indices)
    assert 0 < spent <= capacity, "the budget in tokens is not kept"
    assert capacity - spent < left.min(), "a row that fits the token budget was left"

    broken = rows.copy()
    broken[[3, 7]] = np.nan
    whole = select(broken, method, 1.0, **everything)
    assert sorted(whole.indices.tolist()) == [i for i in range(40) if i not in (3, 7)], "an excluded row was picked"
    assert np.isnan(whole.scores[[3, 7]]).all(), "an excluded row has a score"
    assert whole.excluded["index"].tolist() == [3, 7], "the excluded rows are not named"

    one, alike = part(np.zeros(1, dtype=np.int64)), part(np.zeros(6, dtype=np.int64))
    assert select(rows[:1], method, 1, **one).indices.tolist() == [0], "a pool of one sample does not work"
    equal = select(np.ones((6, 12)), method, 3, **alike).indices
    assert len(set(equal.tolist())) == 3, "a pool of equal samples does not work"

    needs = get_selector(method).needs
    if needs.gradients or needs.columns:
        order = rng.permutation(40)
        permuted = select(rows[order], method, 10, **part(order))
        assert np.array_equal(order[permuted.indices], chosen.indices), "permuting the rows does not permute the picks"
        assert equal.tolist() == [0, 1, 2], "ties: smallest row first"
