"""Networks drawn one by one: closed forms averaged over draws, and samples that share a draw."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import SampleError
from erfjax.fields import EffectiveField
from erfjax.uncertainty.records import COLUMNS, Record, summarise

KEY = jax.random.key(3)


def network(key, x):
    """Two dense layers over three pixels of two channels, the input scaled by a number that the draw chooses."""
    first, second, gain = jax.random.split(key, 3)
    hidden = jax.nn.relu(x.reshape(1, 6) @ jax.random.normal(first, (6, 5)))
    return (hidden @ jax.random.normal(second, (5, 3)) * jnp.exp(jax.random.normal(gain))).reshape(1, 3, 1)


@pytest.mark.parametrize("channels", ["random-signs", "sum"])
def test_the_mean_of_closed_forms_is_theirs(channels):
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    options = {"layout": "NWC", "channels": channels, "unit": (1,)}
    field = ej.analytic(network, x, key=KEY, samples=6, **options)
    alone = [
        ej.analytic(lambda x, i=i: network(jax.random.fold_in(KEY, i), x), x[i % 4][None], **options).map
        for i in range(6)
    ]
    np.testing.assert_allclose(field.map, np.mean(alone, 0), rtol=1e-5)
    np.testing.assert_allclose(field.batches, alone, rtol=1e-5)
    assert field.samples == 6
    assert field.interval("total").low < field.map.sum() < field.interval("total").high
    assert any("bias" in note for note in field.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 4}, "pass key"),
        ({"key": KEY, "samples": 4, "weights": "exchangeable"}, "in one pass"),
        ({"key": KEY, "samples": 4, "gates": "mean-field"}, "in one pass"),
    ],
)
def test_what_draws_nothing_is_refused(options, words):
    with pytest.raises(SampleError, match=words):
        ej.analytic(network, np.ones((1, 3, 2), np.float32), layout="NWC", **options)


def test_samples_that_share_a_draw_share_its_weights_and_count_once(tmp_path):
    x = np.random.default_rng(1).normal(size=(12, 3, 2)).astype(np.float32)
    options = {"key": KEY, "layout": "NWC", "channels": "sum"}
    field = ej.empirical(network, x, samples=(4, 3), batch_size=5, **options)
    totals = np.empty((4, 3))
    for i, row in enumerate(x):
        g = jax.jacrev(lambda x, i=i: network(jax.random.fold_in(KEY, i // 3), x)[0, 1].sum())(row[None])
        totals[i // 3, i % 3] = (np.asarray(g, np.float64) ** 2).sum()
    assert field.samples == 12
    np.testing.assert_allclose(field.record.column("total"), totals.mean(1), rtol=1e-5)
    np.testing.assert_allclose(field.batches.sum(1), totals.mean(1), rtol=1e-5)
    np.testing.assert_allclose(field.stderr, field.batches.std(0, ddof=1) / 2)
    interval = field.interval("total")
    assert (interval.units, interval.samples_per_unit) == (4, 3)
    inputs = totals.var(1, ddof=1).mean()
    weights = totals.mean(1).var(ddof=1) - inputs / 3
    np.testing.assert_allclose(field.diagnostics().split, (max(weights, 0), inputs), rtol=1e-4)
    assert "of the variance of a sample's total the draw makes" in str(field.diagnostics())
    loaded = EffectiveField.load(field.save(tmp_path / "nested.npz"))
    assert str(loaded.diagnostics()) == str(field.diagnostics())
    drawn = ej.empirical(network, lambda k: jax.random.normal(k, (1, 3, 2)), samples=(3, 2), **options)
    assert len(set(drawn.batches.sum(1))) == 3


@pytest.mark.parametrize("draws", [40, 200])
def test_the_split_is_that_of_the_law(draws):
    """Merged rows hold several draws; the split does not depend on that."""
    rng, m, found = np.random.default_rng(draws), 4, []
    for _ in range(200):
        weights, inputs = rng.normal(size=(draws, 1)), 2 * rng.normal(size=(draws, m))
        totals = (10 + weights + inputs).reshape(-1)
        rows = summarise(totals[:, None], totals).reshape(draws, m, len(COLUMNS)).mean(1)
        rows = rows if draws < 100 else rows.reshape(-1, 4, len(COLUMNS)).mean(1)
        found.append(Record(rows, np.abs(np.stack([totals, totals])), draws * m, m).split)
    means, errors = np.mean(found, 0), np.std(found, 0) / math.sqrt(200)
    assert (np.abs(means - (1, 4)) < 5 * errors + (0.05, 0)).all()  # what is below zero counts as zero


@pytest.mark.parametrize("samples", [(0, 3), (2,), (2, 3, 4), (2.5, 2)])
def test_samples_are_a_number_or_two(samples):
    with pytest.raises(SampleError, match="draws, inputs"):
        ej.empirical(network, np.ones((1, 3, 2), np.float32), key=KEY, samples=samples, layout="NWC")
    with pytest.raises(SampleError, match="pass a key"):
        ej.empirical(jnp.tanh, np.ones((4, 3, 2), np.float32), samples=(2, 2), layout="NWC")
