"""The analytic reading against closed forms, enumerated sign patterns, plain gradients and measured networks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej
from benchmarks.networks import NETWORKS
from erfjax.layers import Activation, AvgPool, Conv, Identity
from erfjax.readings.analytic import analytic, analytic_map, widths

DIMS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def conv(x, w, stride=1, padding="SAME"):
    n = w.ndim - 2
    return lax.conv_general_dilated(x, w, (stride,) * n, padding, dimension_numbers=DIMS[n])


def normal(seed, *shape, scale=1.0, dtype=None):
    dtype = dtype or jnp.zeros(()).dtype
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


def pixel_signs(key, shape, dtype=None):
    """±1/√fan-in: random weights whose squares are exactly their variance."""
    return jax.random.rademacher(key, shape).astype(dtype) / np.asarray(np.sqrt(np.prod(shape[:-1])), dtype)


def tolerance(precision):
    return {"float32": 1e-6, "float64": 1e-12}[precision]


def close(field, expected, precision):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(field, expected, rtol=0, atol=3 * tolerance(precision) * scale)


STACKS = {
    "plain": (Conv(3) ** 4, (13, 11)),
    "one axis": (Conv((5,)) ** 3, (17,)),
    "three axes": (Conv((3, 2, 3)) ** 2, (7, 6, 8)),
    "dilated": (Conv(3) * Conv(3, dilation=2) * Conv(2, dilation=3), (15, 16)),
    "strided": (Conv(3, stride=2) * Conv((3, 5)) * Conv(2, stride=(1, 2)), (19, 21)),
    "valid": (Conv(3, padding="VALID") ** 3, (9, 10)),
    "residual": ((Identity() + Conv(3) * Conv(3)) ** 2, (13, 11)),
    "scaled branch": ((Identity() + 0.5 * Conv(3)) ** 3, (11, 12)),
    "pooled": (Conv(3) * AvgPool(2) * Conv(3), (18, 16)),
    "relu": ((Conv(3) * Activation("relu")) ** 2 * Conv(3), (11, 12)),
    "leaky": ((Conv(3) * Activation(functools.partial(jax.nn.leaky_relu, negative_slope=0.25))) ** 3, (13, 11)),
}


@pytest.mark.parametrize("name", STACKS)
def test_random_stacks_equal_their_closed_form(name, precision):
    stack, shape = STACKS[name]
    f = stack.network(jax.random.key(0), width=6, in_channels=2, init=pixel_signs)
    x = jax.ShapeDtypeStruct((1, *shape, 2), jnp.zeros(()).dtype)
    layout = DIMS[len(shape)][0]
    statistic = "rms" if name == "strided" else "square"
    random = {"gates": "mean-field", "weights": "exchangeable", "channels": "random-signs"}
    field = analytic(f, x, layout=layout, statistic=statistic, **random)
    theory = stack.analytic(statistic, image_shape=shape, width=6, in_channels=2, init="lecun", channels="random-signs")
    close(field.map, theory.map, precision)


@pytest.mark.parametrize(
    "name", ["plain", "one axis", "three axes", "dilated", "strided", "valid", "residual", "pooled"]
)
def test_positive_stacks_equal_repeated_convolution(name, precision):
    stack, shape = STACKS[name]
    f = stack.network(jax.random.key(0), width=5, in_channels=2, init="uniform")
    x = normal(0, 2, *shape, 2)
    field = analytic(f, x, layout=DIMS[len(shape)][0], statistic="mean")
    theory = stack.analytic("mean", image_shape=shape, width=5, in_channels=2, init="uniform")
    close(field.map, theory.map, precision)
    assert field.coverage == "exact"


def test_signed_kernels_equal_the_cascade(precision):
    kernels = [np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -1.0, 2.0])]
    stack = Conv(weights=kernels[0]) * Conv(weights=kernels[1], stride=2)
    f = stack.network(jax.random.key(0), in_channels=3)
    x = normal(0, 1, 19, 3)
    signed = analytic(f, x, layout="NWC", statistic="mean").map / 3
    support = np.flatnonzero(signed)
    expected = ej.closed_form.cascade(kernels, strides=[1, 2])
    close(signed[support[0] : support[-1] + 1], expected, precision)
    close(analytic(f, x, layout="NWC").map / 3, signed**2, precision)  # fixed filters interfere before they are squared


@pytest.mark.parametrize("phi", [lambda z: z, jax.nn.leaky_relu, jax.nn.relu])
def test_average_over_all_sign_patterns(phi, precision):
    """All signs of all weights, each as likely: a network without approximation, in 1-D with shared weights."""
    w1, w2 = np.abs(normal(1, 2, 1, 2)) + 0.1, np.abs(normal(2, 3, 2, 1)) + 0.1
    x = np.asarray(normal(3, 1, 6, 1)) + 1.0

    def f(signs, x):
        a = signs[:4].reshape(w1.shape) * w1
        b = signs[4:].reshape(w2.shape) * w2
        return conv(phi(conv(x, a, padding="VALID")), b, padding="VALID")

    patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=10)), x.dtype)
    gradients = jax.vmap(jax.grad(lambda signs, x: f(signs, x)[0, 1, 0], argnums=1), (0, None))(
        patterns, jnp.asarray(x)
    )
    expected = np.mean(np.asarray(gradients, np.float64) ** 2, axis=0)[0, :, 0]
    field = analytic(lambda x: f(jnp.asarray(patterns[77]), x), x, unit=1, layout="NWC", gates="mean-field")
    close(field.map, expected, precision)


def everything(x):
    """A bit of every family: convolution, pooling, resizing, normalisation, attention, gating, branches."""
    y = conv(x, normal(1, 3, 3, 2, 6, scale=0.4))
    y = jax.nn.gelu(y) + 0.1 * y * jax.nn.sigmoid(conv(y, normal(2, 1, 1, 6, 6)))
    y = lax.reduce_window(y, np.array(-np.inf, y.dtype), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    y = jax.image.resize(y, (1, 7, 9, 6), "linear")
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 0.1)
    tokens = y.reshape(63, 6)
    scores = jax.nn.softmax(tokens @ tokens.T / 3, axis=-1)
    y = y + (scores @ jnp.tanh(tokens)).reshape(y.shape)
    y = jnp.concatenate([y, jnp.sort(y, axis=-1)], axis=-1)
    return conv(jnp.where(y > 0, y, 0.2 * y), normal(3, 3, 3, 12, 4, scale=0.3), 2)


def test_the_first_moment_is_the_gradient(precision):
    x = normal(0, 3, 11, 14, 2)
    field = analytic(everything, x, statistic="mean")
    gradient = jax.vmap(jax.grad(lambda x: everything(x[None])[(0, *field.unit)].sum()))(x)
    close(field.map, np.asarray(gradient, np.float64).mean(0).sum(-1), precision)
    assert field.coverage == "exact"


def test_the_second_moment_is_the_product_of_squared_jacobians(precision):
    w = [normal(i, 3, *c, scale=0.5) for i, c in enumerate([(2, 4), (4, 5), (5, 3)])]
    x = normal(9, 1, 9, 2)

    def layers(i):
        act = (lambda y: y) if i == 2 else jnp.tanh
        return lambda x: act(conv(x, w[i]))

    value, jacobians = x, []
    for i in range(3):
        jacobians.append(np.asarray(jax.jacobian(layers(i))(value), np.float64).reshape(-1, value.size))
        value = layers(i)(value)
    squares = jacobians[2] ** 2 @ jacobians[1] ** 2 @ jacobians[0] ** 2
    expected = squares.reshape(9, 3, 9, 2)[4].sum((0, -1))
    field = analytic(lambda x: layers(2)(layers(1)(layers(0)(x))), x, layout="NWC")
    close(field.map, expected, precision)
    exchangeable = analytic(lambda x: layers(2)(layers(1)(layers(0)(x))), x, layout="NWC", weights="exchangeable")
    assert exchangeable.map.sum() == pytest.approx(field.map.sum(), rel=0.5)
    assert not np.allclose(exchangeable.map, field.map)


@pytest.mark.parametrize(
    "name", ["relu", "tanh", "gelu", "relu6", "hard_tanh", "elu", "softplus", "silu", "hard_sigmoid"]
)
def test_mean_field_gates_equal_the_closed_form(name):
    phi = getattr(jax.nn, name)
    signs = jnp.sign(normal(1, 3, 2, 8)) / 2

    def net(phi):
        return lambda x: conv(phi(conv(x, signs, padding="VALID")), normal(2, 3, 8, 8), padding="VALID")

    x = jax.ShapeDtypeStruct((1, 9, 2), jnp.float32)
    with_gate, without = (analytic(net(p), x, layout="NWC", gates="mean-field").map.sum() for p in (phi, lambda z: z))
    kinked = name in ("relu6", "hard_tanh", "hard_sigmoid")
    gain = ej.closed_form.mean_field.gain(name, 1.5)  # six inputs of unit second moment, weights ±1/2
    assert with_gate / without == pytest.approx(gain, rel=1e-5 if kinked else 1e-6)


def test_mean_field_takes_the_mean_square_of_an_array():
    def f(x):
        return conv(jnp.tanh(conv(x, normal(1, 3, 2, 8))), normal(2, 3, 8, 3))

    x = jnp.full((4, 9, 2), 1.5)
    scaled = analytic(
        lambda x: f(1.5 * x) / 1.5, jax.ShapeDtypeStruct((1, 9, 2), jnp.float32), layout="NWC", gates="mean-field"
    )
    np.testing.assert_allclose(analytic(f, x, layout="NWC", gates="mean-field").map, scaled.map, rtol=1e-5)


def test_mean_field_of_normalisation_pooling_dropout_and_branches():
    """Against many random networks, fed with normal inputs."""
    keep = jax.random.bernoulli(jax.random.key(8), 0.8, (1, 8, 10, 48))

    def net(key, x):
        keys = jax.random.split(key, 4)
        y = conv(x, jax.random.normal(keys[0], (3, 3, 3, 48)) / 4)
        y = jnp.where(keep, jnp.tanh(y) / 0.8, jnp.zeros_like(y))
        y = y + conv(jax.nn.silu(y), jax.random.normal(keys[1], (3, 3, 48, 48)) / 20)
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True))
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return conv(jnp.tanh(y), jax.random.normal(keys[2], (3, 3, 48, 32)) / 20)

    x = jax.random.normal(jax.random.key(1), (64, 8, 10, 3))
    predicted = analytic(lambda x: net(jax.random.key(0), x), x, gates="mean-field", weights="exchangeable")
    measured = ej.empirical(net, x, key=jax.random.key(2), samples=192)
    comparison = ej.compare(predicted, measured)
    assert comparison.total.value == pytest.approx(1, abs=0.15)
    assert comparison.size("sigma").value == pytest.approx(1, abs=0.03)
    assert predicted.coverage == "approximate"


def relu_net(key, x, width=64):
    for _i, k in enumerate(jax.random.split(key, 3)):
        inputs = x.shape[-1]
        x = jax.nn.relu(conv(x, jax.random.normal(k, (3, inputs, width)) * np.float32(np.sqrt(2 / 3 / inputs))))
    return x


@pytest.mark.parametrize("channels", ["sum", "random-signs"])
def test_channels_summed_after_a_nonlinearity_have_a_coherent_gradient(channels):
    x = jax.random.normal(jax.random.key(1), (16, 15, 4))

    def total(key):
        return analytic_map(lambda x: relu_net(key, x), x, layout="NWC", channels=channels).sum()

    totals = np.asarray(jax.jit(jax.vmap(total))(jax.random.split(jax.random.key(0), 16)))
    measured = ej.empirical(relu_net, x, key=jax.random.key(99), samples=400, layout="NWC", channels=channels)
    error = totals.std(ddof=1) / np.sqrt(len(totals))
    noise = measured.batches.sum(1).std(ddof=1) / np.sqrt(len(measured.batches))
    assert abs(totals.mean() - measured.map.sum()) < 5 * np.hypot(error, noise)


def test_units_rows_windows_and_layouts_agree():
    x = normal(5, 3, 11, 14, 2)
    one = analytic(everything, x, unit=(2, 3))
    many = analytic(everything, x, unit=[(2, 3), (0, 4), (3, 0)])
    transposed = analytic(
        lambda x: jnp.moveaxis(everything(jnp.moveaxis(x, 0, -1)[None])[0], -1, 0),
        jnp.moveaxis(x, -1, 1)[0],
        unit=(2, 3),
        layout="CHW",
    )
    rows = [analytic(everything, row[None], unit=(2, 3)).map for row in x]
    assert [f.unit for f in many] == [(2, 3), (0, 4), (3, 0)]
    for other in (many[0].map, np.mean(rows, 0)):
        close(other, one.map, "float32")
    close(transposed.map, rows[0], "float32")


def test_a_second_call_neither_traces_nor_compiles():
    calls = []
    w = normal(0, 3, 2, 4)

    def f(x):
        calls.append(1)
        return conv(x, w)

    x = normal(1, 2, 9, 2)
    first = analytic(f, x, layout="NWC")
    traced = len(calls)
    second = analytic(f, x + 1, layout="NWC")
    assert len(calls) == traced
    np.testing.assert_array_equal(first.map, second.map)


@pytest.mark.parametrize("gates", ["data", "mean-field"])
def test_the_map_is_differentiable_and_jits(gates):
    with jax.enable_x64(True):
        x, last = normal(0, 2, 9, 11, 2), normal(2, 3, 3, 4, 5)

        @jax.jit
        def spread(w):
            return widths(analytic_map(lambda x: conv(jnp.tanh(conv(x, w)), last), x, gates=gates)).sum()

        w = normal(1, 3, 3, 2, 4)
        gradient = jax.grad(spread)(w)
        step = 1e-4 * gradient / jnp.linalg.norm(gradient)
        slope = (spread(w + step) - spread(w - step)) / 2e-4
        assert float(slope) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-6)


def test_roots_of_empty_pixels_have_finite_slopes():
    def total(w):
        return analytic_map(lambda x: jax.nn.relu(conv(x, w)), normal(0, 1, 9, 2), layout="NWC", statistic="rms").sum()

    assert jnp.isfinite(jax.grad(total)(normal(1, 3, 2, 4))).all()


def test_a_regulariser_widens_the_field_of_a_trained_network():
    """Gradient descent on a loss alone, and on the loss less the width of the field."""
    x = normal(0, 8, 15, 2)
    target = jnp.sin(x.sum(-1, keepdims=True))
    start = [normal(1, 5, 2, 8, scale=0.3), normal(2, 5, 8, 1, scale=0.3)]

    def net(w):
        return lambda x: conv(jnp.tanh(conv(x, w[0])), w[1])

    def loss(w, weight):
        width = widths(analytic_map(net(w), x, layout="NWC"))[0]
        return jnp.mean((net(w)(x) - target) ** 2) - weight * width

    def train(weight):
        step = jax.jit(lambda w: jax.tree.map(lambda a, g: a - 0.1 * g, w, jax.grad(loss)(w, weight)))
        w = start
        for _ in range(60):
            w = step(w)
        return analytic(net(w), x, layout="NWC").sigma()[0], float(loss(w, 0.0))

    (narrow, fit), (wide, regularised) = train(0.0), train(0.05)
    assert wide > 1.15 * narrow
    assert regularised < 2 * float(loss(start, 0.0))
    assert fit < float(loss(start, 0.0))


def test_an_output_that_ignores_the_input_has_an_empty_field():
    field = analytic(lambda x: jnp.ones_like(x), normal(0, 1, 5, 1), layout="NWC")
    assert not field.map.any()
    assert any("does not depend" in note for note in field.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"statistic": "abs"}, "ej.empirical"),
        ({"gates": "both"}, "mean-field"),
        ({"weights": "random"}, "exchangeable"),
        ({"channels": 3}, "output channels"),
        ({"channels": "all"}, "random-signs"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        analytic(lambda x: x, normal(0, 1, 5, 1), layout="NWC", **options)


def test_data_gates_need_data():
    with pytest.raises(ej.errors.SampleError, match="mean-field"):
        analytic(lambda x: x, jax.ShapeDtypeStruct((1, 5, 1), jnp.float32), layout="NWC")


def test_inputs_that_are_not_finite_are_refused():
    x = normal(0, 2, 5, 1)
    with pytest.raises(ej.errors.SampleError, match="not finite"):
        analytic(jax.nn.relu, x.at[1, 2, 0].set(jnp.nan), layout="NWC")


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(ej.errors.UnsupportedPrimitiveError, match="fft"):
        analytic(lambda x: jnp.fft.fft(x, axis=1).real, normal(0, 1, 5, 1), layout="NWC")
    with pytest.raises(ej.errors.DataDependentError, match="empirical"):
        analytic(lambda x: lax.cond(x.sum() > 0, lambda a: a, lambda a: 2 * a, x), normal(0, 1, 5, 1), layout="NWC")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_wide_random_networks_are_what_theory_says(name):
    """σ within 2 %, total within 5 % beyond its error, and no more total variation than sampling noise and 0.02."""
    from benchmarks import analytic as bench

    facts = bench.random_network(name, NETWORKS[name], 128).facts
    error = np.hypot(facts["± total"]["data"], facts["± total"]["measured"])
    assert facts["σ"]["data"] == pytest.approx(1, abs=0.02)
    assert facts["total"]["data"] == pytest.approx(1, abs=0.05 + 2 * error)
    assert facts["total variation"]["data"] < facts["floor"]["data"] + 0.02


@pytest.mark.slow
def test_trained_weights_are_told_from_random_ones_layer_by_layer():
    """A trained VGG16: every layer fails the test of independence, and its field is indeed narrower than predicted."""
    from benchmarks import analytic as bench

    try:
        blocks = bench.vgg_weights()
    except ej.errors.MissingDependencyError as error:
        pytest.skip(str(error))
    f, crops = functools.partial(bench.vgg, blocks, (3, 3)), bench.photographs(bench.CROPS, 48)
    predicted = analytic(f, crops, channels="random-signs")
    (line,) = [note for note in predicted.notes if "no independent draws" in note]
    assert "in 7 of 7 layers" in line
    assert "conv1_1 (neighbours, p" in line
    sigma = ej.compare(ej.empirical(f, crops, channels="random-signs"), predicted).size("sigma")
    assert sigma.value == pytest.approx(1.25, abs=0.1)
