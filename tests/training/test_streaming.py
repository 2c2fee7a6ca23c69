"""The online schedule as a data set inside TRL's own training."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from spicerack.errors import ConfigurationError, DataError, UnknownNameError
from spicerack.information import Room
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer
from spicerack.training.online import candidate_pools, pick_from
from spicerack.training.proxy import GradientReader
from spicerack.training.streaming import OnlinePicks
from spicerack.training.trainer import quiet_libraries

OPTIONS = {"pool_size": 8, "pool_picks": 2, "seed": 1, "dimension": 64, "penalty": 0.1}


@pytest.fixture(scope="module")
def rows():
    samples = random_samples(np.random.default_rng(1).integers(4, 14, 48).tolist(), vocab_size=300)
    return [{"input_ids": sample.input_ids.tolist(), "labels": sample.labels.tolist()} for sample in samples]


def picks_under(model, picks, members):
    samples = [picks.samples[i] for i in members]
    room = Room(np.ones(len(members), dtype=bool), count=2)
    return members[pick_from(GradientReader(model, picks.gradients).measure(samples).rows, picks.options, room).places]


class Remember(TrainerCallback):
    """Copies of the weights at the beginning of every step."""

    def __init__(self):
        self.weights = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})


def test_trl_trains_on_what_its_model_picks(rows, tmp_path):
    """A candidate pool is picked under the weights of the step before it is trained on, or of the step itself."""
    picks, seen, model = OnlinePicks(rows, **OPTIONS), Remember(), tiny_model(vocab_size=300)
    with quiet_libraries():
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                output_dir=str(tmp_path),
                max_steps=5,
                per_device_train_batch_size=2,
                learning_rate=0.05,
                warmup_steps=0,
                lr_scheduler_type="constant",
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
            ),
            train_dataset=picks.dataset(),
            data_collator=picks.collate,
            processing_class=tiny_tokenizer(),
            callbacks=[picks.callback, seen],
        )
        trainer.train()
    assert len(seen.weights) == 5
    pools = candidate_pools(np.ones(len(rows), dtype=bool), picks.options)
    changed = 0
    for step in range(5):
        got = picks.picked[2 * step : 2 * step + 2]
        expected = []
        for weights in seen.weights[max(0, step - 1) : step + 1]:
            other = tiny_model(vocab_size=300)
            other.load_state_dict(weights)
            expected.append(picks_under(other, picks, pools[step]).tolist())
        assert got in expected
        changed += got != picks_under(tiny_model(vocab_size=300), picks, pools[step]).tolist()
    assert changed > 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_second_walk_is_shuffled_anew(rows):
    picks = OnlinePicks(rows, **OPTIONS, rows="unit")
    picks.meet(tiny_model(vocab_size=300))
    first, second = list(picks), list(picks)
    assert len(first) == len(second) == 12
    assert first != second
    assert len(picks.picked) == 24


def test_what_is_wrong_is_said(rows):
    with pytest.raises(ConfigurationError, match=r"callbacks=\[picks\.callback\]"):
        list(OnlinePicks(rows, **OPTIONS))
    with pytest.raises(UnknownNameError, match="did you mean 'pool_picks'"):
        OnlinePicks(rows, pool_pick=3)
    with pytest.raises(DataError, match="row 0 has the columns text; expected input_ids and labels"):
        OnlinePicks([{"text": "a"}])
    with pytest.raises(DataError, match="3 tokens and 3 labels, 0 trained"):
        OnlinePicks([{"input_ids": [1, 2, 3], "labels": [-100] * 3}])
    picks = OnlinePicks(rows, **OPTIONS)
    picks.meet(tiny_model(vocab_size=300))
    loader = torch.utils.data.DataLoader(picks, num_workers=1, collate_fn=picks.collate)
    with pytest.raises(ConfigurationError, match="dataloader_num_workers=0"):
        next(iter(loader))
