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


@pytest.mark.parametrize("space", [(), (5,), (2, 1, 3)], ids=["dense", "line", "volume"])
@pytest.mark.parametrize("name", ["flat", "glorot", "corners", "gaussian"])
def test_dense_layers_lines_and_volumes_have_the_variance_that_is_promised(name, space):
    init, count = SHAPED[name], 40 * 60
    fan = {"fan_in": 40, "fan_out": 60, "fan_avg": 50}[init.mode]
    draw = np.asarray(init(jax.random.key(1), (*space, 40, 60), jnp.float32), np.float64)
    energy = (draw**2).mean((-2, -1))
    expected = init.variance((*space, 40, 60))
    assert expected.shape == space
    assert expected.sum() * fan == pytest.approx(init.scale, rel=1e-12)
    assert np.all(np.abs(energy - expected) <= 5 * expected * np.sqrt(2 / count))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, "float32"])
def test_draws_have_the_type_asked_for(dtype):
    draw = initializers.corner_weighted(0.5)(jax.random.PRNGKey(0), (3, 8, 9), dtype)
    assert draw.dtype == jnp.dtype(dtype)
    assert np.isfinite(np.asarray(draw, np.float32)).all()
    assert initializers.flat()(jax.random.key(0), (3, 8, 9)).dtype == jnp.zeros(()).dtype


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


@pytest.mark.parametrize("ndim", [0, 1, 3])
def test_frameworks_take_them_for_dense_layers_lines_and_volumes(ndim):
    """He's energy over all taps, 2 / 8 input channels, within five standard errors of 8 x 64 channels at 2^D corners."""
    init, x, size = initializers.corner_weighted(0.0), jnp.ones((1, *(6,) * ndim, 8)), (3,) * ndim
    layer = linen.Conv(64, size, kernel_init=init) if ndim else linen.Dense(64, kernel_init=init)
    kernels = [layer.init(jax.random.key(0), x)["params"]["kernel"]]
    rngs = nnx.Rngs(0)
    made = (
        nnx.Conv(8, 64, size, kernel_init=init, rngs=rngs) if ndim else nnx.Linear(8, 64, kernel_init=init, rngs=rngs)
    )
    kernels.append(made.kernel[...])

    def w_init(shape, dtype):
        return init(hk.next_rng_key(), shape, dtype)

    net = hk.transform(lambda x: (hk.ConvND(ndim, 64, 3, w_init=w_init) if ndim else hk.Linear(64, w_init=w_init))(x))
    kernels += [layer["w"] for layer in net.init(jax.random.key(0), x).values()]
    key, first = jax.random.key(0), initializers.corner_weighted(0.0, in_axis=1, out_axis=0)
    weight = (eqx.nn.Conv(ndim, 8, 64, 3, key=key) if ndim else eqx.nn.Linear(8, 64, key=key)).weight
    kernels.append(jnp.moveaxis(first(key, weight.shape, weight.dtype), (0, 1), (-1, -2)))
    assert len(kernels) == 4
    for kernel in kernels:
        energy = np.asarray(kernel**2).sum(tuple(range(ndim))).mean()
        assert kernel.shape == (*size, 8, 64)
        assert np.count_nonzero(kernel) == 2**ndim * 8 * 64
        assert abs(energy - 2 / 8) < 5 * (2 / 8) * np.sqrt(2 / (2**ndim * 8 * 64))


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
        (lambda: initializers.flat(scale=-1.0).variance((3, 1, 1)), "`scale` positive"),
        (lambda: initializers.flat(in_axis=3).variance((3, 1, 1)), "axes of the kernel"),
        (lambda: initializers.flat(in_axis=0, out_axis=-3).variance((3, 1, 1)), "must differ"),
    ],
)
def test_bad_arguments_are_refused_with_a_lesson(build, says):
    with pytest.raises(KernelError, match=says):
        build()
