"""Closed forms with positions together against gradients of fresh draws, over families of networks that no other test has.

Every draw of weights and inputs has its own closed form and its own measured gradients: their ratio hardly varies from draw to
draw, where totals do. What says "exact" has to be so within the bars, or within what a note says of the limit of width; what is
not has to say so and where.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax.measures import total_variation
from tests.tracing import families as of

WIDTH, ROWS, SIGNS = 64, 2, 4
FEW, FAR, SHARED, GROUPED = (
    "few terms",
    "the limit of width is far: 1 / terms adds up to ",
    "more than once",
    "depthwise",
)
TOKENS, IMAGE = "NLC", "NHWC"
FAMILIES = {
    "GCN": (of.graph, TOKENS, (12,), (5,), ""),
    "QRNN": (of.gated_recurrence, TOKENS, (8,), (7,), ""),
    "GRU": (of.gru, TOKENS, (3,), (0,), SHARED),
    "one convolution twice": (of.tied, TOKENS, (12,), (5,), SHARED),
    "h · gate(h) · dense(h)": (of.gated_product, TOKENS, (12,), (5,), ""),
    "attention pooling": (of.attention_pool, TOKENS, (12,), (0,), ""),
    "FNet": (of.fourier, TOKENS, (8,), (5,), ""),
    "post-LN transformer": (of.post_norm, TOKENS, (8,), (5,), ""),
    "cross attention": (of.cross, TOKENS, (12,), (2,), ""),
    "retention": (of.retention, TOKENS, (8,), (7,), ""),
    "ALiBi": (of.alibi, TOKENS, (9,), (8,), ""),
    "Llama": (of.llama, TOKENS, (9,), (8,), ""),
    "mixer": (of.mixer, TOKENS, (32,), (5,), ""),
    "CoordConv": (of.coord_conv, IMAGE, (6, 8), (3, 4), ""),
    "pooled shortcuts": (of.pooled_shortcuts, IMAGE, (8, 12), (1, 1), ""),
    "U-Net, bilinear": (of.unet, IMAGE, (8, 6), (3, 2), ""),
    "blur pool": (of.blur_pool, IMAGE, (8, 6), (2, 2), ""),
    "FPN": (of.pyramid, IMAGE, (8, 12), (3, 5), ""),
    "PixelShuffle": (of.pixel_shuffle, IMAGE, (6, 8), (3, 4), ""),
    "ASPP": (of.aspp, IMAGE, (6, 8), (3, 4), ""),
    "group norm": (of.group_norm, IMAGE, (4, 6), (1, 3), ""),
    "inception": (of.inception, IMAGE, (6, 8), (3, 4), ""),
    "DenseNet": (of.dense_net, IMAGE, (6, 8), (1, 2), ""),
    "ConvNeXt": (of.convnext, IMAGE, (6, 8), (3, 4), GROUPED),
    "MBConv": (of.mbconv, IMAGE, (6, 8), (3, 4), GROUPED),
    "squeeze-excite": (of.squeeze_excite, IMAGE, (6, 8), (3, 4), ""),
    "Swin": (of.swin, IMAGE, (4, 6), (1, 3), ""),
    "MaxViT": (of.maxvit, IMAGE, (4, 6), (1, 3), ""),
}


@functools.cache
def model(network):
    def apply(values, x):
        return network(of.Weights(values=values), x)

    def values(key, x):
        weights = of.Weights(key)
        network(weights, x)
        return weights.values

    return apply, jax.jit(values)


def drawn(network, shape, key):
    values_key, x_key = jax.random.split(key)
    x = jax.random.normal(x_key, (ROWS, *shape))
    return model(network)[1](values_key, x[:1]), x


def closed(network, layout, unit, values, x, **options):
    options = {"weights": "exchangeable", "channels": "random-signs", "positions": "together", **options}
    f = jax.tree_util.Partial(model(network)[0], values)
    return ej.analytic(f, x, layout=layout, unit=unit, **options)


@functools.cache
def squares(network, unit):
    """Squared gradients of one network, averaged over rows and random signs: by `jax.vjp` alone."""

    def one(values, key, x):
        y, pull = jax.vjp(functools.partial(model(network)[0], values), x[None])
        signs = jax.random.rademacher(key, (SIGNS, y.shape[-1]), y.dtype)
        sent = jax.vmap(lambda s: jnp.zeros_like(y).at[(0, *unit)].set(s))(signs)
        return jnp.mean(jnp.sum(jax.vmap(pull)(sent)[0][:, 0] ** 2, -1), 0)

    return jax.jit(
        lambda values, key, x: jnp.mean(jax.vmap(one, (None, 0, 0))(values, jax.random.split(key, ROWS), x), 0)
    )


def against_draws(name, width=WIDTH, draws=64):
    """The field of the last draw; closed total / measured total, its standard error; total variation, that of noise alone."""
    network, layout, size, unit, _ = FAMILIES[name]
    found, measured = [], []
    for i in range(draws):
        key = jax.random.fold_in(jax.random.key(0), i)
        values, x = drawn(network, (*size, width), key)
        field = closed(network, layout, unit, values, x)
        found.append(field.map)
        measured.append(np.asarray(squares(network, unit)(values, jax.random.fold_in(key, 1), x), np.float64))
    a, b = np.array(found), np.array(measured)
    one, other = (each.reshape(draws, -1).sum(1) for each in (a, b))
    ratio = one.mean() / other.mean()
    error = ratio * np.std(one / one.mean() - other / other.mean()) / math.sqrt(draws)
    halves = [np.random.default_rng(i).permutation(draws) for i in range(8)]
    noise = [total_variation(b[h[::2]].mean(0), b[h[1::2]].mean(0)) / 2 for h in halves]
    return field, ratio, error, total_variation(a.mean(0), b.mean(0)), float(np.mean(noise))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_says_exact_is_what_fresh_draws_measure(name):
    why = FAMILIES[name][-1]
    field, ratio, error, distance, noise = against_draws(name)
    print(f"| {name} | {field.promise} | {ratio:.3f} ± {error:.3f} | {distance:.3f} | {noise:.3f} |")
    assert field.coverage == ("approximate" if why else "exact"), field.notes
    if why:
        assert why in field.notes[0]
        assert "` at " in field.notes[0]  # it names the equation and its line
    else:
        far = sum(float(note.removeprefix(FAR).split()[0]) for note in field.notes if note.startswith(FAR))
        assert error < 0.06  # so that the bar means something
        assert abs(ratio - 1) < max(0.05, 3 * error, far / 2)
        assert distance < noise + 0.02


def product(w, x):
    """No gates: a linear array times another one that is made of it."""
    d = x.shape[-1]
    h = w.conv(x, d, 1)
    return w.dense(h * w.dense(h, d), d)


def square(w, x):
    h = w.conv(x, x.shape[-1], 1)
    return w.dense(h * h, x.shape[-1])


def notes(network, width, layout=TOKENS, size=(5,), unit=(2,)):
    field = closed(network, layout, unit, *drawn(network, (*size, width), jax.random.key(0)))
    return field.coverage, field.notes


def test_products_of_arrays_that_share_weights_say_so_where_layers_are_narrow():
    coverage, said = notes(product, 12)
    assert coverage == "approximate"
    assert FEW in said[0]
    assert "`mul` at test_families.py" in said[0]
    coverage, said = notes(product, 64)
    assert coverage == "exact"
    assert not any(FEW in line for line in said)


def heads(w, x):
    """Every half of the channels has weights of its own."""
    h = of.split(w.dense(x, x.shape[-1]), 2)
    h = jnp.einsum("bihe,hef->bihf", h, w.draw((2, h.shape[-1], h.shape[-1]), h.shape[-1]))
    return w.dense((h * h).reshape(x.shape), x.shape[-1])


@pytest.mark.parametrize(("width", "says"), [(32, "approximate"), (64, "exact")])
def test_terms_of_a_sum_are_those_of_one_head(width, says):
    assert notes(heads, width)[0] == says


@pytest.mark.parametrize("network", [product, square])
def test_slopes_of_products_are_those_of_the_given_weights(network):
    assert any("that the given weights open" in line for line in notes(network, 64)[1])


def stack(w, x):
    for _ in range(8):
        x = jnp.tanh(w.dense(x, x.shape[-1]))
    return x


def test_a_note_says_how_far_the_limit_of_width_is():
    coverage, said = notes(stack, 32)
    assert coverage == "exact"
    (far,) = [line for line in said if FAR in line]
    assert far.startswith(f"{FAR}0.25 ")
    assert "`dot_general` at families.py" in far
    assert not any(FAR in line for line in notes(stack, 64)[1])
