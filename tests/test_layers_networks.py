"""Networks of stacks: what they compute, which transformations they bear, and their gradients against the closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erfjax.agreement import compare
from erfjax.errors import LayoutError
from erfjax.layers import Activation, AvgPool, Conv, Dropout, Identity, MaxPool, SparseConv
from erfjax.readings.empirical import empirical
from erfjax.readings.theoretical import theoretical

C = Conv(3)
RELU = Activation("relu")
STACKS = {
    "strided": Conv((3, 5), stride=(1, 2), dilation=(2, 1)) * RELU * Conv(2, padding="VALID"),
    "residual": (Identity() + 0.5 * C * RELU * C) ** 2 * AvgPool(2),
    "pooled": Conv(3, padding=((0, 2), (1, 0))) * MaxPool(3, stride=2) * AvgPool(3, stride=1, padding="VALID"),
    "sparse": SparseConv((5, 7), count=4, stride=(2, 1)) * Conv(weights=[[0.0, 1.0], [2.0, -1.0]]) * Dropout(0.5),
    "1d": (Conv((3,), dilation=2) + Conv((4,))) * MaxPool((2,)),
    "3d": Conv((3, 1, 2), stride=(1, 2, 1)) * Activation("tanh") * SparseConv((2, 3, 2), count=5),
}
IMAGES = {1: (13,), 2: (11, 14), 3: (6, 7, 5)}


def image(stack, channels=2, batch=2, dtype=None):
    shape = (batch, *IMAGES[stack.ndim], channels)
    return jax.random.normal(jax.random.key(7), shape, dtype or jnp.zeros(()).dtype)


@pytest.mark.parametrize("name", STACKS)
def test_networks_run_and_give_the_shape_they_promise(name, precision):
    stack = STACKS[name]
    f = stack.network(jax.random.key(0), width=6, in_channels=2, out_channels=4)
    x = image(stack)
    y = jax.jit(f)(x)
    assert y.shape == (2, *stack.theoretical(IMAGES[stack.ndim]).output_shape, 4)
    assert y.dtype == precision
    assert jnp.isfinite(y).all()
    assert jax.eval_shape(f, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", STACKS)
def test_the_mask_is_the_support_of_the_jacobian(name):
    """With positive weights and inputs nothing cancels, and no gate closes; a max-pool is averaged over inputs."""
    stack = STACKS[name]
    shape = IMAGES[stack.ndim]
    f = stack.network(jax.random.key(0), width=2, in_channels=1, out_channels=1, init=_positive)
    for unit in (tuple(0 for _ in shape), None):
        field = stack.theoretical(shape, unit)
        at = (0, *field.unit)
        gradient = jax.jit(jax.vmap(jax.grad(lambda x, at=at: f(x)[at].sum())))
        xs = jax.random.uniform(jax.random.key(1), (100, 1, *shape, 1), minval=0.1)
        seen = np.abs(np.asarray(gradient(xs))).sum(axis=(0, 1, -1)) > 0
        kernel_has_zero = "sparse" in name  # its fixed kernel has one tap that is zero, so it sees less than its window
        assert not (seen & ~field.mask()).any()
        assert kernel_has_zero or (seen == field.mask()).all()
        box = tuple(slice(a, b) for a, b in zip(*field.clipped, strict=True))
        inside = np.zeros(shape, bool)
        inside[box] = True
        assert not (field.mask() & ~inside).any()


def _positive(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, minval=0.01, maxval=0.02)


@pytest.mark.parametrize("name", STACKS)
def test_the_trace_of_a_network_sees_what_the_stack_says(name):
    stack = STACKS[name]
    f = stack.network(jax.random.key(0), width=2, in_channels=1)
    for shape in (None, IMAGES[stack.ndim]):
        said = stack.theoretical(shape)
        x = jax.ShapeDtypeStruct((1, *said.image_shape, 1), jnp.float32)
        seen = theoretical(f, x, layout={1: "NWC", 2: "NHWC", 3: "NDHWC"}[stack.ndim])
        for fact in ("unit", "output_shape", "start", "stop", "stride", "padding", "clipped", "shift_invariant"):
            assert getattr(said, fact) == getattr(seen, fact), fact
        assert np.array_equal(said.mask(), seen.mask())


def test_weights_are_a_pytree_of_one_kernel_per_convolution():
    stack = (Identity() + Conv((3, 5)) * RELU * C) * AvgPool(2) * SparseConv(5, count=4)
    params = jax.eval_shape(lambda key: stack.init(key, width=8, in_channels=3, out_channels=2), jax.random.key(0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert shapes == [
        (1, 1, 3, 8),
        (3, 5, 3, 8),
        (3, 3, 8, 8),
        (4, 8, 2),
    ]  # the identity is projected to eight channels


def test_he_weights_keep_the_signal():
    """q' = q behind each convolution and its gate; five standard errors of 64 draws."""
    stack = (C * RELU) ** 3 * C
    f = stack.sampler(width=64)
    x = jax.random.normal(jax.random.key(0), (1, 12, 10, 3))
    keys = jax.random.split(jax.random.key(1), 64)
    energy = jax.jit(lambda keys: jax.lax.map(lambda key: jnp.mean(f(key, x)[:, 4:-4, 4:-4] ** 2), keys))(keys)
    expected = float(jnp.mean(x**2))
    assert abs(float(energy.mean()) - expected) < 5 * float(energy.std()) / 8


def test_sparse_convolution_is_the_dense_one_with_zeros():
    sparse = SparseConv((4, 5), count=6, stride=(2, 1), padding=((1, 2), (0, 3)))
    x = image(sparse, channels=3)
    params = sparse.init(jax.random.key(0), width=5, in_channels=3)
    taps = np.zeros((4, 5, 3, 5), np.float32)
    taps[tuple(np.transpose(sparse.positions()))] = params["kernel"]
    dense = Conv((4, 5), stride=(2, 1), padding=((1, 2), (0, 3)))
    expected = dense.apply({"kernel": jnp.asarray(taps)}, x, width=5)
    np.testing.assert_allclose(sparse.apply(params, x, width=5), expected, rtol=1e-4, atol=1e-5)


def test_networks_bear_grad_vmap_and_keys():
    stack = (Identity() + C * RELU) ** 2 * Dropout(0.5)
    x = image(stack, channels=4)
    f = stack.sampler(width=4)
    keys = jax.random.split(jax.random.key(0), 3)
    y = jax.jit(jax.vmap(f, in_axes=(0, None)))(keys, x)
    np.testing.assert_allclose(y[1], jax.jit(f)(keys[1], x), rtol=1e-4, atol=1e-5)
    assert not np.allclose(y[0], y[1])
    assert hash(f) == hash(stack.sampler(width=4))
    assert f == stack.sampler(width=4)
    params = stack.init(keys[0], width=4, in_channels=4)
    gradient = jax.eval_shape(jax.grad(lambda p: jnp.sum(stack.apply(p, x, width=4) ** 2)), params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    network = stack.network(keys[0], width=4, in_channels=4)
    assert float(jnp.mean(jax.jit(network)(x) == 0)) < 0.01
    assert float(jnp.mean(jax.jit(network)(x, key=keys[1]) == 0)) == pytest.approx(0.5, abs=0.05)


def test_uniform_weights_average():
    f = (C**2).network(jax.random.key(0), init="uniform", in_channels=2, width=7)
    x = jnp.full((1, 9, 8, 2), 3.0)
    np.testing.assert_allclose(f(x)[0, 4, 4], 3.0, rtol=1e-6)


def test_pictures_of_integers_and_numpy_arrays_are_fine():
    f = C.network(jax.random.key(0), width=4, in_channels=3)
    picture = np.random.default_rng(0).integers(0, 256, (1, 6, 7, 3)).astype(np.uint8)
    expected = f(jnp.asarray(picture, jnp.float32))
    for x in (picture, picture.astype(np.float64), jnp.asarray(picture)):
        assert np.array_equal(f(x), expected)
    assert (C**2).sampler(width=4)(jax.random.key(0), picture).dtype == jnp.float32


def test_wrong_inputs_are_refused_with_a_lesson():
    f = C.network(jax.random.key(0), in_channels=3)
    with pytest.raises(LayoutError, match="NHWC"):
        f(jnp.ones((8, 9, 3)))
    with pytest.raises(LayoutError, match="3 channels"):
        f(jnp.ones((1, 8, 9, 1)))
    with pytest.raises(ValueError, match="`params` are not of this stack"):
        (C**2).apply({"kernel": jnp.ones((3, 3, 1, 1))}, jnp.ones((1, 8, 9, 1)))


# Gradients of random networks against the closed form

MEASURED = {
    "relu": (C * RELU * C * RELU, {}),
    "strided": (Conv((3, 5), stride=(1, 2)) * Conv(3, dilation=(2, 1)), {"init": "glorot"}),
    "residual": ((Identity() + C * RELU * C) ** 2, {}),
    "average": (Conv((3,)) * AvgPool((3,), stride=2) * Conv((3,)) * AvgPool((3,), stride=1), {}),
    "words": ((Identity() + Conv((3,)) * Conv(weights=[1.0, -2.0, 0.5])) ** 2, {}),
    "dropout": (AvgPool(3, stride=1) * Dropout(0.3) * AvgPool((1, 3), stride=1) * C, {}),
    "sparse": (SparseConv((5, 7), count=5) * C, {}),
    "maximum": (C * MaxPool(2) * C, {}),
}


VALID = Conv(3, padding="VALID")


def fifteen(**special):
    """Fifteen unpadded layers 3 x 3, those given as `at5=...` of another stride or dilation."""
    return math.prod((special.get(f"at{i}", VALID) for i in range(1, 16)), start=Identity())


@pytest.mark.parametrize(
    ("stack", "size", "sigma"),
    [
        (fifteen(**{f"at{4 * i}": Conv(3, dilation=2**i, padding="VALID") for i in (1, 2, 3)}), 53, 8.0),
        (fifteen(**{f"at{5 * i}": Conv(3, stride=2, padding="VALID") for i in (1, 2, 3)}), 71, 8.37),
        pytest.param(
            fifteen(**{f"at{4 * i}": Conv(3, stride=2, padding="VALID") for i in (1, 2, 3)}),
            105,
            13.56,
            marks=pytest.mark.slow,
        ),
        pytest.param((Identity() + C * RELU * C) ** 7, 29, math.sqrt(7 * 0.5 * 2 * 2 / 3), marks=pytest.mark.slow),
    ],
    ids=["dilated", "strided late", "strided early", "residual"],
)
def test_fields_of_strided_dilated_and_residual_networks_are_measured(stack, size, sigma):
    """σ² = Σ (j d)² (k² - 1)/12 of a chain, n p m Var X of residual blocks: exact in closed form, measured within 5 %."""
    settings = {"width": 16, "in_channels": 3}
    field = stack.analytic(**settings)
    assert stack.theoretical().size == (size, size)
    assert field.sigma() == pytest.approx((sigma, sigma), abs=0.005)
    inputs = lambda key: jax.random.normal(key, (1, *field.map.shape, 3))  # noqa: E731
    measured = empirical(stack.sampler(**settings), inputs, key=jax.random.key(3), samples=200, progress=False)
    for name in ("sigma", "luo"):
        ratio = compare(field, measured).size(name)
        assert abs(ratio.value - 1) < min(0.05, 5 * ratio.stderr)


def measure(stack, field, samples, **settings):
    """E[g²] at the field's unit with standard errors, by plain JAX over fresh weights and inputs."""
    f = stack.sampler(**settings)
    shape, at = (1, *field.theoretical.image_shape, 2), (0, *field.unit)

    def square(key):
        x, weights = jax.random.split(key)
        g = jax.grad(lambda x: f(weights, x)[at].sum())(jax.random.normal(x, shape))
        return jnp.sum(g[0] ** 2, -1)

    maps = jax.jit(lambda keys: jax.lax.map(square, keys))(jax.random.split(jax.random.key(5), samples))
    maps = np.asarray(maps, np.float64)
    return maps.mean(0), maps.std(0) / np.sqrt(samples)


@pytest.mark.parametrize("name", MEASURED)
def test_gradients_of_random_networks_follow_the_closed_form(name):
    """Every pixel within five standard errors, and all of them together."""
    stack, options = MEASURED[name]
    settings = {"width": 32, "in_channels": 2, **options}
    field = stack.analytic(**settings)
    mean, error = measure(stack, field, 300, **settings)
    assert np.array_equal(mean > 0, field.map > 0)
    z = (mean - field.map)[error > 0] / error[error > 0]
    assert np.abs(z).max() < 5
    assert np.sqrt(np.mean(z**2)) < 2


LINE = Conv((3,), padding="VALID")
BENT = {
    "plain": (LINE * RELU) ** 3,
    "strided": Conv((3,), stride=2, padding="VALID") * RELU * Dropout(0.3) * LINE * RELU * Dropout(0.3),
    "residual": (Identity() + Conv((3,)) * RELU * Conv((3,))) ** 2 * RELU,
    "averaged": LINE * RELU * LINE * RELU * AvgPool((2,)),
    "softplus": (LINE * Activation("softplus")) ** 2,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("residual", "softplus") else ()) for n in BENT]
)
def test_summed_channels_behind_a_nonlinearity_are_measured(name):
    """Sums over pixels, plain and weighted with the squared distance, within five standard errors; so for random signs."""
    stack, settings = BENT[name], {"width": 64, "in_channels": 64}
    closed = {channels: stack.analytic(channels=channels, **settings) for channels in ("sum", "random-signs")}
    field = closed["sum"]
    f, at = stack.sampler(**settings), (0, *field.unit)
    distances = (np.arange(field.map.size) - (field.map.size - 1) / 2) ** 2

    def energies(key):
        x, weights, signs = jax.random.split(key, 3)
        y, pullback = jax.vjp(lambda x: f(weights, x)[at], jax.random.normal(x, (1, *field.map.shape, 64)))
        rows = jnp.stack([jnp.ones_like(y), jax.random.rademacher(signs, y.shape, y.dtype)])
        return jnp.sum(jax.vmap(lambda row: pullback(row)[0][0])(rows) ** 2, -1)

    run = jax.jit(lambda keys: jax.lax.map(energies, keys, batch_size=50))
    samples = np.asarray(run(jax.random.split(jax.random.key(2), 1000)), np.float64)
    for i, channels in enumerate(closed):
        for weights in (np.ones_like(distances), distances):
            each = samples[:, i] @ weights / (closed[channels].map @ weights)
            assert abs(each.mean() - 1) < 5 * each.std() / math.sqrt(len(each)), channels
    assert field.map.sum() > 1.1 * closed["random-signs"].map.sum()


def test_three_layers_are_measured_as_they_are_asked_about():
    """Three unpadded layers of width 32 on three channels: summed channels have 1.23 times the total, and a narrower field."""
    stack, inputs = (VALID * RELU) ** 3, lambda key: jax.random.normal(key, (1, 7, 7, 3))
    closed = {channels: stack.analytic(channels=channels) for channels in ("sum", "random-signs")}
    assert closed["sum"].map.sum() / closed["random-signs"].map.sum() == pytest.approx(1.23, abs=0.005)
    for channels, field in closed.items():
        ask = {"samples": 800, "channels": channels, "progress": False}
        measured = empirical(stack.sampler(), inputs, key=jax.random.key(3), **ask)
        ratio = compare(field, measured).size("sigma")
        assert abs(ratio.value - 1) < 5 * ratio.stderr < 0.02
        totals = measured.batches.reshape(len(measured.batches), -1).sum(axis=1) / field.map.sum()
        assert abs(totals.mean() - 1) < 5 * totals.std(ddof=1) / math.sqrt(len(totals))


@pytest.mark.slow
def test_twenty_layers_are_measured_as_they_are_asked_about():
    """Of width 16: the relative error of infinite width, about depth / width of a gradient's variance, is in the errors."""
    stack, settings = VALID**20, {"width": 16, "in_channels": 3, "activation": "relu"}
    for channels in ("sum", "random-signs"):
        closed = stack.analytic(channels=channels, **settings)
        inputs = lambda key, shape=closed.map.shape: jax.random.normal(key, (1, *shape, 3))  # noqa: E731
        measured = empirical(
            stack.sampler(**settings), inputs, key=jax.random.key(3), samples=300, channels=channels, progress=False
        )
        ratio = compare(closed, measured).size("sigma")
        assert abs(ratio.value - 1) < 5 * ratio.stderr
        assert abs(measured.map.sum() / closed.map.sum() - 1) < 0.3
