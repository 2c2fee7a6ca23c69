"""Threads are tamed before torch is imported: spinning ones cost a factor of ten on a busy machine."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # on two busy cores, two threads made small ones 40 times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny random Llama with a byte tokenizer, saved as a user's model folder."""
    from spicerack.testing import tiny_model, tiny_tokenizer

    path = tmp_path_factory.mktemp("tiny-llama")
    tiny_model("llama", vocab_size=300).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory):
    """Forty alpaca rows of four sources, one of them without an answer."""
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    rows = [
        {
            "id": f"t{i}",
            "source": f"s{i % 4}",
            "instruction": f"say {i}",
            "output": f"{i * 7919 % 1000} is {i}",
            "keep": i,
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def planted():
    """Makes rows (n, k) of unit length around orthogonal centers, and the center of each."""

    def make(n=300, k=16, count=4, noise=0.15, seed=0):
        rng = np.random.default_rng(seed)
        centers = np.linalg.qr(rng.standard_normal((k, count)))[0].T
        truth = rng.integers(0, count, n)
        X = centers[truth] + noise * rng.standard_normal((n, k)) / np.sqrt(k)
        return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), truth

    return make
