"""Every unit at once: the mean over all units that see the image alone, against these units one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import UnitError
from erfjax.measurement.every_unit import lines

RNG = np.random.default_rng(3)
KERNEL = jnp.asarray(RNG.normal(size=(3, 5, 2, 4)), jnp.float32)
SECOND = jnp.asarray(RNG.normal(size=(3, 3, 4, 3)), jnp.float32)
X = RNG.normal(size=(2, 17, 20, 2)).astype(np.float32)
DIMS = ("NHWC", "HWIO", "NHWC")


def conv(x, w, stride=1, padding="SAME"):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=DIMS)


def plain(x):
    return conv(jnp.tanh(conv(x, KERNEL)), SECOND)


def strided(x):
    return conv(jnp.tanh(conv(x, KERNEL, 2)), SECOND)


def phased(x):
    """Pooled by two and repeated: the field depends on the parity of the unit, and moves by one pixel per unit."""
    y = conv(x, SECOND[:, :, :2])[:, :16]
    y = y.reshape(1, 8, 2, 10, 2, 3).mean((2, 4))
    return jnp.repeat(jnp.repeat(y, 2, 1), 2, 2)


def large(x):
    """A field of more than half the image: no two units fit side by side."""
    return conv(jnp.tanh(conv(x, KERNEL)), jnp.ones((11, 13, 4, 3)) / 50)


def one_by_one(f, channels, statistic):
    """The mean of the maps of all units with their window inside, each moved to the centre unit."""
    centre = ej.theoretical(f, X)
    along = lines(centre)
    units = [(a, b) for a in range(along[0].first, along[0].first + along[0].count)
             for b in range(along[1].first, along[1].first + along[1].count)]  # fmt: skip
    fields = ej.empirical(lambda x: f(x), X, unit=units, channels=channels, statistic=statistic, progress=False)
    total = np.zeros(X.shape[1:3])
    at = tuple(slice(line.start(u), line.start(u) + line.window) for line, u in zip(along, centre.unit, strict=True))
    for unit, field in zip(units, fields, strict=True):
        own = tuple(slice(line.start(u), line.start(u) + line.window) for line, u in zip(along, unit, strict=True))
        assert field.map.sum() == pytest.approx(field.map[own].sum())  # its whole field is in its window
        total[at] += field.map[own] / len(units)
    return total, len(units)


@pytest.mark.parametrize(
    ("f", "channels", "statistic"),
    [(plain, "frobenius", "abs"), (strided, "sum", "square"), (phased, "sum", "square"), (large, "frobenius", "abs")],
)
def test_the_mean_over_all_units(f, channels, statistic):
    expected, count = one_by_one(f, channels, statistic)
    field = ej.empirical(f, X, unit="all", channels=channels, statistic=statistic, progress=False)
    np.testing.assert_allclose(field.map, expected, rtol=2e-5, atol=1e-6 * expected.max())
    assert any(f"{count} units" in note for note in field.notes)
    assert field.samples == 2
    assert field.stderr.shape == field.map.shape


def test_units_that_share_a_pullback_are_few_pullbacks():
    line, _ = lines(ej.theoretical(plain, X))
    assert (line.window, line.spacing, line.per_colour, line.count) == (5, 5, 3, 13)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: x - x.mean((1, 2), keepdims=True), "seen globally"),
        (lambda x: conv(x, jnp.ones((21, 3, 2, 2))), "do not fit"),
        (lambda x: jnp.repeat(x, 2, 1), "0.5 pixels per unit"),
    ],
)
def test_what_has_no_mean_over_units_is_said(f, says):
    with pytest.raises(UnitError, match=says):
        ej.empirical(f, X, unit="all")


def test_shares_of_the_mean_over_units_sum_to_one():
    field = ej.empirical(plain, X, unit="all", channels="frobenius", statistic="share", progress=False)
    assert field.map.sum() == pytest.approx(1, rel=1e-5)
