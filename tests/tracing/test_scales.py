"""Second moments whatever the scale and the precision: exponents, half precision, infinite slopes, sums that are constant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.errors import MapError
from erfjax.readings.analytic import analytic
from erfjax.tracing.second_moments.scaled import Scaled, unscaled
from tests.tracing.test_moments import W1, W2, W3, X, conv, layer_norm, weight

read = functools.partial(analytic, layout="NWC", channels="random-signs")


def signs(scale, layers, phi=lambda y: y, dtype=jnp.float32):
    """Three taps ±scale per layer: the squared weights of any scale are those of scale 1 but for a factor."""
    rng = np.random.default_rng(0)
    mixed = np.array([scale, scale, -scale]).reshape(3, 1, 1)  # taps of one sign would be a filter
    kernels = [jnp.asarray(rng.permutation(mixed), dtype) for _ in range(layers)]
    return lambda x: functools.reduce(lambda y, w: phi(conv(y, w)), kernels, x)


@pytest.mark.parametrize("gates", ["data", "mean-field"])
@pytest.mark.parametrize("scale", [1.0, 0.072, 1e-4, 1e4])
def test_sizes_do_not_depend_on_the_scale_of_the_weights(scale, gates, precision):
    x = np.ones((1, 64, 1), precision)
    field = read(signs(scale, 20, dtype=jnp.dtype(precision)), x, gates=gates)
    assert field.sigma()[0] == pytest.approx(np.sqrt(20 * 2 / 3), rel=1e-5)  # 3.6515
    assert field.map.sum() == pytest.approx((3 * scale**2) ** 20, rel=1e-4)


@pytest.mark.parametrize("phi", [jax.nn.relu, jnp.tanh, jax.nn.relu6])
def test_variances_of_mean_field_neither_under_nor_overflow(phi):
    """Where activations are tiny tanh is the identity, and every other of the three passes half of them."""
    field = read(signs(1e-5, 12, phi), np.ones((1, 41, 1), np.float32), gates="mean-field")
    passed = 1.0 if phi is jnp.tanh else 0.5
    assert field.map.sum() == pytest.approx((3 * 1e-10 * passed) ** 12, rel=1e-4)
    assert field.sigma()[0] == pytest.approx(np.sqrt(12 * 2 / 3), rel=1e-4)


def test_the_coherent_part_has_exponents_too():
    small, large = (lambda x, s=s: jax.nn.relu(conv(jax.nn.relu(conv(x, s * W1)), s * W2)) for s in (1e-9, 1.0))
    one, other = (analytic(f, X, layout="NWC") for f in (small, large))
    np.testing.assert_allclose(one.map * 1e36, other.map, rtol=1e-4)


def test_beyond_double_precision_is_an_error_and_no_dead_unit():
    x = np.ones((1, 9, 1), np.float32)
    with pytest.raises(MapError, match="beyond the range of double precision"):
        read(signs(1e-30, 6), x)
    assert any("dead" in note for note in read(lambda x: jax.nn.relu(signs(1.0, 2)(x) - 100), x).notes)


def test_scaled_arrays_compute_as_plain_ones(precision):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(3, 4)), precision) for _ in range(2))
    one, two = Scaled.of(a, -300), Scaled.of(b, -301)
    rtol = 1e-6 if precision == "float32" else 1e-14

    def check(found, expected, power):
        np.testing.assert_allclose(
            unscaled(np.asarray(found.digits), np.asarray(found.exponent)), np.ldexp(expected, power), rtol
        )

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    check(one + two, a + b / 2, -300)
    check(one - two, a - b / 2, -300)
    check(one * two, a * b, -601)
    check(one / two, a / b, 1)
    check(one.power(2).root(), np.abs(a), -300)
    check(two.power(2).root(), np.abs(b), -301)
    zero = Scaled.of(jnp.zeros((3, 4), precision))
    check(one + zero, a, -300)
    assert not (zero * Scaled.of(jnp.full((3, 4), jnp.inf, precision))).digits.any()


HALVES = {
    "bfloat16": lambda x: conv(
        jax.nn.gelu(conv(x.astype(jnp.bfloat16), W1.astype(jnp.bfloat16))), W2.astype(jnp.bfloat16)
    ),
    "float16 inside": lambda x: conv(
        jax.nn.gelu(conv(x.astype(jnp.float16), W1.astype(jnp.float16))).astype(jnp.float32), W2
    ),
    "accumulated in float32": lambda x: conv(
        jax.nn.gelu(
            jax.lax.conv_general_dilated(
                x.astype(jnp.bfloat16),
                W1.astype(jnp.bfloat16),
                (1,),
                "SAME",
                dimension_numbers=("NWC", "WIO", "NWC"),
                preferred_element_type=jnp.float32,
            )
        ),
        W2,
    ),
    "dense, accumulated in bfloat16": lambda x: jnp.matmul(
        jax.nn.gelu(conv(x, W1)).astype(jnp.bfloat16), W2[1].astype(jnp.bfloat16), preferred_element_type=jnp.bfloat16
    ),
}


@pytest.mark.parametrize("gates", ["data", "mean-field"])
@pytest.mark.parametrize("name", HALVES)
def test_half_precision_agrees_with_single_within_its_rounding(name, gates):
    whole = (
        (lambda x: jax.nn.gelu(conv(x, W1)) @ W2[1])
        if "dense" in name
        else lambda x: conv(jax.nn.gelu(conv(x, W1)), W2)
    )
    half, single = (read(f, X, gates=gates).map for f in (HALVES[name], whole))
    np.testing.assert_allclose(half, single, rtol=0.03)
    seen = single > 0
    assert np.abs(half[seen] / single[seen] - 1).max() > 1e-6  # it is another computation


def test_infinite_slopes_behind_closed_gates_pass_nothing():
    def f(x):
        return jnp.sqrt(jax.nn.relu(conv(x, W1[:, :, :1])))

    x = weight(19, 8, 13, 4, scale=1.0)
    field = read(f, x)
    gradient = jax.vmap(jax.grad(lambda x: f(x[None])[0, 6, 0]))(x)
    open_rows = np.asarray(jax.vmap(lambda x: f(x[None])[0, 6, 0])(x)) > 0
    assert open_rows.any()
    assert not open_rows.all()
    np.testing.assert_allclose(field.map, np.square(np.asarray(gradient, np.float64)).sum(-1).mean(0), rtol=1e-5)


def test_an_infinite_slope_at_an_open_gate_is_refused_and_the_remedy_helps():
    def f(x):
        return jnp.sqrt(conv(x, W1))

    with pytest.raises(MapError, match=r"slope of `sqrt`.*infinite.*jnp\.sqrt\(y \+ 1e-6\)"):
        read(f, np.zeros((1, 9, 4), np.float32))
    assert read(lambda x: jnp.sqrt(conv(x, W1) + 1e-6), np.zeros((1, 9, 4), np.float32)).map.any()


def test_an_activation_that_is_no_number_is_refused():
    with pytest.raises(MapError, match="not finite"):
        read(signs(1e4, 12, jax.nn.relu), np.ones((1, 41, 1), np.float32))


CONSTANT = {
    "softmax": lambda x: jax.nn.softmax(conv(x, W1.astype(x.dtype))),
    "layer norm": lambda x: layer_norm(conv(jax.nn.relu(conv(x, W1.astype(x.dtype))), W2.astype(x.dtype))),
    "centred": lambda x: (lambda y: y - y.mean(-1, keepdims=True))(jax.nn.log_softmax(conv(x, W1.astype(x.dtype)))),
    "weights that sum to zero": lambda x: (lambda w: conv(x, w - w.mean(-1, keepdims=True)))(W1.astype(x.dtype)),
}
TRUE = {
    "softmax and a small signal": lambda x: jax.nn.softmax(conv(x, W1)) + 1e-4 * conv(x, W2[:, :4]),
    "relu": lambda x: jax.nn.relu(conv(jax.nn.relu(conv(x, W1)), W2)),
    "layer norm inside": lambda x: conv(layer_norm(conv(x, W1)), W3),
    "average at the end": lambda x: jax.nn.relu(conv(x, W1)).mean(1, keepdims=True) + jnp.zeros((1, 13, 1)),
}


def is_flagged(field):
    return any("is constant" in note and "random-signs" in note for note in field.notes)


@pytest.mark.parametrize("name", CONSTANT)
def test_a_sum_of_channels_that_is_constant_is_noted(name, precision):
    x = jnp.asarray(X, precision)
    assert is_flagged(ej.empirical(CONSTANT[name], x, layout="NWC"))
    assert is_flagged(analytic(CONSTANT[name], x, layout="NWC"))
    assert not is_flagged(ej.empirical(CONSTANT[name], x, layout="NWC", channels="random-signs"))
    assert not is_flagged(read(CONSTANT[name], x))


def test_half_precision_hides_no_constant():
    x = jnp.asarray(X, jnp.bfloat16)
    assert is_flagged(analytic(CONSTANT["softmax"], x, layout="NWC"))
    assert not is_flagged(analytic(lambda x: jax.nn.relu(conv(x, W1.astype(x.dtype))), x, layout="NWC"))


@pytest.mark.parametrize("name", TRUE)
def test_a_true_gradient_is_not_called_rounding(name):
    assert not is_flagged(ej.empirical(TRUE[name], X, layout="NWC"))


def test_the_state_that_a_recurrence_begins_with_is_no_silent_branch():
    gate, kept = W1[1], weight(7, 4, 6)

    def f(x, start):
        state, steps = start, []
        for t in range(5):
            state = jax.nn.sigmoid(x[:, t] @ gate) * state + x[:, t] @ kept
            steps.append(state)
        return jnp.stack(steps, axis=1)

    assert not any("silent" in note for note in read(lambda x: f(x, jnp.zeros((1, 6))), X[:, :5], unit=4).notes)


def test_only_the_same_weights_are_called_shared():
    """Sign matrices have one size, one sum of squares and one maximum."""
    rng = np.random.default_rng(0)
    a, b, c = (jnp.asarray(rng.choice([-1.0, 1.0], (6, 6)), jnp.float32) for _ in range(3))

    def shared(*weights):
        notes = read(lambda x: functools.reduce(lambda y, w: jax.nn.relu(y @ w), weights, conv(x, W1)), X).notes
        return any("used more than once" in note for note in notes)

    assert not shared(a, b, c)
    assert shared(a, b, a)
    assert shared(a, b, jnp.array(np.asarray(a)))
    assert shared(a, a.T)


def test_a_measurement_of_tiny_gradients_loses_no_pixel():
    """Fourteen layers reach 29 pixels, also where the gradients are below the normal numbers of single precision."""
    rng = np.random.default_rng(0)
    taps = [rng.normal(size=(3, 1, 1)) for _ in range(14)]

    def measured(scale):
        kernels = [jnp.asarray(scale * w, jnp.float32) for w in taps]
        f = lambda x: functools.reduce(conv, kernels, x)  # noqa: E731
        return ej.empirical(f, np.ones((1, 41, 1), np.float32), layout="NWC").map

    one, tiny = measured(1.0), measured(1e-3)
    assert np.count_nonzero(tiny) == np.count_nonzero(one) == 29
    np.testing.assert_allclose(tiny * 1e84, one, rtol=1e-4)
