"""A run computes what its method reads: gradients, features beside them, or features alone, of pool and target."""

import json

import numpy as np
import pytest

import spicerack
from spicerack.errors import ConfigurationError
from spicerack.features.needed import features_alone
from spicerack.pipeline import select_from_store
from spicerack.selectors import Needs

pytestmark = pytest.mark.usefixtures("no_measuring")


@pytest.fixture
def target(tiny_pool, tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(tiny_pool.read_text().splitlines(keepends=True)[i] for i in (13, 29)))
    return path


def chosen(run):
    return {choice["name"]: choice["value"] for choice in run.selection.manifest["choices"]}


@pytest.mark.parametrize(
    ("method", "compute"), [("ifd", "ifd"), ("loss", "loss"), ("length", "counts"), ("random", "counts")]
)
def test_a_method_that_reads_no_gradients_gets_the_forward_pass_alone(sections, method, compute):
    run = spicerack.run(sections(method))
    assert run.selection.indices.size == 6
    assert not (run.output_dir / "gradients").exists()
    assert run.store.settings["compute"] == [compute]
    assert chosen(run)["pass"] == f"features alone: {compute}"
    assert len((run.output_dir / "selected.jsonl").read_text().splitlines()) == 6
    repeated = spicerack.run(run.files["config.yaml"])
    np.testing.assert_array_equal(repeated.selection.indices, run.selection.indices)


@pytest.mark.parametrize("method", ["rds", "tsds"])
def test_a_target_given_as_a_file_gets_the_pools_features(sections, target, method):
    run = spicerack.run(sections(method, target=str(target)))
    taken = spicerack.GradientStore.open(run.output_dir / "targets" / "target")
    (name,) = taken.arrays
    np.testing.assert_array_equal(taken.matrix("unit", array=name), run.store.matrix("unit", array=name)[[13, 29]])
    if method == "rds":
        assert set(run.selection.indices[:2].tolist()) == {13, 29}
    alone = spicerack.select(run.store, method, 6, taken)
    np.testing.assert_array_equal(alone.indices, run.selection.indices)


def test_an_interrupted_pass_beside_the_gradients_is_gone_on_with(sections):
    """Until it is finished there are no features, and what reads none is not kept from the gradients."""

    def interrupt(stage, rows, tokens, total):
        if stage == "features":
            raise KeyboardInterrupt

    config = sections("dpp", quality="ifd")
    with pytest.raises(KeyboardInterrupt):
        spicerack.run(config, progress=interrupt)
    gradients = f"{config['output_dir']}/gradients"
    assert spicerack.GradientStore.open(gradients).features is None
    assert spicerack.select(gradients, "random", 3).indices.size == 3
    done = spicerack.run(config)
    assert chosen(done)["features"] == "ifd"
    assert done.store.features.complete


def test_features_are_added_beside_the_gradients_where_a_method_reads_both(sections):
    run = spicerack.run(sections("dpp", quality="ifd"))
    assert chosen(run)["features"] == "ifd"
    assert (run.output_dir / "gradients" / "features" / "manifest.json").is_file()
    again = spicerack.run(run.files["config.yaml"])
    np.testing.assert_array_equal(again.selection.indices, run.selection.indices)
    assert "features" not in chosen(again)  # they are there
    more = spicerack.run(sections("dpp", quality="mismatch"))
    assert chosen(more)["features"] == "mismatch"  # beside those that are there, which stay
    assert np.isfinite(more.store.column("mismatch")).any()
    np.testing.assert_array_equal(more.store.column("ifd"), run.store.column("ifd"))
    assert more.store.features.features is not None
    assert "features" not in chosen(spicerack.run(sections("dpp", quality="ifd")))


def test_a_method_on_gradients_alone_is_as_before(sections):
    run = spicerack.run(sections("k_center"))
    assert set(run.store.arrays) == {"gradient"}
    assert "features" not in chosen(run)


def test_what_has_no_use_or_no_source_is_one_line(sections, target, tmp_path):
    with pytest.raises(ConfigurationError, match="'ifd' reads no gradients, so checkpoints have no use"):
        spicerack.run(sections("ifd", gradients={"checkpoints": str(tmp_path)}))
    with pytest.raises(ConfigurationError, match="the column 'nowhere', which no pass"):
        spicerack.run(sections("dpp", quality="nowhere"))
    with pytest.raises(ConfigurationError, match="needs a target"):
        spicerack.run(sections("rds"))


def test_selecting_from_a_store_says_how_to_make_a_targets_features(sections, target, tmp_path):
    run = spicerack.run(sections("rds", target=str(target)))
    config = spicerack.RunConfig.model_validate(sections("rds", target=str(target)))
    with pytest.raises(ConfigurationError, match=r"spicerack features .*--compute embedding_weighted"):
        select_from_store(run.output_dir / "features", config, output_dir=tmp_path / "s")


def test_which_needs_come_down_to_features():
    assert features_alone(Needs()) is None
    assert features_alone(Needs(gradients=False)) == ["counts"]
    assert features_alone(Needs(arrays=("embedding",), columns=("loss_mean",))) == ["loss", "embedding"]
    assert features_alone(Needs(arrays=("embedding", "adam"))) is None
    assert features_alone(Needs(gradients=False, columns=("gradient_norm",))) is None


def test_the_command_finds_the_features_beside_a_store(tiny_pool, tiny_folder, tmp_path):
    from typer.testing import CliRunner

    from spicerack.cli.app import app, register_commands

    register_commands()
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--max-length", "64"]
    runner = CliRunner()

    def call(*words):
        done = runner.invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    call("gradients", tiny_pool, *model, "--dimension", 64, "--output", tmp_path / "g")
    said = call("features", tiny_pool, *model, "--compute", "ifd,embedding", "--output", tmp_path / "g/features")
    assert "40 rows of embedding (16), loss_mean, loss_sum, loss_alone, ifd" in said
    said = call("select", tmp_path / "g", "--method", "ifd", "--budget", 5, "--output", tmp_path / "s", "--ceiling", 9)
    assert "selected 5 of 40 samples by ifd" in said
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["method"] == "ifd"
