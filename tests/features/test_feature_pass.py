"""The feature pass as a pass: any batches, any interruption, and one clear line for what cannot be."""

import numpy as np
import pytest
import torch

import spicerack
from spicerack.errors import ConfigurationError, DataError, ModelError, StoreMismatchError
from spicerack.features.collect import FeaturePass, collect_features
from spicerack.features.options import make_feature_config
from spicerack.features.ratings import PROMPTS, RatingTexts, sentence_level, token_level
from spicerack.store.reader import GradientStore
from spicerack.store.writer import StoreWriter
from spicerack.testing import random_samples, tiny_model, tiny_tokenizer

EVERYTHING = "loss,ifd,mismatch,selectit,embedding,embedding_weighted,states"
ARRAYS = ("embedding", "embedding_weighted", "states")
COLUMNS = ("loss_mean", "loss_sum", "loss_alone", "ifd", "loss_mismatched", "mismatch", "selectit", "states_energy")


@pytest.fixture(scope="module")
def collect(model, tokenizer, chats, prompts):
    def run(folder, pool=None, **options):
        fixed = {"max_length": 128, "storage_dtype": "float32", "shard_rows": 3, "state_rank": 2}
        if "selectit" in options.setdefault("compute", EVERYTHING):
            fixed["rating_prompts"] = str(prompts)
        return collect_features(
            chats if pool is None else pool, model=model, tokenizer=tokenizer, output_dir=folder, **fixed | options
        )

    return run


@pytest.fixture(scope="module")
def whole(collect, tmp_path_factory):
    return collect(tmp_path_factory.mktemp("whole") / "s")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """A third of a second a pass, for a number that one test looks at."""
    monkeypatch.setattr("spicerack.features.collect.measure_peak", lambda *_: 1e12)


def test_batches_and_pads_do_not_matter(collect, tmp_path):
    alone = collect(tmp_path / "alone", tokens_per_batch=1)
    together = collect(tmp_path / "together", tokens_per_batch=10_000, shard_rows=100)
    for name in ARRAYS:
        truth = alone.matrix(array=name)
        np.testing.assert_allclose(together.matrix(array=name), truth, rtol=1e-3, atol=1e-4)
    for name in COLUMNS:
        np.testing.assert_allclose(together.column(name), alone.column(name), rtol=1e-4)


def test_a_pass_killed_between_shards_goes_on_to_the_same_bytes(collect, whole, tmp_path, monkeypatch):
    write, written = StoreWriter.write, []

    def dies(self, shard, arrays, table):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(shard.index)
        write(self, shard, arrays, table)

    monkeypatch.setattr(StoreWriter, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "cut")
    monkeypatch.setattr(StoreWriter, "write", lambda *args: written.append(args[1].index) or write(*args))
    collect(tmp_path / "cut")
    assert written == [0, 1, 2]
    assert contents(tmp_path / "cut") == contents(whole.path)


def test_a_finished_store_is_not_run_again(collect, tmp_path, monkeypatch):
    collect(tmp_path / "s", compute="loss")
    monkeypatch.setattr("spicerack.features.collect.Runner.run", None)
    collect(tmp_path / "s", compute="loss")
    with pytest.raises(StoreMismatchError, match="compute was"):
        collect(tmp_path / "s", compute="ifd")


def test_a_store_begun_by_a_version_that_cut_other_batches_is_not_gone_on_with(collect, tmp_path, monkeypatch):
    monkeypatch.setattr("spicerack.features.collect.FEATURE_VERSION", 1)
    collect(tmp_path / "s", compute="loss")
    monkeypatch.undo()
    with pytest.raises(StoreMismatchError, match="feature_version was 1"):
        collect(tmp_path / "s", compute="loss")


@pytest.mark.parametrize("feature", EVERYTHING.split(","))
def test_a_feature_alone_is_the_feature_among_all(collect, whole, tmp_path, feature):
    store = collect(tmp_path / "s", compute=feature)
    assert set(store.arrays) == {feature} & set(ARRAYS)
    for name in store.arrays:
        np.testing.assert_array_equal(store.matrix(array=name), whole.matrix(array=name))
    for name in {*COLUMNS} & set(store.rows_table().column_names):
        np.testing.assert_array_equal(store.column(name), whole.column(name))


def test_half_precision_keeps_the_norm_apart(collect, whole, tmp_path):
    narrow = collect(tmp_path / "s", compute="embedding", storage_dtype="float16")
    np.testing.assert_array_equal(narrow.column("embedding_norm"), whole.column("embedding_norm"))
    assert np.abs(narrow.matrix("unit", array="embedding") - whole.matrix("unit", array="embedding")).max() < 1e-3


def test_a_row_that_is_not_finite_has_no_norm_and_is_left_out(tmp_path):
    model = tiny_model("llama")
    model.model.embed_tokens.weight.data[9] = float("nan")
    pool = [{"input_ids": [3, 4, 5 + i], "labels": [3, 4, 5 + i]} for i in range(5)]  # the last one holds token 9
    store = collect_features(pool, model=model, output_dir=tmp_path / "s", compute="embedding,loss")
    assert np.isnan(store.column("embedding_norm")).tolist() == [False] * 4 + [True]
    assert store.excluded() == [(4, "non-finite features")]
    chosen = spicerack.select(store, "k_center", budget=1.0, rows_from="embeddings")
    assert sorted(chosen.indices.tolist()) == [0, 1, 2, 3]


def test_features_stand_beside_the_gradients(collect, chats, model, tokenizer, tmp_path):
    options = {"dimension": 32, "max_length": 128}
    spicerack.collect_gradients(chats, model=model, tokenizer=tokenizer, output_dir=tmp_path / "g", **options)
    collect(tmp_path / "g" / "features", compute="embedding,ifd")
    store = GradientStore.open(tmp_path / "g")
    assert set(store.arrays) == {"gradient", "embedding"}
    assert np.isfinite(store.column("ifd")[:6]).all()
    np.testing.assert_allclose(store.column("loss_mean"), store.features.column("loss_mean"), rtol=1e-3)


def test_what_memory_has_no_room_for_is_run_in_halves(collect, tmp_path, monkeypatch):
    from spicerack.features import runner

    whole = collect(tmp_path / "whole", compute="loss", tokens_per_batch=10_000)
    read = runner.read_batch

    def narrow(head, batch, wanted):
        if len(batch.labels) > 1:
            raise MemoryError
        return read(head, batch, wanted)

    monkeypatch.setattr(runner, "read_batch", narrow)
    halved = collect(tmp_path / "halved", compute="loss", tokens_per_batch=10_000)
    np.testing.assert_allclose(halved.column("loss_mean"), whole.column("loss_mean"), rtol=1e-5)
    monkeypatch.setattr(runner, "read_batch", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ConfigurationError, match=r"out of memory at one text of .* lower max_length"):
        collect(tmp_path / "none", compute="loss")


def test_the_pass_says_what_it_chose_and_cost(model, tokenizer, chats, tmp_path):
    from spicerack.config import DataConfig, LabelConfig
    from spicerack.data.labels import Labeler
    from spicerack.data.records import load_pool
    from spicerack.models.loading import LoadedModel

    loaded = LoadedModel(model, tokenizer, "tiny", model.device)
    seen = []
    work = FeaturePass(
        load_pool(chats, DataConfig()),
        Labeler(tokenizer, LabelConfig()),
        loaded,
        make_feature_config({"compute": ["ifd"]}),
        progress=lambda *what: seen.append(what),
    )
    work.run(tmp_path / "s")
    assert {"format", "alone_start", "tokens_per_batch"} <= {choice.name for choice in work.choices}
    assert work.cost.flops > 0
    assert work.cost.tokens > work.survey.tokens.sum()  # the responses alone are run as well
    stage, rows, tokens, total = seen[-1]
    assert (stage, rows) == ("features", len(chats))
    assert tokens == total == work.survey.tokens.sum()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compute": "embeding"}, ConfigurationError, "did you mean 'embedding'"),
        ({"compute": " , "}, ConfigurationError, "names no feature"),
        ({"state_rank": 0}, ConfigurationError, "state_rank"),
        ({"storage_dtype": "int8"}, ConfigurationError, "storage_dtype"),
        ({"comput": "loss"}, ConfigurationError, "unknown option 'comput'"),
        ({"compute": "selectit", "rating_prompts": "/no/such/file"}, ConfigurationError, "cannot read the rating"),
        ({"compute": "selectit", "max_length": 20}, ConfigurationError, "leaves no room for a sample"),
        ({"compute": "selectit", "pool": [{"text": "words"}]}, DataError, "rates a response"),
    ],
)
def test_what_cannot_be_is_one_line(collect, tmp_path, options, error, message):
    with pytest.raises(error, match=message) as caught:
        collect(tmp_path / "s", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_ratings_need_a_tokenizer_with_digits(tmp_path):
    samples = random_samples([5, 6])
    pool = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(ConfigurationError, match="selectit needs a tokenizer"):
        collect_features(pool, model=tiny_model("llama"), output_dir=tmp_path / "s", compute="selectit")
    tokenized = [{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in samples]
    with pytest.raises(DataError, match="tokenized have none"):
        collect_features(tokenized, model=tiny_model("llama"), output_dir=tmp_path / "t", compute="selectit")


def test_a_tokenizer_that_joins_digits_is_refused():
    class Joined:
        eos_token_id = -1

        def __call__(self, text, **_):
            return {"input_ids": [len(text)]}

    with pytest.raises(ModelError, match="one token each"):
        RatingTexts(Joined(), PROMPTS, max_length=512)


def test_a_long_response_loses_its_end_and_keeps_the_answer_line():
    from spicerack.data.formats import Completion

    tokenizer = tiny_tokenizer()
    texts = RatingTexts(tokenizer, ["Rate."], max_length=80)
    (encoded,) = texts.encode(Completion("q", "a" * 200))
    assert len(encoded.input_ids) == 80
    assert encoded.cut_tokens > 0
    assert tokenizer.decode(encoded.input_ids).endswith("aa\nThe rating from 1 to 5 is:\n1")


def test_the_rating_scores_by_hand():
    p = np.array([0.1, 0.1, 0.2, 0.2, 0.4])
    assert token_level(p) == pytest.approx(5 * (0.3 + 0.3 + 0.2 + 0.2) / 4)
    assert token_level(np.full(5, 0.2)) == 0.0
    assert sentence_level(np.array([1.0, 3.0])) == pytest.approx(2.0 / 1.2)


def test_dropout_of_a_model_that_trains_takes_no_part(chats, tokenizer, tmp_path):
    model = tiny_model("gpt2", vocab_size=300)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    options = {"tokenizer": tokenizer, "compute": "ifd,embedding", "max_length": 64}
    still = collect_features(chats, model=model.eval(), output_dir=tmp_path / "still", **options)
    training = collect_features(chats, model=model.train(), output_dir=tmp_path / "training", **options)
    assert all(module.training for module in model.modules())
    for name in ("loss_mean", "ifd"):
        np.testing.assert_array_equal(training.column(name), still.column(name))
    np.testing.assert_array_equal(training.matrix(array="embedding"), still.matrix(array="embedding"))
