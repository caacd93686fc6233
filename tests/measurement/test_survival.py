"""Checkpoints, interruptions, memory and devices: a run survives and ends where it would have ended."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.errors import CheckpointError, SampleError
from erfjax.fields import EffectiveField
from erfjax.measurement import run
from erfjax.measurement.checkpoint import State
from erfjax.measurement.engine import Engine
from erfjax.readings.empirical import empirical
from tests.measurement.interrupted import measure

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(20, 6, 5, 2)).astype(np.float32)


def net(x):
    dims = ("NHWC", "HWIO", "NHWC")
    return jnp.tanh(jax.lax.conv_general_dilated(x, jnp.asarray(KERNEL), (1, 1), "SAME", dimension_numbers=dims))


def other(x):
    return jnp.sin(net(x))


def rows(stop=None, error=KeyboardInterrupt):
    """The images one by one; at `stop` the run is interrupted."""
    for index, image in enumerate(IMAGES):
        if index == stop:
            raise error
        yield image


def test_a_continued_run_ends_with_the_same_bits(tmp_path):
    whole = empirical(net, rows(), batch_size=3)
    path = tmp_path / "run.npz"
    partial = empirical(net, rows(stop=13), batch_size=3, checkpoint=path)
    assert 0 < partial.samples < 20
    assert any("interrupted" in note for note in partial.notes)
    continued = empirical(net, rows(), batch_size=3, checkpoint=path)
    for name in ("map", "stderr", "batches"):
        np.testing.assert_array_equal(getattr(continued, name), getattr(whole, name))
    for name, array in continued.record.arrays().items():
        np.testing.assert_array_equal(array, whole.record.arrays()[name])
    assert continued.samples == 20
    assert not any("interrupted" in note for note in continued.notes)
    again = empirical(net, rows(stop=1), batch_size=3, checkpoint=path)  # a finished run reads nothing
    np.testing.assert_array_equal(again.map, whole.map)


def test_an_error_keeps_what_was_measured(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(OSError, match="disk"):
        empirical(net, rows(stop=13, error=OSError("disk")), batch_size=3, checkpoint=path)
    continued = empirical(net, rows(), batch_size=3, checkpoint=path)
    np.testing.assert_array_equal(continued.map, empirical(net, rows(), batch_size=3).map)


def test_an_interruption_before_the_first_sample_is_one():
    with pytest.raises(KeyboardInterrupt):
        empirical(net, rows(stop=1), batch_size=3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"f": other}, "model"),
        ({"f": lambda x: net(x) * 2}, "model"),
        ({"key": jax.random.key(8)}, "key"),
        ({"statistic": "abs"}, "statistic"),
        ({"channels": 1}, "channels"),
        ({"unit": (0, 0)}, "unit"),
        ({"samples": 19}, "samples"),
        ({"inputs": IMAGES[:, 1:]}, "input"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, named):
    def run(f=net, inputs=IMAGES, key=jax.random.key(7), **options):  # noqa: B008
        keyed = lambda key, x: f(x)  # noqa: E731
        return empirical(keyed, inputs, key=key, batch_size=4, checkpoint=tmp_path / "run.npz", **options)

    run(samples=8)
    with pytest.raises(CheckpointError, match=named):
        run(**{"samples": 8} | change)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    def run(scale, samples=8):
        model = jax.tree_util.Partial(lambda kernel, x: net(x) * kernel, jnp.float32(scale))
        return empirical(model, IMAGES[:samples], batch_size=4, checkpoint=tmp_path / "run.npz")

    run(1.0)
    assert run(1.0).samples == 8
    with pytest.raises(CheckpointError, match="weights"):
        run(1.5)


def test_a_checkpoint_of_another_jax_is_refused(tmp_path, monkeypatch):
    empirical(net, IMAGES, batch_size=4, checkpoint=tmp_path / "run.npz")
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.raises(CheckpointError, match=r"jax version was .*, this one has 0\.0\.1"):
        empirical(net, IMAGES, batch_size=4, checkpoint=tmp_path / "run.npz")


def test_an_error_inside_a_batch_leaves_a_state_between_two(tmp_path):
    path, broken = tmp_path / "run.npz", IMAGES.copy()
    broken[7] = np.nan  # the second of its batch
    with pytest.raises(SampleError, match="Sample 7"):
        empirical(net, iter(broken), batch_size=3, checkpoint=path)
    whole = empirical(net, rows(), batch_size=3)
    continued = empirical(net, rows(), batch_size=3, checkpoint=path)
    for name in ("map", "stderr", "batches"):
        np.testing.assert_array_equal(getattr(continued, name), getattr(whole, name))


def test_saving_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    now, saved = itertools.count(), []

    def save(self, path, fingerprint):
        saved.append(self.position)
        for _ in range(10):  # a save takes ten seconds, all else one
            next(now)

    monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: float(next(now))))
    monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(State, "save", save)
    inputs = np.ones((500, 4, 1), np.float32)
    empirical(lambda x: x * x, inputs, layout="NWC", batch_size=1, checkpoint=tmp_path / "run.npz")
    assert saved[-1] == 500
    assert saved[0] == 1
    assert 3 <= len(saved) <= 5  # every 10 / 5 % = 200 seconds


def test_other_inputs_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    empirical(net, rows(stop=13), batch_size=3, checkpoint=path)
    with pytest.raises(CheckpointError, match="inputs differ"):
        empirical(net, iter(IMAGES + 1), batch_size=3, checkpoint=path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "foreign", "field"])
def test_damaged_and_foreign_files_are_refused(tmp_path, damage):
    path = tmp_path / "run.npz"
    field = empirical(net, IMAGES, batch_size=4, checkpoint=path)
    whole = path.read_bytes()
    middle = len(whole) // 3
    if damage == "foreign":
        np.savez(path, a=np.ones(3))
    elif damage == "field":
        field.save(path)
    else:
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "flipped": whole[:middle] + bytes(255 - b for b in whole[middle : middle + 40]) + whole[middle + 40 :],
                "empty": b"",
                "text": b"not a checkpoint",
            }[damage]
        )
    with pytest.raises(CheckpointError, match="checkpoint"):
        empirical(net, IMAGES, batch_size=4, checkpoint=path)


def test_out_of_memory_halves_the_batch(monkeypatch):
    whole = empirical(net, IMAGES)
    submit, sizes = Engine.submit, []

    def small(self, key, first, rows, size):
        sizes.append(size)
        if size > 5:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return submit(self, key, first, rows, size)

    monkeypatch.setattr(Engine, "submit", small)
    field = empirical(net, IMAGES)
    assert sizes[0] == 20
    assert field.samples == 20
    assert any("batches of 5" in note for note in field.notes)
    np.testing.assert_allclose(field.map, whole.map, rtol=1e-6)
    monkeypatch.setattr(Engine, "submit", lambda *_: (_ for _ in ()).throw(RuntimeError("RESOURCE_EXHAUSTED")))
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        empirical(net, IMAGES)


def test_a_mesh_of_one_device_changes_nothing():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("samples",))
    np.testing.assert_allclose(empirical(net, IMAGES, mesh=mesh).map, empirical(net, IMAGES).map, rtol=1e-6)


def start(*arguments, devices=1):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "tests.measurement.interrupted", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def end(process):
    """The exit status of a process, its pipe closed."""
    with process:
        return process.wait()


def assert_same_samples(one, other):
    """Maps, error bars and what is kept of single samples agree, and so do the intervals and the verdict made of them."""
    np.testing.assert_allclose(other.map, one.map, rtol=1e-6)
    np.testing.assert_allclose(other.stderr, one.stderr, rtol=1e-5)
    np.testing.assert_allclose(other.batches, one.batches, rtol=1e-5, atol=1e-12)
    for name, array in other.record.arrays().items():
        np.testing.assert_allclose(array, one.record.arrays()[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tuple(other.interval("total")), tuple(one.interval("total")), rtol=1e-5)
    assert other.diagnostics().verdict == one.diagnostics().verdict


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    assert end(start("", tmp_path / "eight.npz", 50, devices=8)) == 0
    assert_same_samples(measure(50), EffectiveField.load(tmp_path / "eight.npz"))


def test_two_processes_give_the_numbers_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    pair = [start(tmp_path / "two.ckpt", tmp_path / "two.npz", 30, address, rank) for rank in (0, 1)]
    assert [end(process) for process in pair] == [0, 0]
    assert_same_samples(measure(30), EffectiveField.load(tmp_path / "two.npz"))


def killed_and_continued(tmp_path, kills, samples):
    """Kills a run at random moments after its start, lets it end, and compares with a run that was left alone."""
    random = np.random.default_rng(0)
    killed = 0
    for _ in range(kills):
        process = start(tmp_path / "run.ckpt", tmp_path / "run.npz", samples)
        process.stdout.readline()
        time.sleep(random.uniform(0.3, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        end(process)
    assert end(start(tmp_path / "run.ckpt", tmp_path / "run.npz", samples)) == 0
    whole, continued = measure(samples), EffectiveField.load(tmp_path / "run.npz")
    for name in ("map", "stderr", "batches"):
        np.testing.assert_array_equal(getattr(continued, name), getattr(whole, name))
    for name, array in continued.record.arrays().items():
        np.testing.assert_array_equal(array, whole.record.arrays()[name])
    assert not list(tmp_path.glob(".run.ckpt*"))
    return killed


def test_kill_and_continue(tmp_path):
    assert killed_and_continued(tmp_path, 2, 4000) == 2


@pytest.mark.slow
def test_kill_twenty_times_and_continue(tmp_path):
    assert killed_and_continued(tmp_path, 20, 40000) >= 15


def test_nothing_is_measured_twice_or_lost_when_samples_are_skipped(tmp_path):
    images = IMAGES.copy()
    images[[3, 7]] = np.nan
    path = tmp_path / "run.npz"

    def broken(stop):
        for index, image in enumerate(images):
            if index == stop:
                raise KeyboardInterrupt
            yield image

    empirical(net, broken(13), batch_size=3, checkpoint=path, nonfinite="skip")
    field = empirical(net, broken(None), batch_size=3, checkpoint=path, nonfinite="skip")
    assert field.samples == 18
    assert any("3, 7" in note for note in field.notes)
    with pytest.raises(SampleError, match="Sample 3"):
        empirical(net, broken(None), batch_size=3)
