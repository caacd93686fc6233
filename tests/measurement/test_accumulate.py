"""The pieces of the engine that have no device: streaming statistics and the scaling of small numbers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.layouts import parse
from erfjax.measurement.accumulate import GROUPS, Accumulator
from erfjax.measurement.reduction import reduce, restore
from erfjax.measurement.run import is_checked


@pytest.mark.parametrize("count", [1, 2, 31, 64, 65, 127, 128, 700])
def test_streaming_equals_numpy(count):
    samples = np.random.default_rng(count).normal(size=(count, 2, 5, 3)) + 1e4
    state = Accumulator.empty((2, 5, 3))
    for sample in samples:
        state = state.add(sample)
    np.testing.assert_allclose(state.mean, samples.mean(0), rtol=1e-13)
    if count == 1:
        assert state.stderr() is None
        assert state.batches() is None
        return
    np.testing.assert_allclose(state.stderr(), samples.std(0, ddof=1) / np.sqrt(count), rtol=1e-9)
    batches = state.batches()
    assert len(batches) == count if count < 2 * GROUPS else GROUPS <= len(batches) < 2 * GROUPS
    size = state.group_size
    expected = samples[: len(batches) * size].reshape(len(batches), size, 2, 5, 3).mean(1)
    np.testing.assert_allclose(batches, expected, rtol=1e-13)


def test_a_state_survives_as_arrays():
    state = Accumulator.empty((1, 3))
    for sample in np.arange(201.0).reshape(67, 1, 3):
        state = state.add(sample)
    arrays = state.arrays()
    again = Accumulator.from_arrays(arrays)
    for name, value in again.arrays().items():
        np.testing.assert_array_equal(value, arrays[name])


@pytest.mark.parametrize("scale", [1e-34, 1e-20, 1.0, 1e30])
@pytest.mark.parametrize(("statistic", "degree"), [("square", 2), ("abs", 1), ("mean", 1), ("relu", 1)])
def test_scaling_is_exact(scale, statistic, degree):
    gradients = (np.random.default_rng(0).normal(size=(2, 1, 4, 3, 2)) * scale).astype(np.float32)
    values, exponent, finite = reduce(jnp.asarray(gradients), statistic, parse("NHWC", 4))
    restored = restore(np.asarray(values)[None], np.asarray(exponent)[None], degree)[0]
    wide = gradients.astype(np.float64)
    expected = {"square": wide**2, "abs": abs(wide), "mean": wide, "relu": np.maximum(wide, 0)}[statistic]
    np.testing.assert_allclose(restored, expected.sum((0, 1, 4)), rtol=1e-5, atol=1e-5 * scale**degree)
    assert finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_seen(bad):
    gradients = jnp.ones((1, 1, 4, 3, 2), jnp.float32).at[0, 0, 1, 2, 0].set(bad)
    assert not reduce(gradients, "square", parse("NHWC", 4))[2]


def test_the_target_is_checked_ever_more_rarely():
    checked = [count for count in range(1, 3000) if is_checked(count)]
    assert checked[:3] == [32, 64, 96]
    assert all(b <= a + max(32, a / 7) for a, b in itertools.pairwise(checked))
    assert len(checked) < 50
