"""A pool with groups and a flag, its held-out rows and target, for whole comparisons on a tiny model."""

import json

import pytest

from spicerack.compare.bench import Spec
from spicerack.config import RunConfig, make_config
from spicerack.training.options import EvaluateConfig, TrainConfig

RECIPE = TrainConfig(
    lora_r=2, lora_alpha=4, learning_rate=1e-2, num_train_epochs=2, warmup_ratio=0.0, save_strategy="no"
)


def row(name, i):
    return {
        "id": f"{name}{i}",
        "source": "<b>math</b>" if i % 3 else "shell",
        "noise": int(i % 5 == 0),
        "instruction": f"add {i}",
        "response": f"{i * 31 % 17} and {i}",
    }


@pytest.fixture(scope="session")
def compare_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare-data")
    for name, count in (("pool", 24), ("test", 12), ("target", 6)):
        rows = [row(name, i) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture(scope="session")
def make_spec(compare_data, tiny_folder):
    def make(output, **changes) -> Spec:
        config: RunConfig = make_config(
            {
                "data": {"pool": str(compare_data / "pool.jsonl")},
                "model": {"model_name_or_path": str(tiny_folder), "dtype": "float32", "device": "cpu"},
                "labels": {"max_length": 64},
                "gradients": {"dimension": 32},
                "output_dir": str(output),
            }
        )
        measures = EvaluateConfig(by="source", resamples=200)
        values = {"test": str(compare_data / "test.jsonl"), "config": config, "recipe": RECIPE, "measures": measures}
        return Spec(**{**values, **changes})

    return make
