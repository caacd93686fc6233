"""Mean-field gains against closed forms, direct numerical integrals and the numbers that the theory states."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from erfjax.closed_form import mean_field
from erfjax.errors import KernelError

VARIANCES = np.array([[0.01, 0.5, 1.0], [3.0, 40.0, 1e4]])


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", jax.nn.relu),
        ("erf", jax.scipy.special.erf),
        ("sin", jnp.sin),
        ("abs", jnp.abs),
        ("linear", lambda x: x),
    ],
)
def test_quadrature_agrees_with_closed_forms(name, function):
    small = VARIANCES[VARIANCES < 1e3]
    assert np.allclose(mean_field.gain(function, small), mean_field.gain(name, small), rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "gains"),
    [
        ("tanh", (0.8492, 0.5924, 0.4644, 0.3495)),
        ("sigmoid", (0.0596, 0.0514, 0.0448, 0.0370)),
        ("relu", (0.5,) * 4),
        ("identity", (1.0,) * 4),
    ],
)
def test_stated_gains(name, gains):
    assert mean_field.gain(name, np.array([0.1, 0.5, 1.0, 2.0])) == pytest.approx(gains, abs=5e-5)
    assert mean_field.gain("erf", 2.0) == pytest.approx(4 / (3 * math.pi))


@pytest.mark.parametrize("name", sorted(mean_field.ACTIVATIONS))
def test_every_name_is_an_elementwise_function_with_a_gain(name):
    """The middle of 200,000 equal shares of the distribution of z: good to 1e-4 for kinks wherever they are."""
    z = scipy.special.ndtri((np.arange(200_000) + 0.5) / 200_000)
    with jax.enable_x64(True):
        _, pullback = jax.vjp(mean_field.ACTIVATIONS[name], jnp.asarray(0.8**0.5 * z))
        slope = np.asarray(pullback(jnp.ones(z.shape))[0])
    assert mean_field.gain(name, 0.8) == pytest.approx(np.mean(slope**2), rel=2e-4)
    assert mean_field.mean_gain(name, 0.8) == pytest.approx(np.mean(slope), rel=2e-4, abs=1e-9)


def test_kinks_and_jumps_wherever_they_are():
    normal, q = scipy.stats.norm, np.array([0.3, 2.0, 90.0])
    s = np.sqrt(q)

    def jump(x):
        return jnp.where(x > 0.3, 2 * x, -x)

    def step(x):
        return jnp.where(x > 1.5, 3.0, 1.0)

    def integral(scale):
        return scipy.integrate.quad(lambda z: normal.pdf(z) * math.exp(2 * z * scale), -12, 0, epsabs=1e-14)[0]

    exact = functools.partial(pytest.approx, rel=1e-10)
    assert mean_field.gain(lambda x: jax.nn.leaky_relu(x, 0.1), q) == exact(np.full(3, (1 + 0.01) / 2))
    assert mean_field.gain("hard_tanh", q) == exact(2 * normal.cdf(1 / s) - 1)
    assert mean_field.gain("relu6", q) == exact(normal.cdf(6 / s) - 0.5)
    assert mean_field.gain(jump, q) == exact(1 + 3 * normal.sf(0.3 / s))
    assert mean_field.mean_gain(jump, q) == exact(3 * normal.sf(0.3 / s) - 1)
    assert mean_field.gain("elu", q) == exact(0.5 + np.array([integral(scale) for scale in s]))
    assert mean_field.second_moment(step, q) == exact(1 + 8 * normal.sf(1.5 / s))


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus", "mish"])
def test_smooth_activations_against_simpson(name):
    phi = getattr(jax.nn, name)
    with jax.enable_x64(True):
        slope = jax.jit(jax.vmap(jax.grad(phi)))
        for q in (0.2, 5.0):
            z = np.linspace(-9, 9, 200_001)
            integrand = scipy.stats.norm.pdf(z) * np.asarray(slope(z * math.sqrt(q))) ** 2
            truth = scipy.integrate.simpson(integrand[:100_001], dx=9e-5) + scipy.integrate.simpson(
                integrand[100_000:], dx=9e-5
            )
            assert mean_field.gain(phi, q) == pytest.approx(truth, rel=1e-7)


def test_shapes_limits_and_large_arrays():
    gains = mean_field.gain("tanh", VARIANCES)
    assert gains.shape == VARIANCES.shape
    assert gains.dtype == np.float64
    assert isinstance(mean_field.gain(jnp.tanh, 1), float)
    assert mean_field.gain(jax.nn.relu, 0.0) == pytest.approx(0.5)
    assert mean_field.gain("gelu", 0.0) == pytest.approx(0.25)
    assert mean_field.gain("tanh", np.empty((0, 2))).shape == (0, 2)
    many = np.exp(np.linspace(-9, 9, 3000)).reshape(30, 100)
    assert np.allclose(mean_field.gain("tanh", many)[::7, ::31], mean_field.gain("tanh", many[::7, ::31]), rtol=1e-9)


def test_same_digits_whatever_the_precision_and_inside_jit(precision):
    assert mean_field.gain(jnp.tanh, 1.0) == pytest.approx(0.46440290244, abs=1e-10)
    traced = jax.jit(lambda x: x * mean_field.gain("gelu", 0.7))(jnp.ones((), precision))
    assert float(traced) == pytest.approx(mean_field.gain("gelu", 0.7), rel=1e-6)


def test_functions_that_insist_on_float32_are_asked_in_float32():
    slope = jnp.float32(0.2)
    assert mean_field.gain(lambda x: jnp.where(x > 0, x, slope * x), 1.0) == pytest.approx(0.52, rel=1e-6)


def test_variance_map_and_fixed_points():
    assert mean_field.variance("relu", 3.0, math.sqrt(2)) == pytest.approx(3.0)
    assert mean_field.fixed_point("relu", math.sqrt(2), start=0.7) == pytest.approx(0.7)
    assert mean_field.fixed_point("relu", 1.0, 0.5) == pytest.approx(0.5)
    assert mean_field.fixed_point("tanh", 0.9) == mean_field.fixed_point("tanh", 1, 0, start=1) == 0.0
    for sigma_w, sigma_b, start in ((1.5, 0.05, 1.0), (3.0, 0.3, 0.01), (1.0, 0.2, 5.0)):
        q = mean_field.fixed_point("tanh", sigma_w, sigma_b, start)
        assert mean_field.variance("tanh", q, sigma_w, sigma_b) == pytest.approx(q, rel=1e-10)
    with pytest.raises(KernelError, match="without bound"):
        mean_field.fixed_point("relu", 1.5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_field.gain("rleu", 1.0), "no activation 'rleu'"),
        (lambda: mean_field.gain(jax.nn.softmax, 1.0), "mixes the entries"),
        (lambda: mean_field.gain(math.tanh, 1.0), "JAX"),
        (lambda: mean_field.gain("relu", -1.0), "0 or more"),
        (lambda: mean_field.gain("tanh", [1.0, np.nan]), "finite"),
        (lambda: mean_field.gain("tanh", "much"), "known numbers"),
        (lambda: jax.jit(lambda q: mean_field.gain("tanh", q))(1.0), "known numbers"),
        (lambda: mean_field.fixed_point("tanh", start=0.0), "positive variance"),
        (lambda: mean_field.fixed_point("tanh", sigma_b=math.nan), "must be finite"),
    ],
)
def test_bad_input_is_taught(call, says):
    with pytest.raises(KernelError, match=says):
        call()
