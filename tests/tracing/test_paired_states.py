"""Mean field of two positions against loops over pairs with a quadrature of their own, and against fresh networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.stats import multivariate_normal

import erfjax as ej
from erfjax.measures import total_variation

BLUR = np.array([1.0, 2.0, 1.0]) / 4
LENGTH = 11
SPEC = jax.ShapeDtypeStruct((1, LENGTH, 4), jnp.float32)
MEAN_FIELD = {"gates": "mean-field", "weights": "exchangeable", "channels": "random-signs", "layout": "NWC"}


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x, w, (stride,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def weights(key, *shape):
    return jax.random.normal(jax.random.key(key), shape) * np.sqrt(2 / np.prod(shape[:-1]))


def blurred(x):
    taps = jnp.tile(jnp.asarray(BLUR, x.dtype)[:, None, None], (1, 1, x.shape[-1]))
    return lax.conv_general_dilated(
        x, taps, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=x.shape[-1]
    )


def network(phi, kernels):
    """Kernels with a nonlinearity and a blur between any two."""

    def f(x):
        for w in kernels[:-1]:
            x = blurred(phi(conv(x, w)))
        return conv(x, kernels[-1])

    return f


def windows(taps):
    """The matrix of a window of three taps with zeros around, results x operands."""
    return sum(w * np.eye(LENGTH, k=k) for k, w in zip((-1, 0, 1), taps, strict=True))


def by_loops(moments, kernels, unit):
    """E g², summed over the input's channels; `moments` gives E φ φ' and E φ'φ'' of all pairs with these second moments."""
    fixed, gates = windows(BLUR), []
    second = np.eye(LENGTH)
    for w in kernels[:-1]:
        taps = np.square(w).mean((1, 2)) * w.shape[1]
        shifts = [np.eye(LENGTH, k=k) for k in (-1, 0, 1)]
        values, slopes = moments(sum(v * s @ second @ s.T for v, s in zip(taps, shifts, strict=True)))
        gates.append(slopes)
        second = fixed @ values @ fixed.T
    k = np.zeros((LENGTH, LENGTH))
    k[unit, unit] = 1
    for i, w in enumerate(reversed(kernels)):
        if i:
            k = fixed.T @ k @ fixed * gates.pop()
        taps = np.square(w).mean((1, 2)) * w.shape[2]
        shifts = [np.eye(LENGTH, k=k) for k in (-1, 0, 1)]
        k = sum(v * s.T @ k @ s for v, s in zip(taps, shifts, strict=True))
    return np.diagonal(k) * kernels[0].shape[1]


def by_quadrature(phi):
    """The moments of pairs by Gauss-Hermite nodes in two dimensions."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(100)
    mass = mass / mass.sum()
    slope = jax.vmap(jax.grad(phi))

    def moments(second):
        values, slopes = np.zeros_like(second), np.zeros_like(second)
        for p, q in np.ndindex(second.shape):
            a, b = np.sqrt(second[p, p]), np.sqrt(second[q, q])
            rho = second[p, q] / (a * b)
            one = a * np.repeat(nodes, len(nodes))
            two = b * (rho * np.repeat(nodes, len(nodes)) + np.sqrt(max(0, 1 - rho**2)) * np.tile(nodes, len(nodes)))
            weight = np.outer(mass, mass).ravel()
            one, two = jnp.asarray(one, jnp.float32), jnp.asarray(two, jnp.float32)
            values[p, q] = np.sum(weight * np.asarray(phi(one), np.float64) * np.asarray(phi(two), np.float64))
            slopes[p, q] = np.sum(weight * np.asarray(slope(one), np.float64) * np.asarray(slope(two), np.float64))
        return values, slopes

    return moments


@pytest.mark.parametrize("phi", [jnp.tanh, jax.nn.gelu])
def test_smooth_gates_of_pairs_are_those_of_a_quadrature(phi):
    kernels = [weights(i, 3, *shape) for i, shape in enumerate([(4, 6), (6, 5), (5, 3)])]
    field = ej.analytic(network(phi, kernels), SPEC, unit=4, **MEAN_FIELD)
    assert field.metadata["positions"] == "together"
    assert field.coverage == "exact"
    expected = by_loops(by_quadrature(phi), list(map(np.asarray, kernels)), 4)
    np.testing.assert_allclose(field.map, expected, rtol=2e-5, atol=1e-7 * expected.max())


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_jumps_of_pairs_are_quadrant_probabilities(shift):
    """A shifted ReLU is expanded, its tail beyond the last term estimated; without a shift it is an arc-cosine kernel."""
    kernels = [weights(i, 3, 4, 4) for i in range(2)]
    field = ej.analytic(network(lambda z: jax.nn.relu(z + shift), kernels), SPEC, unit=4, **MEAN_FIELD)

    def moments(second):
        slopes = np.zeros_like(second)
        for p, q in np.ndindex(second.shape):
            both = second[np.ix_([p, q], [p, q])] + 1e-9 * np.eye(2) * (p != q)
            at = shift / np.sqrt(second[p, p])
            slopes[p, q] = (
                multivariate_normal.cdf([at], cov=[[1.0]])
                if p == q
                else multivariate_normal.cdf([shift, shift], mean=[0, 0], cov=both)
            )
        return second, slopes

    expected = by_loops(moments, list(map(np.asarray, kernels)), 4)
    np.testing.assert_allclose(field.map, expected, rtol=1e-5 if not shift else 2e-3)


def test_fresh_networks_meet_it_where_positions_apart_do_not():
    kernels = [weights(i, 3, 48, 48) for i in range(3)]
    f, x = network(jax.nn.relu, kernels), jax.random.normal(jax.random.key(9), (400, LENGTH, 48))
    measured = ej.empirical(
        ej.redraw(f), x, key=jax.random.key(8), samples=400, channels="random-signs", layout="NWC", progress=False
    )
    together, apart = (ej.analytic(f, x, positions=how, **MEAN_FIELD) for how in ("together", "apart"))
    low, high = measured.interval("total", 0.999)
    assert 0.97 * low < together.map.sum() < 1.03 * high
    assert apart.map.sum() < 0.8 * measured.map.sum()
    assert total_variation(together.normalised(), measured.normalised()) < 0.02


def test_a_skip_around_a_nonlinearity_that_random_sums_enter_is_exact_and_a_sum_of_activations_is_not():
    w, v, u = weights(0, 3, 4, 4), weights(1, 3, 4, 4), weights(2, 3, 4, 4)

    def before(x):
        x = conv(x, w)
        return conv(jax.nn.relu(blurred(x + conv(blurred(jax.nn.relu(x)), v))), u)

    def behind(x):
        x = jax.nn.relu(conv(x, w))
        return conv(jax.nn.relu(blurred(x + conv(x, v))), u)

    options = {**MEAN_FIELD, "positions": "together"}
    assert ej.analytic(before, SPEC, **options).coverage == "exact"
    field = ej.analytic(behind, SPEC, **options)
    assert field.coverage == "approximate"
    assert any("taken as normal" in note and "custom_jvp" in note for note in field.notes)


@pytest.mark.parametrize("steered", [False, True])
def test_what_has_no_rule_is_named_and_left_to_positions_apart(steered):
    w = weights(0, 3, 4, 4)

    def f(x):
        x = conv(x, w)
        x = x * jax.nn.sigmoid(x.mean(1, keepdims=True)) if steered else lax.cummax(x, 1)
        return conv(blurred(jax.nn.relu(x)), w)

    with pytest.raises(ej.errors.DataDependentError, match=r'pairs of positions at .*gates="data"'):
        ej.analytic(f, SPEC, positions="together", **MEAN_FIELD)
    if steered:
        assert ej.analytic(f, SPEC, **MEAN_FIELD).metadata["positions"] == "apart"


def test_two_ways_over_different_nonlinearities_are_refused():
    w = weights(0, 3, 4, 4)

    def f(x):
        x = conv(x, w)
        return blurred(jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], -1)) @ jnp.ones((8, 1)) / 8

    with pytest.raises(ej.errors.DataDependentError, match="pairs of positions"):
        ej.analytic(f, SPEC, positions="together", **MEAN_FIELD)


def test_one_position_is_what_it_was():
    """Where pairs never meet, mean field takes positions apart, and together they give the same."""
    kernels = [weights(i, 3, 4, 4) for i in range(3)]

    def f(x):
        return conv(jnp.tanh(conv(jnp.tanh(conv(x, kernels[0])), kernels[1])), kernels[2])

    apart, together = (ej.analytic(f, SPEC, positions=how, **MEAN_FIELD) for how in ("auto", "together"))
    assert apart.metadata["positions"] == "apart"
    np.testing.assert_allclose(together.map, apart.map, rtol=1e-6)


def test_channels_that_are_summed_behind_a_linear_end():
    kernels = [weights(i, 3, 4, 4) for i in range(3)]
    f, options = network(jnp.tanh, kernels), {**MEAN_FIELD, "positions": "together"}
    for channels in ("sum", "random-signs"):
        plain, scaled = (ej.analytic(h, SPEC, **{**options, "channels": channels}) for h in (f, lambda x: f(x) / 1.5))
        np.testing.assert_allclose(scaled.map * 1.5**2, plain.map, rtol=1e-5)


def test_channels_that_are_joined_are_those_of_two_kernels_added():
    """Signs, so that parts of a kernel have the same mean square as the whole."""
    first, second, w = (jnp.sign(weights(i, 3, *shape)) / 4 for i, shape in enumerate([(4, 6), (4, 2), (8, 5)]))

    def joined(x):
        return conv(blurred(jnp.concatenate([jnp.tanh(conv(x, first)), jax.nn.gelu(conv(x, second))], -1)), w)

    def added(x):
        one = conv(blurred(jnp.tanh(conv(x, first))), w[:, :6])
        return one + conv(blurred(jax.nn.gelu(conv(x, second))), w[:, 6:])

    behind = jnp.sign(weights(3, 3, 5, 3)) / 2
    for end in (lambda y: y, lambda y: conv(blurred(jax.nn.relu(y)), behind)):
        one, two = (ej.analytic(lambda x, f=f, end=end: end(f(x)), SPEC, **MEAN_FIELD) for f in (joined, added))
        assert one.metadata["positions"] == two.metadata["positions"] == "together"
        np.testing.assert_allclose(one.map, two.map, rtol=1e-6)
