"""Initialisers: their variance tap by tap, their place in other libraries, and that corners are widest."""

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from erfjax import initializers
from erfjax.errors import KernelError
from erfjax.layers import Conv

SHAPED = {
    "flat": initializers.flat(),
    "glorot": initializers.flat(1.0, "fan_avg"),
    "corners": initializers.corner_weighted(0.25),
    "gaussian": initializers.gaussian(0.7, scale=1.0, mode="fan_out"),
    "given": initializers.profiled([[0, 1, 2], [3, 0, 1]]),
}


@pytest.mark.parametrize("name", SHAPED)
def test_draws_have_the_variance_that_is_promised(name, precision):
    """Within five standard errors of 40 x 60 channels; a normal's squared deviation has variance 2."""
    init, shape = SHAPED[name], (2, 3, 40, 60)
    draw = np.asarray(init(jax.random.key(0), shape, jnp.dtype(precision)))
    assert draw.dtype == precision
    expected = init.variance(shape)
    count = 40 * 60
    assert np.all(np.abs((draw**2).mean((2, 3)) - expected) <= 5 * expected * np.sqrt(2 / count))
    assert np.all(np.abs(draw.mean((2, 3))) <= 5 * np.sqrt(expected / count))
    fan = {"fan_in": 40, "fan_out": 60, "fan_avg": 50}[init.mode]
    assert expected.sum() * fan == pytest.approx(init.scale, rel=1e-12)


def test_axes_may_stand_in_any_order():
    init = initializers.corner_weighted(0.0, in_axis=1, out_axis=0)
    kernel = init(jax.random.key(0), (8, 4, 3, 5))
    assert kernel.shape == (8, 4, 3, 5)
    assert np.array_equal(np.argwhere(np.abs(kernel).sum((0, 1)) > 0), [[0, 0], [0, 4], [2, 0], [2, 4]])
    hwio = initializers.corner_weighted(0.0)
    np.testing.assert_array_equal(hwio.variance((3, 5, 4, 8)), init.variance((8, 4, 3, 5)))


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_corner_weighted_interpolates(k):
    for softness in (0.0, 0.4, 1.0):
        p = initializers.corner_weighted(softness, scale=1.0).variance((k, 1, 1))
        t = np.arange(k) - (k - 1) / 2
        assert p.sum() == pytest.approx(1.0)
        expected = (1 - softness) * (k - 1) ** 2 / 4 + softness * (k**2 - 1) / 12
        assert p @ t**2 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("k", "gain"), [(3, 1.2247), (5, 1.4142), (7, 1.5)])
def test_corners_widen_a_stack_by_the_known_gain(k, gain):
    stack = Conv(k) ** 10
    wide = stack.variance(init=initializers.corner_weighted(0.0, scale=1.0))
    np.testing.assert_allclose(np.sqrt(np.divide(wide, stack.variance())), gain, atol=5e-5)


def test_corners_are_the_maximum_not_an_assumption():
    """Gradient ascent on the variance of a five-tap profile under the simplex ends in the corners."""

    def variance(logits):
        p, t = jax.nn.softmax(logits), jnp.arange(5.0)
        return jnp.sum(p * t**2) - jnp.sum(p * t) ** 2

    ascend = jax.jit(lambda logits: logits + 0.5 * jax.grad(variance)(logits))
    logits = 0.1 * jax.random.normal(jax.random.key(0), (5,))
    for _ in range(400):
        logits = ascend(logits)
    np.testing.assert_allclose(jax.nn.softmax(logits), [0.5, 0, 0, 0, 0.5], atol=0.01)
    assert float(variance(logits)) == pytest.approx(4.0, abs=0.05)


def test_profiles_of_foreign_initialisers_are_estimated():
    for init, total in ((jax.nn.initializers.he_normal(), 2.0), (jax.nn.initializers.glorot_uniform(), 1.0)):
        found = initializers.profile(init, (3, 5, 32, 32))
        assert not found.exact
        assert not found.mean.any()
        assert found.variance.sum() * 32 == pytest.approx(total, rel=0.01)
    delta = initializers.profile(jax.nn.initializers.delta_orthogonal(), (3, 3, 16, 16))
    assert np.argwhere(delta.variance > 1e-12).tolist() == [[1, 1]]
    assert Conv(3).analytic(init=jax.nn.initializers.delta_orthogonal(), width=3).size("sigma") == 0.0
    ones = initializers.profile(initializers.Constant(), (3, 2, 4, 8))
    assert ones.exact
    assert ones.mean.sum() * 4 == pytest.approx(1.0)
    assert not ones.variance.any()


def test_flax_equinox_and_haiku_take_them():
    init, x = initializers.corner_weighted(0.0), jnp.ones((1, 8, 9, 3))
    layer = linen.Conv(4, (3, 3), kernel_init=init)
    params = layer.init(jax.random.key(0), x)
    assert _is_corners(params["params"]["kernel"])
    assert _is_corners(nnx.Conv(3, 4, (3, 3), kernel_init=init, rngs=nnx.Rngs(0)).kernel[...])

    net = hk.transform(lambda x: hk.Conv2D(4, 3, w_init=lambda s, d: init(hk.next_rng_key(), s, d))(x))
    assert _is_corners(net.init(jax.random.key(0), x)["conv2_d"]["w"])

    conv = eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0))
    oihw = initializers.corner_weighted(0.0, in_axis=1, out_axis=0)
    conv = eqx.tree_at(lambda c: c.weight, conv, oihw(jax.random.key(0), conv.weight.shape, conv.weight.dtype))
    assert _is_corners(jnp.moveaxis(conv.weight, (0, 1), (-1, -2)))


def _is_corners(kernel):
    return np.argwhere(np.abs(kernel).sum((2, 3)) > 0).tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: initializers.corner_weighted(1.5), "between 0"),
        (lambda: initializers.gaussian(0.0), "positive"),
        (lambda: initializers.named("xavier"), "'he', 'lecun', 'glorot', 'uniform'"),
        (lambda: initializers.profiled([1.0, 2.0]).variance((3, 1, 1)), "spatial shape"),
        (lambda: initializers.profiled([1.0, -2.0, 0.0]).variance((3, 1, 1)), "non-negative"),
        (lambda: initializers.flat().variance((3,)), "channel axis"),
        (lambda: initializers.flat(in_axis=0, out_axis=-3).variance((3, 1, 1)), "must differ"),
    ],
)
def test_bad_arguments_are_refused_with_a_lesson(build, says):
    with pytest.raises(KernelError, match=says):
        build()
