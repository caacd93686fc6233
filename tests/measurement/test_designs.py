"""Designed noise: every image has the law of an independent one, sets are independent, and fields do not depend on batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import erfjax as ej
from erfjax.errors import SampleError
from erfjax.measurement.designs import Noise

KEY = jax.random.key(3)


@pytest.mark.parametrize("law", ["normal", "uniform"])
@pytest.mark.parametrize("design", ["antithetic", "sobol"])
def test_every_image_has_its_law(design, law):
    noise = Noise((2, 3), design, law, mean=0.5, deviation=2.0)
    sets = np.stack([noise.block(KEY, draw, 4) for draw in range(300)])  # (sets, 4, 2, 3)
    expected = stats.norm(0.5, 2) if law == "normal" else stats.uniform(0.5 - 2 * 3**0.5, 4 * 3**0.5)
    for image in range(4):  # of one place in every set they are independent
        assert stats.kstest(sets[:, image].ravel(), expected.cdf).pvalue > 1e-3
        correlations = np.corrcoef(sets[:, image].reshape(300, 6).T) - np.eye(6)
        assert np.abs(correlations).max() < 5 / 300**0.5


def test_pairs_are_opposite_and_points_fill_every_interval():
    pairs = Noise((5,), "antithetic", mean=1.0).block(KEY, 7, 6)
    np.testing.assert_allclose(pairs[::2] + pairs[1::2], 2.0, atol=1e-6)
    points = Noise((5,), "sobol", "uniform").block(KEY, 7, 16) / 12**0.5 + 0.5
    np.testing.assert_array_equal(np.sort(np.floor(16 * points), 0), np.arange(16)[:, None].repeat(5, 1))


def test_sets_depend_on_the_key_and_their_index_alone():
    noise = Noise((4,), "sobol")
    np.testing.assert_array_equal(noise.block(KEY, 2, 8), noise.block(jax.random.key_data(KEY), 2, 8))
    assert (noise.block(KEY, 2, 8) != noise.block(KEY, 3, 8)).all()
    assert (noise.block(KEY, 2, 8) != noise.block(jax.random.key(4), 2, 8)).all()


def smooth(key, x):
    del key
    return jnp.sin(x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:])


def test_fields_do_not_depend_on_batches_or_interruptions(tmp_path):
    options = {"key": KEY, "samples": (12, 4), "layout": "NWC"}
    noise = Noise((7, 1), "sobol")
    whole, parts = (ej.empirical(smooth, noise, batch_size=size, **options) for size in (48, 5))
    np.testing.assert_array_equal(whole.map, parts.map)
    np.testing.assert_array_equal(whole.batches, parts.batches)
    first = ej.empirical(smooth, noise, checkpoint=tmp_path / "run", **options)
    again = ej.empirical(smooth, noise, checkpoint=tmp_path / "run", **options)
    np.testing.assert_array_equal(first.map, again.map)
    assert len(whole.batches) == 12  # a set counts once


@pytest.mark.parametrize(("design", "least", "most"), [("antithetic", 0.35, 0.7), ("sobol", 4.0, 100.0)])
def test_means_are_unbiased_and_bars_those_of_sets(design, least, most):
    """E cos² x = (1 + exp -2)/2; opposite images have the same squares, so that half as many count."""

    def f(key, x):
        del key
        return jnp.sin(x)

    options = {"key": KEY, "samples": (200, 8), "layout": "NWC"}
    field = ej.empirical(f, Noise((3, 1), design), **options)
    plain = ej.empirical(f, lambda key: jax.random.normal(key, (1, 3, 1)), **options)
    totals = field.batches.sum(1)
    expected = (1 + np.exp(-2)) / 2
    assert abs(totals.mean() - expected) < 4 * totals.std(ddof=1) / 200**0.5
    assert least < plain.batches.sum(1).var() / totals.var() < most
    assert field.interval("total").units == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 8}, "in pairs"),
        ({"samples": (4, 3)}, "even number"),
        ({"design": "sobol", "samples": (4, 6)}, "powers of two"),
        ({"design": "sobol", "shape": (30_000, 1)}, "21,201"),
        ({"design": "halton"}, "designs"),
        ({"law": "cauchy"}, "laws"),
        ({"key": None, "samples": None}, "drawn from a key"),
    ],
)
def test_what_is_no_design_is_refused(options, words):
    given = {"shape": (7, 1), "design": "antithetic", "law": "normal", "key": KEY, "samples": (4, 2), **options}
    noise = object.__new__(Noise)
    for name in ("shape", "design", "law"):  # past the check of types
        object.__setattr__(noise, name, given[name])
    with pytest.raises(SampleError, match=words):
        ej.empirical(smooth, noise, key=given["key"], samples=given["samples"], layout="NWC")
