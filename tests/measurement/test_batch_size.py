"""How many samples a batch takes: as many as memory allows, and on a CPU as keep its arrays in memory that is not given back."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.measurement import engine, jacobian
from erfjax.measurement.cone import probe_of
from erfjax.readings.question import ask, one_sample
from erfjax.tracing.windows.compiler import HEAP, KEPT
from tests.tracing.layers import weights

MB = 1 << 20


def chosen(samples, *, cost, largest, devices=1):
    """The size of a batch on so many devices, for samples that take so many bytes."""
    found = object.__new__(engine.Engine)
    found.cost, found.largest, found.mesh = cost, largest, None if devices == 1 else types.SimpleNamespace(size=devices)
    return engine.choose_batch_size(found, samples)


@pytest.mark.parametrize(
    ("samples", "cost", "largest", "expected"),
    [
        (None, MB, MB // 100, 64),  # small arrays: nothing gets faster beyond
        (None, 90 * MB, 3 * MB, 5),  # 15 MB of 20
        (12, 90 * MB, 3 * MB, 4),  # batches of equal size
        (None, 200 * MB, 16 * MB, 1),
        (None, 200 * MB, 21 * MB, 5),  # one array is too large to be kept: the budget of 1 GB alone counts
        (None, 90 * MB, 0, 11),  # not known
    ],
)
def test_batches_keep_their_arrays_small(samples, cost, largest, expected):
    assert chosen(samples, cost=cost, largest=largest) == expected


def test_every_device_takes_as_many():
    assert chosen(None, cost=90 * MB, largest=3 * MB, devices=2) == 10


def test_accelerators_keep_all_memory_anyway(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(None, cost=90 * MB, largest=3 * MB) == 11


def conv(x):
    w = weights(3, 3, x.shape[-1], 64).astype(x.dtype)
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    ("options", "count", "kept"),
    [({}, 24, True), ({"batch_size": 24}, 24, False), ({"channels": "frobenius"}, 1, False)],
    ids=["as chosen", "a large batch", "64 gradients"],
)
def test_no_array_is_larger_than_what_is_kept(options, count, kept, monkeypatch, capfd):
    """XLA would warn of each. Arrays of a sample have 1 MB here, seen whole by a mean over the image."""
    asked = []
    plain = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, **k: asked.append(k.get("compiler_options") or {}) or plain(f, **k))
    x = np.random.default_rng(0).normal(size=(count, 61, 67, 3)).astype(np.float32)
    field = ej.empirical(
        lambda x: conv(jax.nn.relu(conv(x))).mean((1, 2), keepdims=True), x, unit=(0, 0), progress=False, **options
    )
    sizes = {
        found[HEAP] for found in asked if HEAP in found and len(found) > 1
    }  # alone it is only asked whether JAX knows it
    assert sizes == ({KEPT} if kept else set())
    assert "per-heap" not in capfd.readouterr().err
    assert field.samples == count


def test_the_largest_array_is_known_with_its_gradients():
    sample, inputs = one_sample(jax.ShapeDtypeStruct((1, 61, 67, 3), jnp.float32), None)
    question = ask(lambda x: conv(jax.nn.relu(conv(x))).mean((1, 2), keepdims=True), sample, inputs).each[0]
    probe = probe_of(question)
    assert probe.largest == 61 * 67 * 64 * 4
    assert [jacobian.most_at_once(probe, channels) for channels in ("sum", "random-signs", "frobenius")] == [1, 1, 64]
    engines = [
        engine.assemble(probe, "square", channels, None, jax.random.key(0), None) for channels in ("sum", "frobenius")
    ]
    assert [found.largest for found in engines] == [probe.largest, 64 * probe.largest]
