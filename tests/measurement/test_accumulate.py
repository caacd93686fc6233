"""The pieces of the engine that have no device: streaming statistics and the scaling of small numbers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.layouts import parse
from erfjax.measurement import accumulate
from erfjax.measurement.accumulate import GROUPS, Accumulator
from erfjax.measurement.reduction import order, reduce, restore
from erfjax.measurement.run import is_checked
from erfjax.uncertainty import records
from erfjax.uncertainty.records import samples_per_unit


@pytest.mark.parametrize("count", [1, 2, 31, 64, 65, 127, 128, 700])
def test_streaming_equals_numpy(count, monkeypatch):
    monkeypatch.setattr(accumulate, "BUDGET", 0)  # as for large maps: batch means only
    samples = np.random.default_rng(count).normal(size=(count, 2, 5, 3)) + 1e4
    state = gathered(samples)
    np.testing.assert_allclose(state.mean, samples.mean(0), rtol=1e-13)
    if count == 1:
        assert state.stderr() is None
        assert state.batches() is None
        return
    np.testing.assert_allclose(state.stderr(), samples.std(0, ddof=1) / np.sqrt(count), rtol=1e-9)
    batches = state.batches()
    assert len(batches) == count if count < 2 * GROUPS else GROUPS <= len(batches) < 2 * GROUPS
    size = state.groups.size
    assert size == samples_per_unit(count, len(batches))
    expected = samples[: len(batches) * size].reshape(len(batches), size, 2, 5, 3).mean(1)
    np.testing.assert_allclose(batches, expected, rtol=1e-13)


def gathered(samples, references=None):
    state = Accumulator.empty(samples.shape[1:], references)
    for sample in samples:
        state = state.add(sample)
    return state


def test_single_samples_are_kept_while_the_budget_holds_them(monkeypatch):
    monkeypatch.setattr(accumulate, "BUDGET", 100 * 6)
    samples = np.random.default_rng(0).normal(size=(250, 2, 3))
    np.testing.assert_array_equal(gathered(samples[:99]).batches(), samples[:99])
    merged = gathered(samples)
    assert (len(merged.groups.values), merged.groups.size) == (62, 4)
    np.testing.assert_allclose(merged.batches(), samples[:248].reshape(62, 4, 2, 3).mean(1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("count", [5, 90, 3000])
def test_totals_and_largest_values_of_single_samples_are_kept(count, monkeypatch):
    monkeypatch.setattr(accumulate, "ROWS", 64)
    monkeypatch.setattr(records, "LARGEST", 20)
    samples = np.random.default_rng(1).normal(size=(count, 2, 4)) ** 2
    samples[2, 1] = 0
    record = gathered(samples, (3, 1)).record(1)
    totals, size = samples[:, 1].sum(1), record.per_row
    assert record.count == count
    assert (len(record.rows), size) == {5: (5, 1), 90: (45, 2), 3000: (46, 64)}[count]
    whole = len(record.rows) * size
    np.testing.assert_allclose(record.column("total"), totals[:whole].reshape(-1, size).mean(1), rtol=1e-12)
    np.testing.assert_allclose(record.column("reference"), samples[:whole, 1, 1].reshape(-1, size).mean(1), rtol=1e-12)
    np.testing.assert_allclose(np.sort(record.largest[0])[::-1], np.sort(totals)[::-1][:20], rtol=1e-12)
    np.testing.assert_allclose(np.sort(record.largest[1])[::-1], np.sort(samples[:, 1, 1])[::-1][:20], rtol=1e-12)
    logs = np.log(np.delete(totals[:whole], 2))
    np.testing.assert_allclose(record.log_moments, (logs.mean(), logs.var(ddof=1)), rtol=1e-9)


def test_a_state_survives_as_arrays():
    state = gathered(np.arange(201.0).reshape(67, 1, 3), (2,))
    arrays = state.arrays()
    again = Accumulator.from_arrays(arrays)
    assert again.references == (2,)
    sample = np.array([[3.0, 1.0, 4.0]])
    for name, value in again.add(sample).arrays().items():
        np.testing.assert_array_equal(value, state.add(sample).arrays()[name])


@pytest.mark.parametrize("scale", [1e-34, 1e-20, 1.0, 1e30, 1.4e38])
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


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_shares_of_a_sample_sum_to_one(scale):
    gradients = (np.random.default_rng(0).normal(size=(2, 1, 4, 3, 2)) * scale).astype(np.float32)
    shares, exponent, _ = reduce(jnp.asarray(gradients), "share", parse("NHWC", 4))
    squares = (gradients.astype(np.float64) ** 2).sum((0, 1, 4))
    restored = restore(np.asarray(shares)[None], np.asarray(exponent)[None], order("share"))[0]
    np.testing.assert_allclose(restored, squares / squares.sum(), rtol=1e-5)
    assert not reduce(jnp.zeros((2, 1, 4, 3, 2)), "share", parse("NHWC", 4))[0].any()


def test_the_target_is_checked_ever_more_rarely():
    checked = [count for count in range(1, 3000) if is_checked(count)]
    assert checked[:3] == [32, 64, 96]
    assert all(b <= a + max(32, a / 7) for a, b in itertools.pairwise(checked))
    assert len(checked) < 50
