"""Control variates: slopes without bias, and what is made of samples less what the control explains."""

import numpy as np
import pytest

from erfjax.measurement.accumulate import Accumulator
from erfjax.measurement.controlled import controlled
from erfjax.uncertainty import regression


def skewed(rng, count, pixels=3, common=1.2):
    """Log-normal maps of mean one, and a control of mean zero that goes with them and is as skewed."""
    gain = np.exp(common * rng.normal(size=count) - common**2 / 2)
    own = np.exp(0.4 * rng.normal(size=(count, pixels)) - 0.08)
    return gain[:, None] * own, gain - 1


def test_slopes_leave_out_their_own_batch():
    rng = np.random.default_rng(0)
    maps, control = skewed(rng, 14)
    found = regression.fit(maps, control).slopes
    for i in range(14):
        others = np.arange(14) != i
        d, y = control[others] - control[others].mean(), maps[others] - maps[others].mean(0)
        plain = d @ y / (d @ d)
        totals = y.sum(1)
        explained = (d @ totals) ** 2 / (d @ d)
        shrink = 1 - (totals @ totals - explained) / (13 - 2) / explained
        np.testing.assert_allclose(found[i], max(shrink, 0) * plain)


def test_neither_few_samples_nor_skewed_ones_bias_the_mean():
    rng, repeats, count = np.random.default_rng(1), 4000, 12
    means = np.empty(repeats)
    for i in range(repeats):
        maps, control = skewed(rng, count)
        means[i] = regression.rest(maps, control, regression.fit(maps, control).slopes[:-1]).mean()
    assert abs(means.mean() - 1) < 4 * means.std() / repeats**0.5


def test_a_control_of_something_else_costs_little():
    rng, repeats, count = np.random.default_rng(2), 2000, 32
    plain, less = np.empty(repeats), np.empty(repeats)
    for i in range(repeats):
        maps, control = rng.normal(size=(count, 2)), rng.normal(size=count)
        plain[i] = maps.sum(1).mean()
        less[i] = regression.rest(maps, control, regression.fit(maps, control).slopes[:-1]).sum(1).mean()
    assert less.var() / plain.var() < 1.05
    assert regression.fit(np.ones((9, 1)), np.arange(9.0)).gain == 1  # too few
    assert not regression.fit(np.ones((12, 1)), np.zeros(12)).slopes.any()


@pytest.mark.parametrize("count", [12, 300])
def test_streams_give_what_all_samples_at_once_give(count, monkeypatch):
    monkeypatch.setattr("erfjax.measurement.accumulate.BUDGET", 400)  # 64 batches at most
    rng = np.random.default_rng(3)
    maps, control = skewed(rng, count)
    moments = Accumulator.empty((2, 3), (1, 0))
    for y, d in zip(maps, control, strict=True):
        moments = moments.add(np.stack([y, [d, 0, 0]]))
    mean, stderr, batches, (record,), note = controlled(moments, 1)
    size = moments.groups.size
    whole = count // size
    y, d = (a[: whole * size].reshape(whole, size, -1).mean(1) for a in (maps, control[:, None]))
    slopes = regression.fit(y, d[:, 0]).slopes
    rest = [maps[i] - slopes[min(i // size, whole)] * control[i] for i in range(count)]
    np.testing.assert_allclose(mean[0], np.mean(rest, 0))
    np.testing.assert_allclose(batches[:, 0].mean(0), np.mean(rest[: whole * size], 0))
    np.testing.assert_allclose(record.column("total"), np.sum(rest, 1)[: len(record.rows)])
    np.testing.assert_allclose(record.column("reference"), np.array(rest)[: len(record.rows), 1])
    assert stderr[0].sum() < 0.6 * maps.std(0).sum() / count**0.5
    assert "times as many samples" in note
