"""Training: what is looked at, what the change is made of, how a run survives, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from erfjax.errors import CheckpointError, SampleError, StackError
from erfjax.studies import datasets
from erfjax.studies._support import fitting, residual
from erfjax.studies._training import VARIANTS, TrainingResult, _changed, training

TINY = fitting.Setting(blocks=1, width=4, epochs=2, batch=16)


@pytest.fixture(scope="module")
def task():
    whole = datasets.task("digits")
    cut = datasets.Examples(whole.train.images[:64], whole.train.labels[:64])
    return dataclasses.replace(whole, train=cut)


@pytest.fixture(scope="module")
def result():
    return training(
        variants=["as it is", "silent branches"], seeds=2, examples=64, images=16, blocks=1, width=4, batch=16, epochs=2
    )


def test_looks_before_during_and_after(result):
    np.testing.assert_array_equal(result.epochs, [0, 0.25, 0.5, 1, 2])
    assert result.first == 3
    for looks in (*result.runs["as it is"], *result.runs["silent branches"]):
        assert np.isnan(looks[0].loss)
        assert all(0 <= look.accuracy <= 1 for look in looks)
    assert all(looks[-1].loss < looks[1].loss for looks in result.runs["as it is"])


def test_the_factors_of_the_variance(result):
    factors = result.factors("as it is")
    product = factors["on the path"] * factors["kernels"] * factors["coherence"] * factors["gates"]
    np.testing.assert_allclose(product, factors["σ²"], rtol=1e-12)


def test_before_training_the_closed_form_is_what_is_measured(result):
    for looks in result.runs["as it is"]:
        sigma, error = looks[0].fields[result.apart].sigma
        assert abs(sigma - looks[0].fields[result.given].sigma[0]) < 5 * error


def test_a_silent_branch_leaves_the_field_of_the_stem(result):
    """The branch is multiplied by zero: nothing beyond the 3 x 3 pixels of the first convolution is seen before training."""
    before, after = (result.runs["silent branches"][0][i].fields[result.main].map for i in (0, -1))
    assert before[7:10, 7:10].sum() == pytest.approx(1.0, abs=1e-12)
    assert after[7:10, 7:10].sum() < 1 - 1e-6


def test_tables_figure_and_files(result, tmp_path):
    assert [row[0] for row in result.table().rows] == ["as it is", "silent branches"]
    assert len(result.tables()[1].rows) == 4
    assert (result.save(tmp_path) / "training.png").stat().st_size > 20_000


class KilledError(Exception):
    pass


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(task, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "PROBES", {fitting.MAIN: fitting.PROBES[fitting.MAIN]})
    path = tmp_path / "runs" / "one.npz"
    setting = dataclasses.replace(TINY, augmented=True)
    count = iter(range(100))

    def advance(steps):
        if next(count) == 5:
            raise KilledError

    whole = fitting.fit(task, setting, seed=3, images=2)
    with pytest.raises(KilledError):
        fitting.fit(task, setting, seed=3, images=2, path=path, advance=advance)
    again = fitting.fit(task, setting, seed=3, images=2, path=path)
    for one, other in zip(whole, again, strict=True):
        assert one[1:4] == other[1:4] or one.step == 0
        for name, seen in one.fields.items():
            for a, b in zip(seen, other.fields[name], strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(CheckpointError, match="its seed was 3, this one has 4"):
        fitting.fit(task, setting, seed=4, images=2, path=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"one\.npz"):
        fitting.fit(task, setting, seed=3, images=2, path=path)


def test_variance_of_kernels(task):
    network = TINY.network(task, 0)
    layers = [network.stem, *(conv for block in network.blocks for conv in (block.conv1, block.conv2))]
    shapes = [layer.kernel[...].shape for layer in layers]
    corners, centre = np.outer([1, 0, 1], [1, 0, 1]), np.outer([0, 1, 0], [0, 1, 0])
    for profile, expected in ((np.ones((3, 3)), 1.0), (corners, 1.5), (centre, 0.0)):
        for layer, shape in zip(layers, shapes, strict=True):
            layer.kernel[...] = np.broadcast_to(profile[..., None, None], shape).astype(np.float32)
        assert residual.kernel_variance(network) == pytest.approx(expected)


def test_calibration_gives_the_statistics_of_the_images(task):
    network = TINY.network(task, 0)
    images = np.random.default_rng(0).normal(2.0, 3.0, (8, 9, 7, 1)).astype(np.float32)
    exact = residual.calibrate(network, images)
    after = np.asarray(exact.norm(exact.stem(images), use_running_average=True))
    np.testing.assert_allclose(after.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(after.var((0, 1, 2)), 1.0, atol=1e-3)
    assert not np.asarray(network.norm.mean[...]).any()  # the network itself is as it was


def test_augmentation_moves_labels_with_their_pixels():
    images = np.random.default_rng(0).normal(size=(4, 16, 24, 1)).astype(np.float32)
    moved, labels = fitting.augment(images, images[..., 0], np.random.default_rng(1), mirrored=True)
    np.testing.assert_array_equal(moved[..., 0], labels)
    assert any((moved[i] != images[i]).any() for i in range(4))
    _, kept = fitting.augment(images, np.arange(4), np.random.default_rng(1), mirrored=True)
    np.testing.assert_array_equal(kept, np.arange(4))


def test_labels_of_pixels_and_those_that_do_not_count():
    setting = fitting.Setting(blocks=2, width=2, subsamplings=3, normalisation="none", readout="pixels")
    names = ("blocks", "width", "subsamplings", "normalisation", "readout")
    network = residual.ResidualNetwork(3, 5, seed=0, **{name: getattr(setting, name) for name in names})
    images = np.random.default_rng(0).normal(size=(1, 16, 24, 3)).astype(np.float32)
    assert jax.eval_shape(network.features, images).shape == (1, 2, 3, 8)
    graph, params, rest = fitting.split(network)
    init, update = fitting._compiled(graph, 0.0, 0.1, 10, 5)
    state, loss = update((params, rest, init(params)), images, np.full((1, 16, 24), 5, np.int32))
    assert float(loss) == 0.0
    for before, after in zip(jax.tree.leaves(nnx.state(network)), jax.tree.leaves(state[:2]), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"preset": "huge"}, SampleError, "preset"),
        ({"variants": ["thin"]}, SampleError, "variants"),
        ({"variants": []}, SampleError, "variants"),
        ({"seeds": 0}, SampleError, "seeds"),
        ({"examples": 1}, SampleError, "examples"),
        ({"depth": 3}, SampleError, "no setting"),
        ({"blocks": 0}, StackError, "positive"),
    ],
)
def test_bad_settings_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        training(**options)


def test_every_variant_changes_its_setting_and_the_result_knows_the_probes():
    settings = {name: _changed(TINY, changes) for name, changes in VARIANTS.items()}
    assert settings["as it is"] == TINY
    assert settings["twice as wide"].width == 2 * TINY.width
    assert len(set(settings.values())) == len(VARIANTS)
    assert (TrainingResult.main, TrainingResult.apart) == (fitting.MAIN, fitting.APART)
    assert (TrainingResult.given, TrainingResult.exchangeable) == (fitting.GIVEN, fitting.EXCHANGEABLE)
