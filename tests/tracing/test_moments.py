"""What the moments walk says of itself: coverage, silent branches, families, mean-field states, islands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special

from erfjax.errors import DataDependentError, UnsupportedPrimitiveError
from erfjax.readings.analytic import analytic
from erfjax.tracing.second_moments import random_weights

SPEC = jax.ShapeDtypeStruct((1, 13, 4), jnp.float32)


def weight(seed, *shape, scale=0.3, mean=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale + mean, jnp.float32)


def conv(x, w, stride=1, groups=1):
    dims = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x, w, (stride,), "SAME", dimension_numbers=dims, feature_group_count=groups)


def blur(x, size=3):
    return conv(x, jnp.full((size, 1, x.shape[-1]), 1 / size, x.dtype), groups=x.shape[-1])


def upsampled(x):
    """Every entry twice, as a transposed convolution with two taps and stride two."""
    ones, dims = jnp.ones((2, 1, x.shape[-1]), x.dtype), ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(
        x, ones, (1,), ((1, 1),), (2,), dimension_numbers=dims, feature_group_count=x.shape[-1]
    )


def pooled(x, kind, size=2, stride=2):
    window = ((1, size, 1), (1, stride, 1), "SAME")
    if kind == "max":
        return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, *window)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *window) / size


W1, W2, W3 = weight(1, 3, 4, 6), weight(2, 3, 6, 6), weight(3, 3, 6, 5)


def plain(x, between=lambda y: y, after=lambda y: y):
    return conv(after(conv(between(conv(x, W1)), W2)), W3)


def layer_norm(y):
    y = y - y.mean(-1, keepdims=True)
    return y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-3)


def attention(y):
    scores = jax.nn.softmax(jnp.einsum("nlc,nmc->nlm", y, y))
    return jnp.einsum("nlm,nmc->nlc", scores, y)


def stretched(y):
    return jax.image.resize(y, (1, 20, 6), "linear")


X = weight(9, 2, 13, 4, scale=1.0)
read = functools.partial(analytic, layout="NWC", channels="random-signs")

EXACT = {
    "plain": plain,
    "gates": functools.partial(plain, between=jax.nn.relu, after=lambda y: jnp.maximum(y, 0.1 * y)),
    "gates after random shifts": functools.partial(plain, between=lambda y: jax.nn.relu(y + weight(4, 1, 1, 6))),
    "gates after zero shifts": functools.partial(
        plain, between=lambda y: jax.nn.relu(2.0 * (y + jnp.zeros((1, 1, 6))))
    ),
    "average": functools.partial(plain, between=lambda y: pooled(y, "average")),
    "an average that overlaps": functools.partial(plain, between=blur),
    "two averages that do not overlap": functools.partial(
        plain, after=lambda y: pooled(pooled(y, "average"), "average")
    ),
    "transposed convolutions that do not overlap": functools.partial(plain, after=lambda y: upsampled(upsampled(y))),
    "resize along one axis": functools.partial(plain, after=stretched),
    "residual": lambda x: (lambda y: conv(y + conv(jax.nn.relu(y), W2), W3))(conv(x, W1)),
    "one function twice": functools.partial(plain, between=lambda y: y + jax.nn.relu(y) - 0.3 * jnp.abs(y)),
    "choice by the data": functools.partial(plain, between=lambda y: jnp.where(y > 0, y, 0.1 * y)),
    "concatenation": lambda x: (lambda y: conv(jnp.concatenate([y, jax.nn.relu(y)], -1), weight(6, 3, 12, 4)))(
        conv(x, W1)
    ),
    "shift": functools.partial(plain, between=lambda y: jnp.roll(y, 2, axis=1)),
    "batch norm": functools.partial(plain, between=lambda y: (y - 0.3) * weight(4, 1, 1, 6, mean=1.0) + 0.1),
}

ASSUMED = {  # gates that know more of the weights than the sign of their sum: exact as the width grows
    "gates that know sizes": functools.partial(plain, between=jax.nn.soft_sign),
    "gates after a shift": functools.partial(plain, between=lambda y: jax.nn.relu(y + 0.4)),
    "gates of a sum of activations": lambda x: (lambda y: conv(jax.nn.relu(y + conv(y, W2)), W3))(
        jax.nn.relu(conv(x, W1))
    ),
    "max-pool": functools.partial(plain, between=lambda y: pooled(y, "max", 4, 2)),
}

APPROXIMATE = {
    "overlapping averages": (functools.partial(plain, between=lambda y: blur(blur(y))), "interfere"),
    "two averages, weights between": (functools.partial(plain, between=blur, after=blur), "interfere"),
    "average of gates": (
        functools.partial(plain, after=lambda y: pooled(jax.nn.relu(y), "average")),
        "one fixed window",
    ),
    "resize and blur": (functools.partial(plain, after=lambda y: blur(stretched(y))), "interfere"),
    "centred": (functools.partial(plain, between=lambda y: y - y.mean(-1, keepdims=True)), "summed without weights"),
    "input added twice": (
        lambda x: (lambda y: (lambda z: conv(z + y, W3))(y + conv(jax.nn.relu(y), W2)))(conv(x, W1)),
        "summed without weights",
    ),
    "normalised": (functools.partial(plain, between=layer_norm), "product of two terms"),
    "attention": (functools.partial(plain, between=attention), "product of two terms"),
    "gated by another branch": (
        lambda x: (lambda y: conv(y * jax.nn.sigmoid(conv(y, W2)), W3))(conv(x, W1)),
        "product of two terms",
    ),
    "shared weights": (lambda x: conv(jax.nn.relu(conv(jax.nn.relu(conv(conv(x, W1), W2)), W2)), W3), "more than once"),
    "trained, offset": (
        lambda x: conv(conv(x, weight(1, 3, 4, 60, mean=0.2)), weight(2, 3, 60, 5)),
        "no independent draws",
    ),
    "trained, smooth": (
        lambda x: conv(conv(x, weight(1, 1, 4, 60) * jnp.ones((3, 1, 1))), weight(2, 3, 60, 5)),
        "neighbours",
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_theory_covers_is_called_exact(name):
    field = read(EXACT[name], X)
    assert field.coverage == "exact", field.notes


@pytest.mark.parametrize("name", ASSUMED)
def test_what_theory_assumes_of_gates_is_noted_with_its_place(name):
    field = read(ASSUMED[name], X)
    assert field.coverage == "exact"
    (note,) = [note for note in field.notes if "limit of width" in note]
    assert "test_moments.py:" in note
    assert not any("limit of width" in note for note in read(EXACT["gates"], X).notes)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_what_theory_does_not_cover_is_named_with_its_place(name):
    f, words = APPROXIMATE[name]
    field = read(f, X)
    assert field.coverage == "approximate"
    (reason,) = [note for note in field.notes if words in note]
    assert "test_moments.py:" in reason
    assert read(f, X, statistic="mean").coverage == "exact"  # first moments do not interfere


def test_layers_are_named_by_their_scopes():
    def f(x):
        y = conv(x, W1)
        with jax.named_scope("encoder"), jax.named_scope("norm"):
            y = layer_norm(y)
        return conv(y, W2)

    assert any("encoder/norm" in note for note in read(f, X).notes)


def test_exact_means_equal_to_many_draws():
    """The second moment over random signs of all weights, gates open: what `exact` promises, with a branch and an average."""
    rng = np.random.default_rng(0)
    w = [rng.uniform(0.5, 1.5, s).astype(np.float32) for s in ((3, 2, 3), (3, 3, 3), (3, 3, 2))]
    x = jnp.ones((1, 9, 2))

    def net(weights, x):
        y = conv(x, weights[0])
        y = y + blur(conv(y, weights[1]))
        return conv(y[:, ::2], weights[2])

    def gradient(key):
        keys = jax.random.split(key, 3)
        signs = [jax.random.rademacher(k, a.shape, a.dtype) * a for k, a in zip(keys, w, strict=True)]
        return jnp.square(jax.grad(lambda x: net(signs, x)[0, 2].sum())(x)).sum((0, -1))

    samples = np.asarray(jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(0), 4000)), np.float64)
    signed = [a * jax.random.rademacher(jax.random.key(i), a.shape, a.dtype) for i, a in enumerate(w)]
    field = analytic(lambda x: net(signed, x), x, unit=2, layout="NWC")
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert field.coverage == "exact"
    assert (np.abs(field.map - samples.mean(0)) <= 5 * error).all()


def test_a_silent_branch_is_reported_and_a_loud_one_is_not():
    def net(scale):
        def f(x):
            y = conv(x, W1)
            with jax.named_scope("branch"):
                z = conv(jax.nn.relu(y), W2) * scale
            return y + z

        return f

    silent = read(net(jnp.zeros((1, 1, 6))), X)
    (note,) = [note for note in silent.notes if "silent" in note]
    assert "identity path" in note
    assert "branch" in note
    np.testing.assert_allclose(silent.map, read(lambda x: conv(x, W1), X).map, rtol=1e-6)
    assert not any("silent" in note for note in read(net(jnp.ones((1, 1, 6))), X).notes)


def test_a_dead_unit_is_reported():
    dead = read(lambda x: jax.nn.relu(conv(x, W1) - 100.0), X)
    assert not dead.map.any()
    assert any("dead" in note for note in dead.notes)
    zero = jnp.zeros((3, 6, 2))
    silent = read(lambda x: conv(conv(x, W1), zero), X)
    assert any("silent" in note for note in silent.notes)


def test_channels_that_share_a_path_interfere_without_data():
    def f(x):
        return conv(x, W1)[..., :1] * jnp.ones((1, 1, 5))

    random = analytic(f, SPEC, layout="NWC", gates="mean-field")
    assert random.coverage == "approximate"
    exact = analytic(f, X, layout="NWC")  # with data what is fixed is added before it is squared
    np.testing.assert_allclose(exact.map, 25 * read(lambda x: conv(x, W1)[..., :1], X).map, rtol=1e-5)


def test_independent_draws_pass_and_others_fail():
    rng = np.random.default_rng(1)
    passed = [min(p for _, p in random_weights.independence(rng.normal(size=(3, 3, 8, 8)), (2, 3))) for _ in range(200)]
    assert np.mean(np.array(passed) < 0.01) < 0.06
    smooth = rng.normal(size=(3, 3, 8, 8)).cumsum(axis=0)
    assert min(p for _, p in random_weights.independence(smooth, (2, 3))) < 1e-6


def test_many_tests_of_independence_fail_by_chance_no_more_often_than_one():
    chance = ("layer", "mean", 0.5 * random_weights.CHANCE)
    assert random_weights.unlikely([chance])
    assert not random_weights.unlikely([chance, *[("layer", "mean", 0.5)] * 9])


ONE_PIXEL = jnp.zeros((1, 9, 1)).at[0, 4, 0].set(1.7)
A, B = (jnp.asarray(taps, jnp.float32).reshape(3, 1, 1) for taps in ([0.4, -0.7, 1.3], [-0.9, 0.3, 0.5]))
KNOWN_WEIGHTS = {
    "gate": lambda x: jax.nn.relu(-conv(x, A)),
    "square": lambda x: jnp.square(conv(x, A)),
    "product": lambda x: conv(x, A) * conv(x, B),
    "contraction": lambda x: jnp.einsum("nlc,nlc->nl", conv(x, A), conv(x, B))[..., None],
}


@pytest.mark.parametrize("name", KNOWN_WEIGHTS)
def test_weights_that_their_result_determines_have_no_variance_left(name):
    """Of one pixel a result is one weight times it, so that weight is known: the second moment there is the squared gradient."""
    f = KNOWN_WEIGHTS[name]
    field = analytic(f, ONE_PIXEL, layout="NWC", channels="sum")
    gradient = jax.grad(lambda x: f(x)[0, 4, 0])(ONE_PIXEL)
    assert float(gradient[0, 4, 0]) != 0
    assert field.map[4] == pytest.approx(float(gradient[0, 4, 0]) ** 2, rel=1e-5)
    assert any("coherent part" in note for note in field.notes)


def test_mean_field_max_pool_takes_entries_evenly():
    f = functools.partial(plain, between=lambda y: pooled(y, "max", 3, 2))
    g = functools.partial(plain, between=lambda y: pooled(y, "average", 3, 2) * np.float32(np.sqrt(3.0)))
    maximum, average = (analytic(h, SPEC, layout="NWC", gates="mean-field") for h in (f, g))
    np.testing.assert_allclose(maximum.map, average.map, rtol=1e-5)
    assert any("equally often" in note for note in maximum.notes)


def test_mean_field_without_data_refuses_what_data_steer():
    def f(x):
        return lax.dynamic_slice(conv(x, W1), (0, jnp.argmax(x[0, :, 0]), 0), (1, 3, 6))

    def g(x):
        y = conv(x, W1)
        return y * jax.nn.one_hot(jnp.argmax(y, -1), 6)

    for h in (f, g):
        with pytest.raises(DataDependentError, match="steered by the data"):
            analytic(h, SPEC, layout="NWC", gates="mean-field")
        assert read(h, X).map.any()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_mean_field_of_a_choice_by_another_variable_counts_how_often_it_is_made(threshold):
    """P(a > t) for a normal with the variance of 12 inputs times 1/12, as b has."""
    signs = [jnp.sign(w) / np.float32(np.sqrt(12)) for w in (W1, weight(5, 3, 4, 6))]

    def f(choose):
        return lambda x: conv(choose(*(conv(x, w) for w in signs)), jnp.sign(W3))

    chosen, whole = (
        read(f(choose), SPEC, gates="mean-field")
        for choose in (lambda a, b: jnp.where(a > threshold, b, jnp.zeros_like(b)), lambda a, b: b)
    )
    assert chosen.coverage == "approximate"
    middle = slice(4, 9)  # whole windows
    expected = special.ndtr(-threshold) * whole.map[middle]
    np.testing.assert_allclose(chosen.map[middle], expected, rtol=1 / 256)


def test_gates_are_surveyed_in_every_precision():
    """NumPy does not take bfloat16 for a floating-point type."""
    w1, w3, scale = W1.astype(jnp.bfloat16), W3.astype(jnp.bfloat16), jnp.zeros((1, 1, 6), jnp.bfloat16)

    def f(x):
        y = conv(x, w1)
        return conv(jax.nn.gelu(y) + scale * conv(y, W2.astype(jnp.bfloat16)), w3)

    for gates in ("data", "mean-field"):
        field = read(f, X.astype(jnp.bfloat16), gates=gates)
        assert any("limit of width" in note for note in field.notes)
        assert any("silent branch" in note for note in field.notes)
    exchangeable = read(lambda x: conv(conv(x, w1), w3), X.astype(jnp.bfloat16), weights="exchangeable")
    assert len(np.unique(exchangeable.map[4:9])) > 1  # mean squares by tap


@pytest.mark.parametrize("frequency", [3.0, 20.0])
def test_mean_field_resolves_what_oscillates(frequency):
    """φ = z + sin²(a z)/a: E φ'² = 1 + 2 E sin(2 a z) + E sin²(2 a z) = 1 + (1 - exp(-8 a² q))/2 for z of variance q."""

    def gain(phi):
        signs = [jnp.sign(w) for w in (W1, W3)]
        return read(lambda x: conv(phi(conv(x, signs[0])), signs[1]), SPEC, gates="mean-field").map.sum()

    ratio = gain(lambda z: z + jnp.sin(frequency * z) ** 2 / frequency) / gain(lambda z: z)
    assert ratio == pytest.approx(1.5, rel=2e-5)


def test_complex_numbers_are_refused():
    with pytest.raises(UnsupportedPrimitiveError, match="complex"):
        read(lambda x: jnp.abs(lax.complex(conv(x, W1), conv(x, W1))), X)
