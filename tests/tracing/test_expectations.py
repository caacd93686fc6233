"""Mean field in a traced network against integrals by SciPy: kinks of φ far out, extrema of several normal numbers."""

import math

import jax
import jax.numpy as jnp
import pytest
from scipy import integrate, stats

from erfjax.readings.analytic import analytic
from tests.tracing.test_moments import W1, W3, conv, pooled

SIGNS = jnp.sign(W1), jnp.sign(W3)
SPEC = jax.ShapeDtypeStruct((1, 14, 4), jnp.float32)
VARIANCE = 12.0  # of a sum of three taps over four channels, for inputs of unit second moment


def gain(between, phi, scale=1.0):
    """What φ behind `between` multiplies the total of the field by."""

    def total(phi):
        def f(x):
            y = phi(between(scale * conv(x, SIGNS[0])[:, 1:-1]))
            return conv(y, SIGNS[1]) if y.ndim == 3 else y @ SIGNS[1][0]

        return analytic(f, SPEC, layout="NWC", gates="mean-field", channels="random-signs").map.sum()

    return total(phi) / total(lambda y: y)


def moment(slope, mean, sigma):
    """E slope(z)² by SciPy."""
    function = lambda t: slope(mean + sigma * t) ** 2 * stats.norm.pdf(t)  # noqa: E731
    return integrate.quad(function, -9, 9, points=[-mean / sigma], limit=400, epsabs=1e-12)[0]


@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_kinks_and_jumps_far_from_zero_are_ends_of_panels(scale):
    sigma, normal = scale * math.sqrt(VARIANCE), stats.norm

    def jump(z):
        return jnp.where(z > 2.7, 3 * z, z)

    assert gain(lambda y: y, jax.nn.relu6, scale) == pytest.approx(normal.cdf(6 / sigma) - 0.5, rel=5e-6)
    assert gain(lambda y: y, jump, scale) == pytest.approx(1 + 8 * normal.sf(2.7 / sigma), rel=5e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [4, 12])
def test_an_extremum_of_normal_numbers_has_its_own_mean_and_variance(sign, count):
    """The greatest of K normal numbers lies higher and varies less than one of them."""
    density = lambda t: count * stats.norm.pdf(t) * stats.norm.cdf(t) ** (count - 1)  # noqa: E731
    mean = integrate.quad(lambda t: t * density(t), -9, 9)[0]
    variance = integrate.quad(lambda t: (t - mean) ** 2 * density(t), -9, 9)[0]
    sigma = 0.3 * math.sqrt(VARIANCE)

    def extremum(y):
        if count == 12:
            return (jnp.max if sign > 0 else jnp.min)(y, axis=1)
        return sign * pooled(sign * y, "max", 4, 4)

    expected = moment(lambda z: min(math.exp(z), 1.0), sign * mean * sigma, math.sqrt(variance) * sigma)
    assert gain(extremum, jax.nn.elu, 0.3) == pytest.approx(expected, rel=1e-3)
